"""What a shard of ours says is never more than the controller takes, whatever its tests have reported."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from pytest_sandboxes.batch import events, recording
from pytest_sandboxes.batch.durations import Durations
from pytest_sandboxes.batch.events import Context, Record, Report, Warned
from pytest_sandboxes.batch.recording import Rewriting

pytest_plugins = ["pytester"]

NOWHERE = Rewriting([])
PASSED = [Report(when="setup", outcome="passed"), Report(when="teardown", outcome="passed")]


class Shard:
    """What a shard makes of reports, and the controller of that."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def report(self, when: Any = "call", outcome: Any = "passed", **more: Any) -> Report | None:
        """A report as it is sent."""
        data = {
            "nodeid": "test_it.py::test",
            "location": ("", 0, ""),
            "keywords": {},
            "longrepr": None,
            **more,
        }
        return recording.report(self._config, pytest.TestReport(when=when, outcome=outcome, **data), NOWHERE)

    def call(self, **more: Any) -> Report:
        """The call of a test, as the controller reads it."""
        made = self.report(**more)
        assert made is not None
        (_, call, _) = received([PASSED[0], made, PASSED[1]])
        return call


def received(*attempts: list[Report]) -> list[Report]:
    event = events.decode(recording.record(0, attempts))
    assert isinstance(event, Record)
    return event.reports


@pytest.fixture
def shard(pytester: pytest.Pytester) -> Shard:
    return Shard(pytester.parseconfigure())


def test_texts_beyond_what_may_be_sent_are_cut_and_the_cut_is_seen(shard: Shard) -> None:
    text = "a" * events.MOST_BYTES + "b"
    call = shard.call(outcome="failed", longrepr=text, sections=[("Captured stdout", text)])
    assert isinstance(call.longrepr, str)
    assert call.longrepr.startswith("aaaa")
    assert "characters are cut here" in call.longrepr
    assert call.longrepr.endswith("b")


def test_masses_of_small_things_leave_the_verdict(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_BYTES", 100_000)
    properties = [(f"name{number}", "x" * 90) for number in range(1000)]
    call = shard.call(outcome="failed", longrepr="why", user_properties=properties)
    assert (call.outcome, call.longrepr) == ("failed", "its report was too long for a shard to send")


def test_of_too_many_subtests_those_that_failed_are_sent() -> None:
    failed, passed = (
        Report(when="call", outcome=outcome, longrepr="why", subtest=Context(msg=None, kwargs={}))
        for outcome in ("failed", "passed")
    )
    subtests = [passed if number % 3 else failed for number in range(events.MOST_REPORTS + 5000)]
    call = Report(when="call", outcome="failed", longrepr="contains failures")
    reports = received([PASSED[0], *subtests, call, PASSED[1]])
    assert len(reports) == events.MOST_REPORTS
    assert sum(report.outcome == "failed" for report in reports) == 5001
    assert reports[-2:] == [call, PASSED[1]]


def test_of_too_many_attempts_the_last_one_is_sent() -> None:
    again = [PASSED[0], Report(when="call", outcome="rerun"), PASSED[1]]
    whole = [PASSED[0], Report(when="call", outcome="passed"), PASSED[1]]
    reports = received(*[again] * 1500, whole)
    assert (len(reports), reports[-3:]) == (3 * events.MOST_ATTEMPTS, whole)


def test_an_outcome_that_a_plugin_has_made_up_is_not_sent(shard: Shard) -> None:
    assert shard.report(outcome="warnings") is None


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 1e300, "1", None])
def test_a_time_that_is_none_is_made_one(shard: Shard, seconds: object) -> None:
    call = shard.call(duration=seconds, start=seconds)
    assert 0 <= call.duration <= events.MOST_SECONDS
    assert 0 <= call.start <= events.MOST_SECONDS


def test_properties_of_odd_types_become_text(shard: Shard) -> None:
    odd = [("path", Path("/x")), ("huge", 1 << 80), ("nan", float("nan")), ("list", [1]), (5, b"\xff")]
    found = dict(shard.call(user_properties=odd).user_properties)
    assert found == {"path": "/x", "huge": str(1 << 80), "nan": "nan", "list": "[1]", "5": "b'\\xff'"}


def test_a_warning_beyond_what_may_be_sent_is_cut() -> None:
    message = UserWarning("w" * (2 * events.MOST_BYTES))
    event = events.decode(
        recording.warned(warnings.WarningMessage(message, UserWarning, __file__, 1), 0, NOWHERE)
    )
    assert isinstance(event, Warned)
    assert len(event.message) < 1.1 * (1 << 20)


def test_no_test_is_recorded_as_longer_than_its_run(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfigure()
    begun = time.monotonic()
    durations = Durations(config)
    durations.measured("test_it.py::test_a", [1e9, 0.5])
    durations.save()
    (longest,) = Durations(config).recorded.values()
    assert longest <= time.monotonic() - begun

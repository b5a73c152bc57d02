"""What a shard says to its controller of tests that plugins repeat, and of tests that are much to tell of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_sandboxes.batch import shard
from pytest_sandboxes.batch.events import Finished, Record, Warned
from pytest_sandboxes.batch.ledger import Ledger
from tests.integration.conftest import Inner
from tests.wheelhouses import WITHOUT

EXITS = """
import pytest

def test_first(): pass

def test_exits(): pytest.exit("enough of it", returncode=7)

def test_last(): pass
"""
RETRIES = """
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call" and report.failed:
        for outcome in ("retried", "something"):
            again = pytest.TestReport.from_item_and_call(item, call)
            again.outcome = outcome
            item.ihook.pytest_runtest_logreport(report=again)
    return report
"""
WARNS = """
import warnings

from pytest_sandboxes.batch import events

events.MOST_WARNINGS = 10

def test_warns():
    for number in range(20):
        warnings.warn(DeprecationWarning(f"number {number}"))

def test_warns_too():
    warnings.warn("more")
"""


class Said:
    """What the ledger of a controller makes of a shard."""

    def __init__(self, ledger: Ledger, events: list[Record | Warned]) -> None:
        self.finished: Finished | None = ledger.finished
        self.is_done = ledger.is_done
        self.records = [each for each in events if isinstance(each, Record)]
        self.warnings = [each.message for each in events if isinstance(each, Warned)]


RunShard = Callable[..., Said]


@pytest.fixture
def run_shard(inner: Inner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunShard:
    """Runs tests of `test_it.py` as the program of a shard does, in the environment that is here."""

    def run(*names: str) -> Said:
        nodeids = [f"test_it.py::{name}" for name in names]
        reads, writes = os.pipe()
        control, stays_open = os.pipe()
        spec = {
            "nodeids": nodeids,
            "digest": shard.digest(nodeids),
            "events": writes,
            "control": control,
            "bundle": "0",
            "paths": [],
        }
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        monkeypatch.setenv(shard.SPEC, str(tmp_path / "spec.json"))
        without = [word for name in WITHOUT for word in ("-p", f"no:{name}")]
        command = [sys.executable, "-m", "pytest", *without, "-p", "pytest_sandboxes.batch.shard"]
        ledger = Ledger(nodeids, shard.versions("0"), nodeids)
        with (
            subprocess.Popen(command, cwd=inner.path, pass_fds=(writes, control), stdout=subprocess.DEVNULL),
            open(reads, "rb") as events,
        ):
            os.close(writes)
            said = list(ledger.feed(events.read()))
        os.close(control)
        os.close(stays_open)
        return Said(ledger, said)

    return run


def test_a_test_may_end_the_run(inner: Inner, run_shard: RunShard) -> None:
    inner.write("test_it.py", EXITS)
    said = run_shard("test_first", "test_exits", "test_last")
    assert [each.test for each in said.records] == [0]
    assert said.finished == Finished(stop="enough of it", returncode=7)


def test_what_plugins_report_on_the_way_to_a_verdict_is_sent_if_it_is_known(
    inner: Inner, run_shard: RunShard
) -> None:
    inner.write("conftest.py", RETRIES)
    inner.write("test_it.py", "def test_fails(): raise AssertionError\n\ndef test_passes(): pass\n")
    said = run_shard("test_fails", "test_passes")
    assert said.is_done
    outcomes = [[(each.when, each.outcome) for each in record.reports] for record in said.records]
    assert ("call", "retried") in outcomes[0]
    assert [each for each in outcomes[0] if each != ("call", "retried")] == [
        ("setup", "passed"),
        ("call", "failed"),
        ("teardown", "passed"),
    ]
    assert outcomes[1] == [("setup", "passed"), ("call", "passed"), ("teardown", "passed")]


def test_more_warnings_than_a_shard_may_send_are_one(inner: Inner, run_shard: RunShard) -> None:
    inner.write("test_it.py", WARNS)
    said = run_shard("test_warns", "test_warns_too")
    assert said.is_done
    more = "this shard has more warnings than it can send: the others are not shown"
    assert said.warnings == [*[f"number {number}" for number in range(9)], more]

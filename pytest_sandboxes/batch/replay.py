"""A shard's events, put through the hooks of this pytest as if the tests had run here."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from pytest_sandboxes.batch.durations import Durations
from pytest_sandboxes.batch.events import BrokenEvent, Record, Report, Warned, warning_class
from pytest_sandboxes.display import one_line, printable
from pytest_sandboxes.reporting import rerunning
from pytest_sandboxes.reporting.scrub import scrub, scrub_warning


class Replay:
    """Reports tests of `session`, whole tests at a time."""

    def __init__(self, session: pytest.Session, durations: Durations) -> None:
        self._session = session
        self._config = session.config
        self._durations = durations

    def test(self, item: pytest.Item, event: Record) -> None:
        """Report a test. Raises what ends the session, such as `--maxfail`."""
        attempts = [[self._made(item, report) for report in each] for each in event.attempts]
        self._durations.measured(
            item.nodeid, (each.duration for each in event.reports if each.subtest is None)
        )
        self._report(item, attempts)

    def error(self, item: pytest.Item, reason: str) -> None:
        """Report a test that nobody knows the outcome of. Raises what ends the session."""
        failed = Report(when="setup", outcome="failed", longrepr=reason)
        over = Report(when="teardown", outcome="passed")
        self._report(item, [[self._made(item, failed), self._made(item, over)]])

    def _report(self, item: pytest.Item, attempts: Sequence[Sequence[pytest.TestReport]]) -> None:
        hook = item.ihook
        for number, reports in enumerate(attempts):
            if number:
                rerunning.forget_reports_of_subtests(self._session, item.nodeid)
            hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            for report in reports:
                hook.pytest_runtest_logreport(report=report)
            hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        if self._session.shouldfail:
            raise self._session.Failed(self._session.shouldfail)
        if self._session.shouldstop:
            raise self._session.Interrupted(self._session.shouldstop)

    def _made(self, item: pytest.Item, said: Report) -> pytest.TestReport:
        """A report of pytest's own class; who it is about is not for the shard to say."""
        longrepr: Any = said.longrepr
        data: dict[str, Any] = {
            **said.extra,
            "nodeid": item.nodeid,
            "location": item.location,
            "keywords": dict.fromkeys(said.keywords or item.keywords, 1),
            "outcome": said.outcome,
            "when": said.when,
            "longrepr": None,
            "sections": said.sections,
            "duration": said.duration,
            "start": said.start,
            "stop": said.stop,
            # JUnit's file would be broken by such a name
            "user_properties": [(printable(name), value) for name, value in said.user_properties],
        }
        if isinstance(longrepr, msgspec.Struct):
            data["longrepr"] = msgspec.to_builtins(longrepr)
        if said.wasxfail is not None:
            data["wasxfail"] = said.wasxfail
        if said.subtest is None:
            data["$report_type"] = "TestReport"
        else:
            data["_report_type"] = "SubTestReport"
            data["_subtest.context"] = msgspec.to_builtins(said.subtest)
        try:
            report: pytest.TestReport = self._config.hook.pytest_report_from_serializable(
                config=self._config, data=data
            )
            str(report.longrepr)  # what cannot be printed would end the run in the middle of a hook
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the shard's
            raise BrokenEvent(f"a report that pytest cannot read: {one_line(repr(error))}") from None
        if not isinstance(longrepr, msgspec.Struct):
            # pytest looks into texts for words of its own
            report.longrepr = longrepr if said.skip is None else said.skip
        scrub(report)  # of a test without a sandbox as well: where hostile code runs, it may speak for any
        return report

    def warning(self, item: pytest.Item | None, event: Warned) -> None:
        """Report a warning. Its file is not looked into: the shard has sent the line."""
        category = warning_class(event)
        message = warnings.WarningMessage(
            category(event.message), category, event.filename, event.lineno, line=event.line
        )
        scrub_warning(message)
        self._config.hook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": message,
                "when": "runtest",
                "nodeid": "" if item is None else item.nodeid,
                "location": None,
            }
        )

"""Reports held back, and rewritten when the attempt that they tell of does not count."""

from __future__ import annotations

from typing import Any

import pytest
from _pytest._code.code import ReprExceptionInfo, ReprFileLocation, ReprTracebackNative

from pytest_sandboxes.reporting.attempts import History, Verdict, explain


def rewrite(item: pytest.Item, reports: list[pytest.TestReport], verdict: Verdict, history: History) -> None:
    """Make an attempt's reports say what it came to, in place, because others hold them already.

    The end is a failed setup, which every consumer takes for an error, or a failed call. The other reports of the
    attempt say nothing any more.
    """
    longrepr = _repr(item, history, verdict, reports)
    bearer = reports[0]
    if verdict is Verdict.FAILED:
        # the last of them: what subtests log is made from reports of the call, too
        bearer = next((report for report in reversed(reports) if report.when == "call"), bearer)
    for report in reports:
        silence(report)
    bearer.outcome = "failed"
    bearer.longrepr = longrepr
    if verdict is Verdict.FAILED:
        bearer.when = "call"


def silence(report: pytest.TestReport) -> None:
    """Make a report say nothing."""
    if hasattr(report, "wasxfail"):
        del report.wasxfail
    report.outcome = "passed"
    report.longrepr = None
    if report.when == "call":
        report.when = "setup"  # a passed call would count as a passed test


def _repr(
    item: pytest.Item, history: History, verdict: Verdict, reports: list[pytest.TestReport]
) -> ReprExceptionInfo:
    lines = explain(history, verdict).splitlines()
    crash = ReprFileLocation(
        item.location[0], (item.location[1] or 0) + 1, f"{lines[0]} ({lines[-1].strip()})"
    )
    seen = [line for report in reports if report.failed for line in report.longreprtext.splitlines()]
    if seen:
        lines += ["", "What the test made of it, which does not count:", *(f"    {line}" for line in seen)]
    return ReprExceptionInfo(ReprTracebackNative([f"{line}\n" for line in lines]), crash)


class HeldReports:
    """Keeps what a test logs by itself, such as subtests, from now until `stop`."""

    def __init__(self, session: pytest.Session) -> None:
        self.reports: list[pytest.TestReport] = []
        self._session = session
        original = type(session).gethookproxy

        def gethookproxy(path: Any) -> Any:
            return _Relay(original(session, path), self.reports)

        # `Item.ihook` asks the session each time, and subtests keep what they were given
        session.gethookproxy = gethookproxy  # type: ignore[method-assign, assignment]

    def stop(self) -> None:
        """Let reports through again."""
        del self._session.gethookproxy


class _Relay:
    """A hook relay that keeps reports."""

    def __init__(self, relay: Any, kept: list[pytest.TestReport]) -> None:
        self._relay = relay
        self._kept = kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._relay, name)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._kept.append(report)

"""Running sandbox tests so that their reports tell infrastructure failures from wrong answers.

`attempts` has the rule; here it is put to work among pytest's hooks and its other plugins. An attempt begins with a test's
setup and is judged when its teardown has been reported; the reports of an attempt that lost something are rewritten. They
are held back until then, those of subtests included, because what has been logged cannot be taken back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import pytest
from _pytest._code.code import ReprExceptionInfo, ReprFileLocation, ReprTracebackNative
from _pytest.runner import runtestprotocol

from pytest_sandboxes.reporting.attempts import History, Verdict, explain, judge
from pytest_sandboxes.reporting.junit import PREFIX, properties
from pytest_sandboxes.reporting.scrub import scrub
from pytest_sandboxes.run import FIXTURES, Run

_history = pytest.StashKey[History]()
_verdict = pytest.StashKey[Verdict]()
_reports = pytest.StashKey[list[pytest.TestReport]]()


class Outcomes:
    """A pytest plugin, registered once a run has sandbox tests."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Run a sandbox test, again where that is called for."""
        if not _is_sandbox_test(item) or _is_rerun_by_others(item):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        item.stash[_history] = History()
        while True:
            held = _HeldReports(item)
            with held:
                reports = runtestprotocol(item, nextitem=nextitem, log=False)
            if item.stash.get(_verdict, Verdict.COUNTS) is not Verdict.RETRY:
                break
            self._run.pool.count_infra_retry()
            _forget_attempt(item)
        if item.stash.get(_verdict, Verdict.COUNTS) is Verdict.COUNTS:
            reports[1:1] = held.reports
        else:
            reports = [report for report in reports if report is reports[0] or report.when != "setup"]
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Begin an attempt."""
        self._run.begin_attempt()
        item.stash[_reports] = []
        item.stash[_verdict] = Verdict.COUNTS

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Judge the attempt at its end, and rewrite its reports if they do not count."""
        report = yield
        reports = item.stash.get(_reports, None)
        if reports is None:
            return report
        scrub(report)
        reports.append(report)
        if call.when == "teardown" and (self._run.touched or self._run.failures):
            self._judge(item, reports)
        return report

    def _judge(self, item: pytest.Item, reports: list[pytest.TestReport]) -> None:
        run = self._run
        history = item.stash.setdefault(_history, History())
        verdict = judge(
            history,
            run.touched,
            run.made,
            run.failures,
            retries=run.settings.infra_retries,
            retry_safe=run.requirement(item).retry_safe,
        )
        item.stash[_verdict] = verdict
        found = [
            *((name, value) for name, value in item.user_properties if not name.startswith(PREFIX)),
            *properties(run.touched, history),
        ]
        item.user_properties[:] = found
        for report in reports:
            report.user_properties = list(found)
        if verdict is not Verdict.COUNTS:
            _rewrite(item, reports, verdict, history)

    @pytest.hookimpl
    def pytest_enter_pdb(self) -> None:
        """Somebody is looking: all clocks stop."""
        self._run.pool.pause()

    @pytest.hookimpl
    def pytest_leave_pdb(self) -> None:
        """The clocks go on."""
        self._run.pool.resume()


def _is_sandbox_test(item: pytest.Item) -> bool:
    return not FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


def _is_rerun_by_others(item: pytest.Item) -> bool:
    """pytest-rerunfailures runs this test in a protocol of its own, which then also repeats what was lost."""
    plugin: Any = item.config.pluginmanager.getplugin("rerunfailures")
    return plugin is not None and plugin.get_reruns_count(item) is not None


def _rewrite(item: pytest.Item, reports: list[pytest.TestReport], verdict: Verdict, history: History) -> None:
    """Make an attempt's reports say what it came to, in place, because others hold them already.

    The end is a failed setup, which every consumer takes for an error, or a failed call. The other reports of the
    attempt say nothing any more.
    """
    longrepr = _repr(item, history, verdict, reports)
    bearer = reports[0]
    if verdict is Verdict.FAILED:
        # the last of them: what subtests log is made from reports of the call, too
        bearer = next((report for report in reversed(reports) if report.when == "call"), bearer)
        bearer.when = "call"
    for report in reports:
        if hasattr(report, "wasxfail"):
            del report.wasxfail
        if report is bearer:
            report.outcome = "failed"
            report.longrepr = longrepr
            continue
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


class _HeldReports:
    """Keeps what a test logs by itself, such as subtests, until its attempt has been judged."""

    def __init__(self, item: pytest.Item) -> None:
        self.reports: list[pytest.TestReport] = []
        self._session = item.session

    def __enter__(self) -> None:
        original = self._session.gethookproxy

        def gethookproxy(path: Any) -> Any:
            return _Proxy(original(path), self.reports)

        # Item.ihook asks the session each time, and subtests keep what they were given
        self._session.gethookproxy = gethookproxy  # type: ignore[method-assign, assignment]

    def __exit__(self, *_: object) -> None:
        del self._session.gethookproxy


class _Proxy:
    """A hook relay that holds back reports."""

    def __init__(self, relay: Any, held: list[pytest.TestReport]) -> None:
        self._relay = relay
        self._held = held

    def __getattr__(self, name: str) -> Any:
        return getattr(self._relay, name)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._held.append(report)


def _forget_attempt(item: pytest.Item) -> None:
    """Undo what an attempt leaves on an item, so that the next one starts as the first did."""
    getattr(item, "_report_sections", []).clear()
    with contextlib.suppress(ImportError):
        from _pytest.subtests import failed_subtests_key

        failed_subtests: Any = item.config.stash.get(failed_subtests_key, {})
        failed_subtests.pop(getattr(item, "id", item.nodeid), None)  # the key's type depends on pytest's version
    timeouts: Any = item.config.pluginmanager.getplugin("timeout")
    if timeouts is not None:
        # it guards a test once, and stops at the first exception
        item.config.hook.pytest_timeout_cancel_timer(item=item)
        settings = timeouts._get_item_settings(item)
        if settings.timeout and not settings.func_only:
            item.config.hook.pytest_timeout_set_timer(item=item, settings=settings)

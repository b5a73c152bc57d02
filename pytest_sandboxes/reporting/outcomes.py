"""Running sandbox tests so that their reports tell infrastructure failures from wrong answers.

`attempts` has the rule; here it is put to work among pytest's hooks and its other plugins. An attempt begins with a
test's setup and is judged when its teardown has been reported; the reports of an attempt that lost something are
rewritten. They are held back until then, those of subtests included, because what has been logged cannot be taken back.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from dataclasses import dataclass, field

import pytest
from _pytest.runner import runtestprotocol

from pytest_sandboxes.errors import InfrastructureError
from pytest_sandboxes.reporting import rerunning
from pytest_sandboxes.reporting.attempts import Attempt, History, Verdict, judge
from pytest_sandboxes.reporting.junit import PREFIX, properties
from pytest_sandboxes.reporting.rewriting import HeldReports, rewrite, silence
from pytest_sandboxes.reporting.scrub import scrub, scrub_warning
from pytest_sandboxes.run import Run, is_sandbox_test

__tracebackhide__ = True  # a failing test shows its own line, not ours


@dataclass
class _Course:
    """How one test goes, over all attempts at it."""

    properties_before: int
    """User properties that the test had before its first attempt."""
    history: History = field(default_factory=History)
    verdict: Verdict | None = None
    """What the current attempt came to; None before it has been judged."""
    reports: list[pytest.TestReport] = field(default_factory=list)
    """Of the current attempt: one for each phase, and those from which subtests make theirs."""
    held: HeldReports | None = None
    """What the current attempt logs by itself; None where everything has been logged at once."""


_course = pytest.StashKey[_Course]()


class Outcomes:
    """A pytest plugin, registered once a run has sandbox tests."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._in_sandbox_test = False

    @property
    def _shows_sandbox(self) -> bool:
        """What the test under way prints may have come out of a sandbox."""
        return self._in_sandbox_test or bool(self._run.attempt.leases)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Run a sandbox test, again where that is called for."""
        if not is_sandbox_test(item) or rerunning.is_done_by_others(item):
            return None
        course = item.stash[_course] = _Course(len(item.user_properties))
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        while True:
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
            if course.verdict is not Verdict.RETRY or item.session.shouldstop or item.session.shouldfail:
                break
            self._run.pool.count_infra_retry()
        if course.verdict is Verdict.COUNTS and course.held is not None:
            reports[1:1] = course.held.reports
        elif course.verdict is not Verdict.COUNTS:
            reports = [report for report in reports if report is reports[0] or report.when != "setup"]
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Begin an attempt."""
        course = item.stash.setdefault(_course, _Course(len(item.user_properties)))
        self._run.attempt = Attempt(item.nodeid, alone=course.history.has_lost)
        if course.history.attempts:
            rerunning.forget_attempt(item)
            self._run.supply.end_kept(item.nodeid)
            del item.user_properties[course.properties_before :]
        rerunning.forget_failed_fixtures(item, InfrastructureError)
        course.verdict = None
        self._in_sandbox_test = is_sandbox_test(item)
        course.held = HeldReports(item.session) if self._in_sandbox_test else None
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Judge the attempt, and rewrite its reports if they do not count."""
        report = yield
        # a run's first sandbox may have been asked for in this test's setup, when nobody had begun an attempt
        course = item.stash.setdefault(_course, _Course(len(item.user_properties)))
        attempt = self._run.attempt
        if call.excinfo is not None and not attempt.has_lost:
            # it came through what is older than the test: a process of a wider fixture
            attempt.failures += _infrastructure_errors(call.excinfo.value)
        if self._shows_sandbox:  # now, because a debugger prints it before it is logged
            scrub(report)
        course.reports.append(report)
        if course.held is None:
            self._judge_logged(item, course, report, is_last=call.when == "teardown")
        elif call.when == "teardown":
            self._judge_held(item, course, course.held)
        if call.when == "teardown":
            self._add_properties(item, course)
            course.reports.clear()
        return report

    def _judge_held(self, item: pytest.Item, course: _Course, held: HeldReports) -> None:
        """Judge an attempt at its end; nothing of it has been logged."""
        held.stop()
        retries = self._run.settings.infra_retries
        course.verdict = self._judge(item, course, retries)
        if course.verdict is not Verdict.COUNTS:
            rewrite(item, course.reports, course.verdict, course.history)
        elif rerunning.is_done_by_others(item):
            for report in held.reports:
                item.ihook.pytest_runtest_logreport(report=report)

    def _judge_logged(
        self, item: pytest.Item, course: _Course, report: pytest.TestReport, *, is_last: bool
    ) -> None:
        """Judge the attempt of a test that came by a slot on its way, before the report is logged as others before it.

        Such a test cannot be repeated. Its first report after the loss makes it an error, and those that follow say
        nothing more.
        """
        if course.verdict is not None:
            silence(report)
            rerunning.forget_failed_subtests(item)
        elif self._run.attempt.has_lost or (is_last and self._run.attempt.leases):
            course.verdict = self._judge(item, course, retries=0)
            if course.verdict is not Verdict.COUNTS:
                rewrite(item, [report], course.verdict, course.history)

    def _judge(self, item: pytest.Item, course: _Course, retries: int) -> Verdict:
        retry_safe = self._run.requirement(item).retry_safe
        return judge(course.history, self._run.attempt, retries=retries, retry_safe=retry_safe)

    def _add_properties(self, item: pytest.Item, course: _Course) -> None:
        attempt = self._run.attempt
        if attempt.leases or attempt.failures:
            own = [(name, value) for name, value in item.user_properties if not name.startswith(PREFIX)]
            item.user_properties[:] = [*own, *properties(attempt.leases, course.history)]
            for report in course.reports:
                report.user_properties = list(item.user_properties)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Clean what has been put into a report since it was made, for subtests above all."""
        if self._shows_sandbox:
            scrub(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, when: str) -> None:
        """Clean the text of a test's warning, which code in a sandbox may have written."""
        if when == "runtest":
            scrub_warning(warning_message)

    @pytest.hookimpl(wrapper=True)
    def pytest_assertrepr_compare(self, config: pytest.Config) -> Generator[None, object, object]:
        """Colour no comparison: pytest's control characters could not be told from those of a sandbox."""
        if not self._shows_sandbox or not config.pluginmanager.hasplugin("terminalreporter"):
            return (yield)
        writer = config.get_terminal_writer()
        colours, writer.code_highlight = writer.code_highlight, False
        try:
            return (yield)
        finally:
            writer.code_highlight = colours

    @pytest.hookimpl
    def pytest_enter_pdb(self) -> None:
        """Somebody is looking: all clocks stop."""
        self._run.pool.pause()

    @pytest.hookimpl
    def pytest_leave_pdb(self) -> None:
        """The clocks go on."""
        self._run.pool.resume()


def _infrastructure_errors(error: BaseException) -> list[InfrastructureError]:
    """The infrastructure failures that `error` is or contains."""
    if isinstance(error, InfrastructureError):
        return [error]
    if isinstance(error, BaseExceptionGroup):
        return [found for each in error.exceptions for found in _infrastructure_errors(each)]
    return []

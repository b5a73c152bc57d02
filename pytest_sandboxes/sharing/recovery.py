"""What becomes of a sandbox test whose worker has crashed: hooks of the controller."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_sandboxes.sharing import crashes
from pytest_sandboxes.sharing.desk import Desk
from pytest_sandboxes.sharing.office import Office


class Recovery:
    """A plugin, registered before the first test that has been announced is run.

    Such a test is run once more; the second crash is an error. It has one result whenever the crash comes: one that has
    been reported whole is not repeated, and what has been reported of one that is repeated is taken back.
    """

    def __init__(self, config: pytest.Config, office: Office) -> None:
        self._config = config
        self._office = office
        self._under_way: set[str] = set()
        self._reports: dict[Any, list[pytest.TestReport]] = {}
        """For each worker, what it has reported of the last test that it has reported anything of."""
        self._desks: dict[Any, Desk] = {}
        """Of workers that have crashed."""
        self._records: dict[str, list[str]] = {}
        """For each test that is run once more: the crashes before."""
        self._crash_report: pytest.TestReport | None = None
        """About to be logged."""

    @pytest.hookimpl
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A worker has begun with a test."""
        self._under_way.add(nodeid)

    @pytest.hookimpl
    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A worker is through with a test."""
        self._under_way.discard(nodeid)

    def crashed(self, node: Any, desk: Desk) -> None:
        """A worker has crashed, and pytest-xdist is about to look at what it was at."""
        self._office.crashed(desk)
        crashes.wait_for_collection(self._config)
        crashes.ignore_the_dismissed(self._config)
        self._desks[node] = desk
        reports = self._reports.pop(node, [])
        if not reports:
            return
        if reports[-1].when == "teardown":
            self._under_way.discard(reports[-1].nodeid)
            crashes.complete(self._config, node, reports[-1])
        else:
            crashes.take_back(self._config, reports)

    @pytest.hookimpl(optionalhook=True, trylast=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport, sched: Any) -> None:
        """Run a sandbox test once more; the second time it is an error.

        Where another plugin has taken care of it, or the schedule has no way to run one test again, nothing is done.
        """
        desk = self._desks.pop(report.node, None)
        if desk is None or report.outcome != "failed":
            return
        has_begun = crashitem in self._under_way or crashitem in desk.holders_at_end
        self._under_way.discard(crashitem)
        if (has_begun or not self._office.is_sandbox_test(crashitem)) and not self._office.count_crash(
            desk, crashitem
        ):
            return
        self._crash_report = report
        records = self._records.setdefault(crashitem, [])
        records.append(f"worker {desk.name} crashed" + ("" if has_begun else " before it began"))
        if crashes.is_the_last(self._config):
            will_run_again = crashes.is_given_to_another(sched, crashitem)
        elif self._office.may_run_again(crashitem):
            will_run_again = crashes.requeue(sched, crashitem)
        else:  # where it is run again all the same, it gets no lease, which makes it an error
            will_run_again = crashes.is_requeued_anyway(sched, crashitem)
        if not will_run_again:
            crashes.explain(report, records)
            return
        crashes.silence(report)
        if has_begun:
            self._office.count_retry()
        else:
            records.pop()  # it is the first time that it runs

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, object, object]:
        """Put earlier crashes on a test's record, and put right what JUnit's file makes of the report of a crash."""
        records = self._records.get(report.nodeid, ())
        if records and report.when == "teardown":
            report.user_properties = crashes.with_crashes(report.user_properties, records)
        result = yield
        if report is self._crash_report:
            self._crash_report = None
            crashes.settle_entry(self._config, report)
        elif self._office.is_sandbox_test(report.nodeid):
            self._remember(report)
        return result

    def _remember(self, report: pytest.TestReport) -> None:
        reports = self._reports.setdefault(getattr(report, "node", None), [])
        if reports and reports[0].nodeid != report.nodeid:
            reports.clear()
        reports.append(report)

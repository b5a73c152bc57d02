"""Running a test once more whose worker has crashed.

Everything here reaches into pytest-xdist and pytest where they offer no way of their own.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from _pytest.junitxml import xml_key

from pytest_sandboxes.reporting.junit import PREFIX
from pytest_sandboxes.reporting.rewriting import silence as say_nothing


def requeue(sched: Any, nodeid: str) -> bool:
    """Have a test run once more; False where the schedule cannot."""
    if is_requeued_anyway(sched, nodeid):
        return True
    try:
        sched.mark_test_pending(nodeid)
    except NotImplementedError:  # with `--dist each`
        return False
    return True


def is_requeued_anyway(sched: Any, nodeid: str) -> bool:
    """The schedules by scope, file and group put back all that a crashed worker has not completed, this test too."""
    units = list(getattr(sched, "workqueue", {}).values())
    for assigned in getattr(sched, "assigned_work", {}).values():
        units += assigned.values()
    return any(unit.get(nodeid) is False for unit in units)


def is_given_to_another(sched: Any, nodeid: str) -> bool:
    """A schedule that puts back all has given a crashed worker's test to another worker already."""
    units = [unit for work in getattr(sched, "assigned_work", {}).values() for unit in work.values()]
    return any(unit.get(nodeid) is False for unit in units)


def is_the_last(config: pytest.Config) -> bool:
    """With the crash that is being handled, pytest-xdist gives up: whatever has no worker now will not be run."""
    session = config.pluginmanager.getplugin("dsession")
    most: int | None = session._max_worker_restart
    return most is not None and session._failed_nodes_count + 1 > most


def silence(report: pytest.TestReport) -> None:
    """Make the report of a crash say nothing, because the test is run once more."""
    say_nothing(report)
    report.when = "setup"


def explain(report: pytest.TestReport, records: list[str]) -> None:
    """Make the report of a crash an error that tells of all crashes."""
    report.when = "setup"  # a failed setup is what everybody takes for an error
    report.user_properties = with_crashes([(f"{PREFIX}attempts", 0)], records)
    attempts = [f"  {value}" for name, value in report.user_properties if name == f"{PREFIX}lost"]
    report.longrepr = "\n".join([str(report.longrepr), *attempts])


def with_crashes(properties: list[tuple[str, object]], records: Sequence[str]) -> list[tuple[str, object]]:
    """A test's properties with the attempts that ended in a crash, which come before all that it knows of."""
    found: list[tuple[str, object]] = []
    for name, value in properties:
        if name == f"{PREFIX}attempts" and isinstance(value, int):
            found.append((name, value + len(records)))
            found += [
                (f"{PREFIX}lost", f"attempt {number}: {each}") for number, each in enumerate(records, 1)
            ]
        elif name == f"{PREFIX}lost" and (match := re.match(r"attempt (\d+)(.*)", str(value), re.DOTALL)):
            found.append((name, f"attempt {int(match[1]) + len(records)}{match[2]}"))
        else:
            found.append((name, value))
    return found


def complete(config: pytest.Config, node: Any, report: pytest.TestReport) -> None:
    """Tell the schedule that a test of a crashed worker has been reported whole.

    The worker says so itself, last of all, but may not have come to it.
    """
    sched: Any = config.pluginmanager.getplugin("dsession").sched
    if sched is None:
        return
    with contextlib.suppress(AttributeError, KeyError, ValueError):  # it may have come to it
        sched.node2pending[node].remove(report.item_index)
    for unit in getattr(sched, "assigned_work", {}).get(node, {}).values():
        if report.nodeid in unit:
            unit[report.nodeid] = True


def take_back(config: pytest.Config, reports: Sequence[pytest.TestReport]) -> None:
    """Make all that counts and shows results forget reports of a test that will be reported again."""
    failed = sum(report.failed for report in reports)
    session: Any = config.pluginmanager.getplugin("session")
    session.testsfailed -= failed
    config.pluginmanager.getplugin("dsession").countfailures -= failed
    terminal: Any = config.pluginmanager.getplugin("terminalreporter")
    for shown in terminal.stats.values() if terminal is not None else ():
        shown[:] = [each for each in shown if not any(each is report for report in reports)]
    _forget_entry(config, reports[0])


def settle_entry(config: pytest.Config, report: pytest.TestReport) -> None:
    """Put right what JUnit's file says of a crash whose report has been logged.

    The entry of a report that says nothing goes, because there will be another for the same test. That of an error gets
    its properties, which would else wait for the report of a teardown.
    """
    if not report.failed:
        _forget_entry(config, report)
        return
    xml = config.stash.get(xml_key, None)
    if xml is not None:
        for name, value in report.user_properties:
            xml.node_reporter(report).add_property(name, str(value))


def _forget_entry(config: pytest.Config, report: pytest.TestReport) -> None:
    xml: Any = config.stash.get(xml_key, None)
    if xml is None:
        return
    entry = xml.node_reporter(report)
    xml.node_reporters_ordered.remove(entry)
    for key in [key for key, each in xml.node_reporters.items() if each is entry]:
        del xml.node_reporters[key]


def survive_crashes(config: pytest.Config, node: Any) -> None:
    """Keep two faults of pytest-xdist from what it does with a worker once another has crashed.

    To hand a test to a worker that has died ends the run with an internal error, as long as nobody has noticed; what it
    handed out is given to others then. And a schedule by groups gives a new worker what is completed already, or the
    only test that is left, which it does not run, because it waits to learn which comes next.
    """
    send = node.sendcommand

    def sendcommand(name: str, **arguments: object) -> None:
        with contextlib.suppress(OSError):
            send(name, **arguments)
        if name == "runtests":
            _fill_up(config, node)

    node.sendcommand = sendcommand


def wait_for_collection(config: pytest.Config) -> None:
    """Keep a schedule by scope from giving work to a new worker that has not collected tests yet, which it cannot."""
    sched: Any = config.pluginmanager.getplugin("dsession").sched
    if not hasattr(sched, "registered_collections") or "_reschedule" in vars(sched):
        return
    reschedule = sched._reschedule

    def _reschedule(node: Any) -> None:
        if node in sched.registered_collections:  # else it is given work once it has
            reschedule(node)

    sched._reschedule = _reschedule


def ignore_the_dismissed(config: pytest.Config) -> None:
    """Keep what a worker has collected that is in no schedule from being scheduled, which ends the run.

    A worker that comes when all tests are given out is told to end, and collects them first. By the time it has, a
    crash may have made the run go on.
    """
    session: Any = config.pluginmanager.getplugin("dsession")
    if "worker_collectionfinish" in vars(session):
        return
    finish = session.worker_collectionfinish

    def worker_collectionfinish(node: Any, ids: Sequence[str]) -> None:
        if node in session.sched.nodes:
            finish(node=node, ids=ids)

    session.worker_collectionfinish = worker_collectionfinish


def _fill_up(config: pytest.Config, node: Any) -> None:
    session = config.pluginmanager.getplugin("dsession")
    sched = session.sched
    if session._failed_nodes_count and hasattr(sched, "workqueue") and _left(sched.assigned_work[node]) < 2:
        sched._reschedule(node)  # which ends a worker for which there is no more, once it has run what it has


def _left(units: Mapping[str, Mapping[str, bool]]) -> int:
    """How many tests of these units have not been completed."""
    return sum(not is_completed for unit in units.values() for is_completed in unit.values())


def report_down(node: Any) -> None:
    """Have pytest-xdist notice a dead worker whose pipes a forked child holds open: it would wait for that child."""
    if node._down:
        return
    node._down = True
    node.notify_inproc("errordown", node=node, error="its process has ended")
    with contextlib.suppress(AttributeError, ValueError):
        # nor wait for it at the end of the run
        node.gateway._group._gateways.remove(node.gateway)

"""A plugin of the pytest that runs a shard: takes its tests from a file, and says what becomes of them.

Loaded with `-p` there, and by the workers of pytest-xdist there, which only choose the same tests. The command line is
the one of the controller; what only the controller does, such as reports and the count of failures, is off.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import signal
import threading
import time
import warnings
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from pytest_sandboxes.batch import events, recording
from pytest_sandboxes.batch.attempts import PHASES, announces_another
from pytest_sandboxes.batch.events import Collected, Finished, Hello, Report, Started

SPEC = "SANDBOXES_SHARD"
"""The variable with the path of a shard's specification, which `bootstrap` writes."""

_ONLY_IN_THE_CONTROLLER: dict[str, object] = {
    "xmlpath": None,
    "htmlpath": None,
    "report_log": None,
    "log_file": None,
    "pastebin": None,
    "maxfail": 0,
    "usepdb": False,
    "lf": False,
    "failedfirst": False,
    "newfirst": False,
    "cacheclear": False,
    "cacheshow": None,
    "stepwise": False,
    "stepwise_skip": False,
    "stepwise_reset": False,
    "basetemp": None,
}
_GRACE = 20.0  # seconds between the end of the controller and of a shard whose own end takes longer


def versions(bundle: str) -> dict[str, str]:
    """What has to be the same here and there. `bundle` is the digest of what was sent."""
    return {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "pytest": pytest.__version__,
        "pytest-sandboxes": version("pytest-sandboxes"),
        "bundle": bundle,
    }


def digest(nodeids: Iterable[str]) -> str:
    """Stands for all tests that were collected, whatever their order."""
    text = "\0".join(sorted(nodeids))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Switch off what only the controller does."""
    for name, value in _ONLY_IN_THE_CONTROLLER.items():
        if hasattr(config.option, name):
            setattr(config.option, name, value)


def pytest_configure(config: pytest.Config) -> None:
    """Take the specification."""
    spec = json.loads(Path(os.environ[SPEC]).read_bytes())
    worker = getattr(config, "workerinput", {}).get("workerid")
    reported = set(spec.get("reported", ()))  # by an earlier attempt at this shard
    nodeids = [nodeid for position, nodeid in enumerate(spec["nodeids"]) if position not in reported]
    chosen = Chosen(nodeids, spec["digest"], None if worker is None else _collection_of(worker))
    config.pluginmanager.register(chosen, "sandboxes-chosen")
    if worker is None:
        recorder = Recorder(config, chosen, spec)
        config.pluginmanager.register(recorder, "sandboxes-recorder")
        watch(spec["control"])


def _collection_of(worker: str) -> Path:
    """Where a worker of pytest-xdist tells the recorder what it has collected: its own reports have only the choice."""
    return Path(f"{os.environ[SPEC]}.{worker}")


def watch(control: int) -> None:
    """End this process and all that it has started once nobody holds the other end of a pipe any more."""
    os.set_inheritable(control, False)  # noqa: FBT003 - nor by keyword

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(control, 4096):
                pass
        os.kill(os.getpid(), signal.SIGINT)  # fixtures are torn down, and sandboxes ended
        time.sleep(_GRACE)
        os.killpg(0, signal.SIGKILL)  # its leader is this process

    threading.Thread(target=wait, name="sandboxes-watch", daemon=True).start()


class Chosen:
    """The shard's tests among those that are collected."""

    def __init__(self, nodeids: list[str], expected: str | None, told_to: Path | None = None) -> None:
        """`expected` is the digest of the controller's collection; None where that is narrower than this one.

        `told_to` is a file for somebody else's `learn`.
        """
        self._told_to = told_to
        self.nodeids = nodeids
        self.collected: list[str] = []
        self.error: str | None = None
        self._expected = expected

    @property
    def is_complete(self) -> bool:
        """All of the shard's tests have been collected, and no others than the controller has."""
        return set(self.nodeids) <= set(self.collected) and (
            self._expected is None or digest(self.collected) == self._expected
        )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep the first error."""
        if report.failed and self.error is None:
            lines = report.longreprtext.strip().splitlines()
            self.error = f"{report.nodeid}: {lines[-1] if lines else 'error'}"

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Choose, and run in the controller's order."""
        # where pytest-xdist distributes by group, it writes the group behind the name
        found = {item.nodeid: item for item in items}
        found |= {
            item.nodeid.rpartition("@")[0]: item for item in items if item.get_closest_marker("xdist_group")
        }
        self.collected = [item.nodeid for item in items]
        if set(self.nodeids) - found.keys():
            items[:] = []
        else:
            items[:] = [found[nodeid] for nodeid in self.nodeids]
        if self._told_to is not None:
            self._told_to.write_text(json.dumps([self.collected, self.error]))

    def learn(self, path: Path) -> None:
        """Take over what another process has collected."""
        self.collected, self.error = json.loads(path.read_text())


class Recorder:
    """Says what happens: a test's reports at once, when its last one is there."""

    def __init__(self, config: pytest.Config, chosen: Chosen, spec: dict[str, Any]) -> None:
        self._config = config
        self._chosen = chosen
        self._versions = versions(spec["bundle"])
        self._positions = {nodeid: position for position, nodeid in enumerate(spec["nodeids"])}
        self._rewriting = recording.Rewriting([(here, there) for here, there in spec["paths"]])
        self._open: dict[int, list[list[Report]]] = {}  # the attempts at each test that is not over
        self._stop: tuple[str, int] | None = None
        self._has_greeted = self._has_warned_enough = False
        self._warnings = self._warned_bytes = 0
        os.set_inheritable(spec["events"], False)  # noqa: FBT003 - as above
        self._events = open(spec["events"], "wb", buffering=0)  # noqa: SIM115, PTH123 - until the end

    def _say(self, line: bytes) -> None:
        view = memoryview(line)
        while view:
            view = view[self._events.write(view) :]

    # -- the collection

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> None:
        """Say what has been collected, or that it is something else."""
        if self._config.pluginmanager.has_plugin("dsession"):
            return  # its workers collect
        self._greet()

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_node_collection_finished(self, node: Any) -> None:
        """The same, with workers of pytest-xdist."""
        if not self._has_greeted:
            self._chosen.learn(_collection_of(node.gateway.id))
            self._greet()

    def _greet(self) -> None:
        self._has_greeted = True
        chosen = self._chosen
        self._say(events.encode(Hello(versions=self._versions, digest=digest(chosen.collected))))
        goes_on = self._config.option.continue_on_collection_errors
        if not chosen.is_complete or (chosen.error is not None and not goes_on):
            ids = [str(self._rewriting(each)) for each in chosen.collected][:20_000]
            error = None if chosen.error is None else str(self._rewriting(chosen.error))[:10_000]
            self._say(events.encode(Collected(nodeids=ids, error=error)))
            pytest.exit("other tests than the controller's", returncode=1)

    # -- the tests

    def _position(self, nodeid: str) -> int | None:
        found = self._positions.get(nodeid)
        return found if found is not None else self._positions.get(nodeid.rpartition("@")[0])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins, perhaps once more: because it is to be repeated, or because nobody counts what has been."""
        position = self._position(nodeid)
        if position is not None:
            attempts = self._open.get(position, [])
            self._open[position] = [*attempts, []] if _goes_on(attempts) else [[]]
            self._say(events.encode(Started(test=position)))

    @pytest.hookimpl(trylast=True)  # the terminal's hook makes a failure of a test whose subtests have failed
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a report until its test is whole."""
        position = self._position(report.nodeid)
        if position is None:
            return
        made = recording.report(self._config, report, self._rewriting)
        if made is None:
            return
        attempts = self._open.setdefault(position, [[]])
        if made.when in PHASES:
            attempts[-1].append(made)
            return
        attempts[-1] = [made]  # its worker of pytest-xdist has crashed, and says nothing more
        if not _goes_on(attempts):
            self._close(position)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """An attempt at a test is over."""
        position = self._position(nodeid)
        if position is not None and position in self._open and not _goes_on(self._open[position]):
            self._close(position)

    def _close(self, position: int) -> None:
        """Say what has become of a test."""
        attempts = self._open.pop(position)
        last = attempts[-1] if attempts else []
        if last and last[-1].when in {"setup", "call"}:  # its worker has crashed, and this plugin has said so
            # JUnit takes properties from there
            last.append(Report(when="teardown", outcome="passed", user_properties=last[-1].user_properties))
        if last:
            self._say(recording.record(position, attempts))

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str
    ) -> None:
        """Pass a test's warning on; the controller collects as well, and has the others."""
        if when != "runtest" or self._has_warned_enough:
            return
        line = recording.warned(warning_message, self._position(nodeid), self._rewriting)
        self._warnings += 1
        self._warned_bytes += len(line)
        # with room for the one that says so
        if self._warnings >= events.MOST_WARNINGS or self._warned_bytes > events.MOST_WARNED_BYTES - 10_000:
            self._has_warned_enough = True
            line = recording.warned(_enough(), None, self._rewriting)
        self._say(line)

    # -- the end

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """`pytest.exit` in a test ends the run, not only the shard."""
        if isinstance(excinfo.value, pytest.exit.Exception):
            self._stop = str(excinfo.value.msg), excinfo.value.returncode or int(pytest.ExitCode.INTERRUPTED)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Say what is left to say."""
        for position in [each for each, attempts in self._open.items() if _failed(attempts)]:
            self._close(position)  # with pytest-xdist, a test that has crashed once too often
        stop = self._stop
        if stop is None and session.shouldstop:
            stop = str(session.shouldstop), int(pytest.ExitCode.INTERRUPTED)
        # an earlier attempt may have reported all tests, and not come to say so
        if int(exitstatus) in {0, 1} or stop is not None or not self._chosen.nodeids:
            reason, returncode = stop or (None, 0)
            self._say(events.encode(Finished(stop=reason, returncode=returncode)))
        self._events.close()


def _enough() -> warnings.WarningMessage:
    """In place of a warning too many."""
    message = pytest.PytestWarning("this shard has more warnings than it can send: the others are not shown")
    return warnings.WarningMessage(message, pytest.PytestWarning, __file__, 0, line="")


def _goes_on(attempts: list[list[Report]]) -> bool:
    return bool(attempts) and announces_another(attempts[-1])


def _failed(attempts: list[list[Report]]) -> bool:
    return any(report.outcome == "failed" for report in attempts[-1])

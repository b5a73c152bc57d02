"""One attempt at a task: its runnables, in order, until they have ended, failed, run over time or are struck down.

What each field does is in the docstrings of `Runnable` and `TaskSpec` in google/cloud/batch_v1/types/task.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.emulators.events import EventLog
from tests.emulators.gcp.job_checks import seconds
from tests.emulators.gcp.machines import CannotStartError, Command, Host, Machine, Process
from tests.emulators.gcp.states import OVERTIME

if TYPE_CHECKING:
    from tests.emulators.gcp.barriers import Barriers

_CANNOT_START = 125
"""The exit code of `docker run` when the Engine refuses; that of the service is not documented."""


class Attempt:
    """What a VM does for a task."""

    def __init__(
        self,
        *,
        task: str,
        index: int,
        number: int,
        spec: Mapping[str, Any],
        environment: Mapping[str, str],
        machine: Machine,
        hosts: Mapping[str, Host],
        logs: Path,
        events: EventLog,
        barriers: Barriers,
    ) -> None:
        """`hosts` start the runnables of each kind; `number` counts attempts from 0."""
        self._task = task
        self._index = index
        self._number = number
        self._spec = spec
        self._environment = environment
        self.machine = machine
        self._hosts = hosts
        self._logs = logs
        self._events = events
        self._barriers = barriers
        self._processes: list[Process] = []
        self._struck: int | None = None
        self._failure = 0

    async def run(self) -> int:
        """Returns the exit code of the task: that of the first runnable that has failed."""
        limit = self._spec.get("maxRunDuration")
        try:
            async with asyncio.timeout(None if limit is None else seconds(limit, "max_run_duration")):
                await self._run_all()
        except TimeoutError:
            self._failure = self._failure or OVERTIME
        finally:
            await self._end_all()
        return self._struck or self.machine.lost or self._failure

    async def strike(self, code: int) -> None:
        """End it as the service does when something has happened to it."""
        self._struck = code
        await self._end_all()

    @property
    def _is_over(self) -> bool:
        return self._struck is not None or self.machine.lost is not None

    async def _run_all(self) -> None:
        for number, runnable in enumerate(self._spec["runnables"]):
            if self._is_over:
                return
            if self._failure and not runnable.get("alwaysRun"):
                continue
            if "barrier" in runnable:
                await self._barriers.arrive(number, self._index)
                continue
            code = await self._run(number, runnable)
            if code == OVERTIME or not runnable.get("ignoreExitStatus"):
                self._failure = self._failure or code

    async def _run(self, number: int, runnable: Mapping[str, Any]) -> int:
        """Its exit code, 0 at once for one in the background."""
        log = self._logs / f"{self._index}-{self._number}-{number}"
        environment = {**self._environment, **runnable.get("environment", {}).get("variables", {})}
        host = self._hosts["container" if "container" in runnable else "script"]
        about = {"task": self._task, "attempt": self._number, "runnable": number}
        try:
            process = await host.start(self.machine, Command(runnable, environment, log))
        except CannotStartError as error:
            self._events.record("runnable_refused", **about, reason=str(error))
            return _CANNOT_START
        self._processes.append(process)
        self._events.record("runnable_started", **about)
        if runnable.get("background"):
            return 0
        if self._is_over:  # struck while it was being started
            await process.end()
        limit = runnable.get("timeout")
        try:
            async with asyncio.timeout(None if limit is None else seconds(limit, "timeout")):
                code = await process.wait()
        except TimeoutError:
            await process.end()
            code = OVERTIME
        self._events.record("runnable_ended", **about, code=code)
        return code

    async def _end_all(self) -> None:
        await asyncio.gather(*(process.end() for process in self._processes))

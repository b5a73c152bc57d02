"""The life of a sandbox: it ends with its main command, at its timeout, when it has been idle, or when told to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from tests.emulators.events import EventLog
from tests.emulators.modal.execs import Exec
from tests.emulators.modal.hosts import CannotStartError, Command, Guest, Host, Recipe, Volume

RETURNED_CODES: Mapping[int, int] = {
    api.GenericResult.GENERIC_STATUS_TERMINATED: 137,
    api.GenericResult.GENERIC_STATUS_TIMEOUT: 124,
}
"""What the client makes of a status (modal/sandbox/_common.py, `_result_returncode`)."""

_END = 30
"""Seconds for all that runs in a sandbox to be gone after it was killed."""


class Sandbox:
    """One sandbox, from the request that made it to its result."""

    def __init__(
        self,
        sandbox_id: str,
        task_id: str,
        *,
        app_id: str,
        definition: api.Sandbox,
        tags: Mapping[str, str],
        environment: Mapping[str, str],
        events: EventLog,
    ) -> None:
        self.sandbox_id = sandbox_id
        self.task_id = task_id
        self.app_id = app_id
        self.definition = definition
        self.tags = dict(tags)
        self.environment = environment
        self.created_at = time.time()
        self.result: api.GenericResult | None = None
        """How it has ended, as soon as that is decided."""
        self.ended = asyncio.Event()
        """Set when nothing of it runs any more."""
        self.execs: dict[str, asyncio.Task[Exec]] = {}
        """Commands by the ids that the client has chosen."""
        self._events = events
        self._guest: Guest | None = None
        self._main: Exec | None = None
        self._starting: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._watches: list[asyncio.Task[None]] = []
        """What ends this or its commands in time."""
        self._busy = 0
        """Commands that run, the main one aside."""
        self._last_active = time.monotonic()

    @property
    def is_running(self) -> bool:
        """Whether nothing has decided its end yet."""
        return self.result is None

    @property
    def reported_result(self) -> api.GenericResult | None:
        """How it has ended, as soon as nothing of it runs any more."""
        return self.result if self.ended.is_set() else None

    @property
    def main(self) -> Exec:
        """The main command. Raises NOT_FOUND if it did not start."""
        if self._main is None:
            raise GRPCError(Status.NOT_FOUND, f"Sandbox {self.sandbox_id} did not start")
        return self._main

    async def start(self, host: Host) -> None:
        """Start the main command, whether or not the client waits for it; a sandbox that does not start has ended."""
        self._starting = asyncio.create_task(self._start(host))
        await asyncio.shield(self._starting)

    async def exec(self, exec_id: str, command: Command, timeout: int) -> None:
        """Run one more command; the same id again is the same command, whose request has come twice."""
        if exec_id not in self.execs:
            self.execs[exec_id] = asyncio.create_task(self._exec(exec_id, command, timeout))
        try:
            await asyncio.shield(self.execs[exec_id])
        except CannotStartError as error:
            self.execs.pop(exec_id, None)
            raise GRPCError(Status.INVALID_ARGUMENT, f"Failed to start the command: {error}") from error

    async def find_exec(self, exec_id: str) -> Exec:
        """A command by its id. Raises NOT_FOUND."""
        if exec_id not in self.execs:
            raise GRPCError(Status.NOT_FOUND, f"Exec {exec_id} not found")
        return await asyncio.shield(self.execs[exec_id])

    def note_activity(self) -> None:
        """Begin to count idle time anew: input has come."""
        self._last_active = time.monotonic()

    async def end(self, status: api.GenericResult.GenericStatus.ValueType, cause: str, code: int = 0) -> None:
        """End all that runs in it, and return when nothing does; the first cause counts."""
        if self._ending is None:
            self.result = api.GenericResult(status=status, exitcode=RETURNED_CODES.get(status, code))
            self._ending = asyncio.create_task(self._end(cause))
        await asyncio.shield(self._ending)

    async def _start(self, host: Host) -> None:
        wanted = self.definition
        networks = api.NetworkAccess
        try:
            self._guest = await host.start(
                Recipe(
                    sandbox_id=self.sandbox_id,
                    image_id=wanted.image_id,
                    main=Command(list(wanted.entrypoint_args), self.environment, wanted.workdir),
                    volumes=[
                        Volume(each.volume_id, each.mount_path, each.read_only)
                        for each in wanted.volume_mounts
                    ],
                    networked=wanted.network_access.network_access_type == networks.OPEN,
                    memory_mb=wanted.resources.memory_mb_max or wanted.resources.memory_mb,
                    milli_cpu=wanted.resources.milli_cpu_max or wanted.resources.milli_cpu,
                )
            )
        except (CannotStartError, TimeoutError) as error:
            if self._ending is None:
                self.result = api.GenericResult(
                    status=api.GenericResult.GENERIC_STATUS_INIT_FAILURE, exception=str(error), exitcode=1
                )
                self._ending = asyncio.create_task(self._end(f"it did not start: {error}"))
            return
        self._main = Exec(self._guest.main, output_stalls=False)
        self._watches.append(asyncio.create_task(self._live()))

    async def _exec(self, exec_id: str, command: Command, timeout: int) -> Exec:
        assert self._starting is not None
        await asyncio.shield(self._starting)
        if self._guest is None or not self.is_running:
            raise CannotStartError("the sandbox has ended")
        self._busy += 1
        try:
            running = Exec(await self._guest.spawn(command))
        except BaseException:
            self._busy -= 1
            raise
        self._events.record(
            "exec_started",
            sandbox=self.sandbox_id,
            exec=exec_id,
            argv=shorten(command.argv),
            timeout=timeout,
        )
        if timeout:
            self._watches.append(asyncio.create_task(self._expire(timeout, exec_id, running)))
        running.ending.add_done_callback(lambda ending: self._note_end(exec_id, running, ending))
        return running

    async def _expire(self, timeout: float, exec_id: str, running: Exec) -> None:
        await asyncio.wait([running.ending], timeout=timeout)
        if not running.ending.done():
            self._events.record("exec_timed_out", sandbox=self.sandbox_id, exec=exec_id)
            await running.child.kill()

    def _note_end(self, exec_id: str, running: Exec, ending: asyncio.Task[int]) -> None:
        running.child.close_stdin()
        self._busy -= 1
        self._last_active = time.monotonic()
        if not ending.cancelled() and not ending.exception():
            self._events.record(
                "exec_ended", sandbox=self.sandbox_id, exec=exec_id, returncode=ending.result()
            )

    async def _live(self) -> None:
        statuses = api.GenericResult
        started = time.monotonic()
        timeout, idle = self.definition.timeout_secs, self.definition.idle_timeout_secs
        while True:
            deadline = started + timeout
            if idle and not self._busy:
                deadline = min(deadline, self._last_active + idle)
            # a command that starts or ends meanwhile is seen at the latest one idle time later
            patience = min(deadline - time.monotonic(), idle or timeout)
            finished, _ = await asyncio.wait([self.main.ending], timeout=max(patience, 0))
            if finished:
                code = self.main.ending.result()
                code = 128 - code if code < 0 else code
                status = statuses.GENERIC_STATUS_FAILURE if code else statuses.GENERIC_STATUS_SUCCESS
                cause = "its main command has ended"
            elif time.monotonic() >= started + timeout:
                status, cause, code = statuses.GENERIC_STATUS_TIMEOUT, "its timeout has passed", 0
            elif idle and not self._busy and time.monotonic() >= self._last_active + idle:
                status, cause, code = statuses.GENERIC_STATUS_TERMINATED, "it was idle", 0
            else:
                continue
            await self.end(status, cause, code)

    async def _end(self, cause: str) -> None:
        assert self.result is not None
        assert self._starting is not None
        await self._starting
        for watch in self._watches:
            watch.cancel()
        if self._guest is not None:
            async with asyncio.timeout(_END):
                await self._guest.end()
        running = await asyncio.gather(*self.execs.values(), return_exceptions=True)
        for each in (self._main, *running):
            if isinstance(each, Exec):
                await each.close()
        self.ended.set()
        self._events.record(
            "sandbox_ended",
            sandbox=self.sandbox_id,
            cause=cause,
            status=api.GenericResult.GenericStatus.Name(self.result.status),
            code=self.result.exitcode,
        )


def shorten(argv: Sequence[str]) -> list[str]:
    """Enough of a command to know it by, for the log."""
    return [word[:200] for word in argv[:8]]

"""Jobs: one per request, each a child process with its streams, from start to result."""

from __future__ import annotations

import os
import select
import time

from pytest_sandboxes.agent import wire

TYPE_CHECKING = False  # `typing` is not worth its import time here
if TYPE_CHECKING:
    from pytest_sandboxes.agent.clock import Clock
    from pytest_sandboxes.agent.link import Link, Poller
    from pytest_sandboxes.agent.slots import Slot

_FAIR_SHARE = 4 * wire.CHUNK  # bytes read from one pipe before others get their turn
_BURIAL = 2.0
"""Seconds that killed processes may take to be gone: each needs a processor for its end."""
_PATIENCE = 0.25
"""Seconds that output may still come after them: a descriptor can outlive its process in a socket's queue."""
_KILLED = 9  # wait status of a process that SIGKILL ended


class Output:
    """One output pipe of a job: forwarded up to a limit while the controller grants credit, then discarded."""

    __slots__ = ("_announce_end", "_link", "_poller", "_request", "credit", "cut", "fd", "kind", "room")

    def __init__(
        self, fd: int, kind: int, limit: int, request: int, link: Link, poller: Poller, announce_end: bool
    ) -> None:
        self.fd: int | None = fd
        self.kind = kind
        self.room = limit
        self.credit = wire.WINDOW
        self.cut = False
        self._request = request
        self._link = link
        self._poller = poller
        self._announce_end = announce_end
        os.set_blocking(fd, False)
        poller.watch(fd, select.POLLIN, self.pump)

    def grant(self, amount: int) -> None:
        """The controller has room for `amount` more bytes."""
        paused = self.credit <= 0
        self.credit += amount
        if paused and self.fd is not None and self.credit > 0:
            self._poller.watch(self.fd, select.POLLIN, self.pump)

    def pump(self) -> None:
        """Forward what is there now, a fair share of it."""
        share = _FAIR_SHARE
        while self.fd is not None and share > 0:
            if self.room > 0 and self.credit <= 0:
                self._poller.unwatch(self.fd)
                return
            want = min(wire.CHUNK, self.credit) if self.room > 0 else wire.CHUNK
            try:
                data = os.read(self.fd, want)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                return
            share -= len(data)
            kept = data[: self.room]
            if len(kept) < len(data):
                self.cut = True
            if kept:
                self.room -= len(kept)
                self.credit -= len(kept)
                self._link.send(self.kind, self._request, kept)
            if len(data) < want:
                return

    def close(self) -> None:
        """Stop forwarding, whatever may still come."""
        if self.fd is not None:
            self._poller.unwatch(self.fd)
            os.close(self.fd)
            self.fd = None
            if self._announce_end:
                self._link.send(self.kind, self._request)


class Input:
    """The standard input pipe of a job: written as the job reads, credit returned for what was written."""

    __slots__ = ("_buffer", "_ended", "_link", "_poller", "_request", "fd")

    def __init__(self, fd: int, request: int, link: Link, poller: Poller) -> None:
        self.fd: int | None = fd
        self._request = request
        self._link = link
        self._poller = poller
        self._buffer = bytearray()
        self._ended = False
        os.set_blocking(fd, False)

    def put(self, data: bytes) -> None:
        """Queue `data` for the job."""
        if self.fd is None:
            self._link.send(wire.STDIN_CREDIT, self._request, bytes(4))
        else:
            self._buffer += data
            self.pump()

    def end(self) -> None:
        """Close the pipe once all that is queued has been written."""
        self._ended = True
        self.pump()

    def pump(self) -> None:
        """Write what the pipe takes now."""
        if self.fd is None:
            return
        written = 0
        try:
            while self._buffer:
                with memoryview(self._buffer) as view:
                    count = os.write(self.fd, view[: wire.MAX_PAYLOAD])
                del self._buffer[:count]
                written += count
        except BlockingIOError:
            self._poller.watch(self.fd, select.POLLOUT, self.pump)
        except OSError:  # nobody reads any more; credit of 0 says so
            self.close()
            self._link.send(wire.STDIN_CREDIT, self._request, bytes(4))
            return
        if written:
            self._link.send(wire.STDIN_CREDIT, self._request, written.to_bytes(4, "big"))
        if not self._buffer:
            self._poller.unwatch(self.fd)
            if self._ended:
                self.close()

    def close(self) -> None:
        """Close the pipe, dropping what is queued."""
        if self.fd is not None:
            self._poller.unwatch(self.fd)
            os.close(self.fd)
            self.fd = None
            self._buffer.clear()


class Report:
    """The pipe on which a supervisor or a file worker says how it goes: mappings, each behind its length."""

    __slots__ = ("_data", "_poller", "fd")

    def __init__(self, fd: int, poller: Poller) -> None:
        self.fd: int | None = fd
        self._data = bytearray()
        self._poller = poller
        os.set_blocking(fd, False)
        poller.watch(fd, select.POLLIN, self.pump)

    def pump(self) -> None:
        """Collect what is there."""
        try:
            while self.fd is not None:
                piece = os.read(self.fd, wire.CHUNK)
                self._data += piece
                if not piece or len(self._data) > wire.MAX_RESULT:
                    self.close()
        except BlockingIOError:
            pass

    def message(self) -> dict[str, object] | None:
        """The next thing that was said, if it is there."""
        self.pump()
        size = int.from_bytes(self._data[:4], "big")
        if len(self._data) < 4 or len(self._data) < 4 + size:
            return None
        said = bytes(self._data[4 : 4 + size])
        del self._data[: 4 + size]
        try:
            return wire.decode_dict(said)
        except wire.ProtocolError:
            return None

    def close(self) -> None:
        """Stop listening."""
        if self.fd is not None:
            self._poller.unwatch(self.fd)
            os.close(self.fd)
            self.fd = None


class Pipes:
    """The pipes between a job and the agent; `child` is the job's descriptors 0, 1 and 2.

    `report`: there is one more, on which a supervisor or a file worker says how it goes.
    """

    def __init__(self, null: int, stdin: bool, report: bool) -> None:
        self._null = null
        self.stdin_write: int | None = None
        self.report_read: int | None = None
        self.report_write = null
        stdin_read = null
        if stdin:
            stdin_read, self.stdin_write = os.pipe()
        self.stdout_read, self._stdout_write = os.pipe()
        self.stderr_read, self._stderr_write = os.pipe()
        if report:
            self.report_read, self.report_write = os.pipe()
        self.child = (stdin_read, self._stdout_write, self._stderr_write)

    def close_child_side(self) -> None:
        """Close what the job has its own copies of."""
        for fd in (*self.child, self.report_write):
            if fd != self._null:
                os.close(fd)

    def close(self) -> None:
        """Close all, after a start that failed."""
        self.close_child_side()
        for fd in (self.stdin_write, self.stdout_read, self.stderr_read, self.report_read):
            if fd is not None:
                os.close(fd)


class Job:
    """One request's child process.

    `kind` is "exec" for a command whose processes are all those that are nobody else's, and whose end the agent sees
    itself, "supervised" and "popen" for one below a supervisor, "file" for a worker. A popen answers when its command
    ends and may still have output to deliver then; the others answer when that has been delivered.
    """

    __slots__ = (
        "_clock",
        "_link",
        "announced",
        "deadline",
        "duration",
        "ended",
        "kind",
        "late",
        "oom_kills",
        "outcome",
        "outputs",
        "pid",
        "reaped",
        "report",
        "request",
        "slot",
        "started",
        "stdin",
        "timed_out",
        "victims",
    )

    def __init__(
        self,
        request: int,
        slot: Slot,
        kind: str,
        pid: int,
        clock: Clock,
        started: float,
        timeout: float | None,
        oom_kills: int = 0,
    ) -> None:
        self.request = request
        self.slot = slot
        """Whose it is."""
        self.oom_kills = oom_kills
        """How often the kernel had killed at the memory limit before it was started."""
        self.kind = kind
        self.pid = pid
        """The child of the agent: the command itself, or what supervises it, or a file worker."""
        self._clock = clock
        self.started = started
        """By this clock, as its deadline."""
        self.deadline = None if timeout is None else started + timeout
        self.outputs: list[Output] = []
        self.stdin: Input | None = None
        self.report: Report | None = None
        self.reaped = False
        self.outcome: dict[str, object] | None = None
        self.ended = 0.0
        """When, by the machine's clock: what is killed goes while somebody debugs, too."""
        self.duration = 0.0
        self.timed_out = False
        self.late = 0.0
        self.announced = False
        self.victims: set[int] = set()
        """Processes that were killed below its supervisor."""

    def connect(self, pipes: Pipes, limit: int, link: Link, poller: Poller) -> None:
        """Take the agent's ends of the pipes; forward at most `limit` bytes of each output."""
        self._link = link
        popen = self.kind == "popen"
        self.outputs = [
            Output(pipes.stdout_read, wire.STDOUT, limit, self.request, link, poller, popen),
            Output(pipes.stderr_read, wire.STDERR, limit, self.request, link, poller, popen),
        ]
        if pipes.stdin_write is not None:
            self.stdin = Input(pipes.stdin_write, self.request, link, poller)
        pipes.close_child_side()
        if pipes.report_read is not None:
            self.report = Report(pipes.report_read, poller)

    def end(self, outcome: dict[str, object]) -> None:
        """What the job came to; the first to say so counts."""
        if self.outcome is None:
            self.outcome = outcome
            self.ended = time.monotonic()
            self.duration = self._clock.now() - self.started

    def end_as_reaped(self, outcome: dict[str, object]) -> None:
        """How a command without a supervisor has ended, unless it has not even started and said why."""
        self.end((None if self.report is None else self.report.message()) or outcome)

    def find_outcome(self) -> bool:
        """Whether the command or worker has ended, by its own report or by its death."""
        if self.kind == "exec":
            return self.outcome is not None
        if self.outcome is None and self.report is not None and (self.reaped or self.kind != "file"):
            message = self.report.message()
            if message is not None and "started" in message:
                self._link.send(wire.STARTED, self.request)
                message = self.report.message()
            if message is not None:
                self.end(message)
            elif self.reaped and self.report.fd is None:  # killed before it could say anything
                self.end({"status": _KILLED, "cpu": 0.0, "peak": 0})
        return self.outcome is not None

    def end_input(self) -> None:
        """Take no more input: a word about it after the answer would be about nothing that the controller knows."""
        if self.stdin is not None:
            self.stdin.close()
            self.stdin = None

    def overdue(self) -> bool:
        """Processes that were killed should be gone by now."""
        return time.monotonic() >= self.ended + _BURIAL

    def drained(self) -> bool:
        """No output can still come, or none has come for `_PATIENCE` seconds though there is room for it."""
        is_late = time.monotonic() >= self.ended + _PATIENCE
        for output in self.outputs:
            output.pump()
            if is_late and (output.credit > 0 or output.room <= 0):
                output.close()
        return self.closed()

    def closed(self) -> bool:
        """All output has been delivered."""
        return all(output.fd is None for output in self.outputs)

    def result(self) -> dict[str, object]:
        """The answer to the request."""
        assert self.outcome is not None
        result: dict[str, object] = {
            "duration": self.duration,
            "timed_out": self.timed_out,
            "late": self.late,
            "stdout_cut": self.outputs[0].cut,
            "stderr_cut": self.outputs[1].cut,
            "streams_open": self.kind == "popen" and not self.closed(),
        }
        result.update(self.outcome)
        return result

    def close(self) -> None:
        """Let go of every descriptor."""
        for output in self.outputs:
            output.close()
        self.end_input()
        if self.report is not None:
            self.report.close()

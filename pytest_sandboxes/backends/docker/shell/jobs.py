"""Jobs: one per request, each an exec with its streams, from start to answer, on a thread of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable

from pytest_sandboxes.agent import wire
from pytest_sandboxes.backends.docker.shell import scripts
from pytest_sandboxes.backends.docker.shell.execs import Exec
from pytest_sandboxes.backends.docker.shell.outputs import Output
from pytest_sandboxes.backends.docker.shell.place import ENDED, LossError, Place
from pytest_sandboxes.backends.docker.shell.tasks import Task

_START_TIMEOUT = 30.0  # seconds from a request to a command that runs
_PATIENCE = 5.0  # seconds in which the Engine has handed over what came before all that could write was gone
_LONGEST_HEADER = 100
_MOST_DRAINED = 8 << 20  # bytes that pipes and the Engine can hold when a command has ended, and then some
_LONGEST_COMPLAINT = 4096
# Output that may yet turn out to be the sign is held back. This, twice the separator of files that nothing uses, is
# what hardly any begins with; output that is nothing else comes when it goes on, or ends.
_FIRST_OF_SIGN = b"\x1c\x1c"
KILLED = 9
_ERRORS = {
    "ENOENT",
    "EACCES",
    "ENOTDIR",
    "EISDIR",
    "EINVAL",
    "ENOEXEC",
    "ENOSPC",
    "EROFS",
    "EPERM",
    "ENAMETOOLONG",
    "ELOOP",
}


class Job:
    """A request's exec. `put`, `end_input`, `grant`, `kill` and `abandon` may be called from any thread."""

    answers_early = False
    """The answer comes when the command ends, whatever output is still to be delivered."""

    def __init__(self, place: Place, number: int, task: Task) -> None:
        self.number = number
        self.process = 0
        """The process of its command in the container, as the container says."""
        self._place = place
        self.task = task
        self._sign = _FIRST_OF_SIGN + secrets.token_hex(16).encode()
        self._lock = threading.Lock()
        self._inbox: list[Callable[[], None]] = []
        self._wake, self._wakeup = socket.socketpair()
        self._wake.setblocking(False)  # noqa: FBT003 - socket has it so
        self._wakeup.setblocking(False)  # noqa: FBT003 - socket has it so
        self._outputs = (Output(wire.STDOUT, task.limits[0]), Output(wire.STDERR, task.limits[1]))
        self._input = bytearray()
        self._input_open = task.stdin
        self._input_ending = False
        self._head: bytearray | None = bytearray()  # what may not be output; None once it is known to be
        self._started: float | None = None
        self._oom_kills_before = 0
        self.failure: tuple[str, str] | None = None
        self.complaint = bytearray()
        self._abandoned = False
        self.to_kill = False
        self._ended = 0.0
        self.written = 0
        self.timed_out = False
        self._late = 0.0

    # -- for the stand-in

    def put(self, data: bytes) -> None:
        """Queue `data` for standard input."""
        self._post(lambda: self._queue_input(data))

    def end_input(self) -> None:
        """Close standard input after what is queued."""

        def end() -> None:
            self._input_ending = True

        self._post(end)

    def grant(self, kind: int, amount: int) -> None:
        """The controller has room for `amount` more bytes of one output."""

        def grant() -> None:
            for output in self._outputs:
                if output.kind == kind:
                    output.credit += amount

        self._post(grant)

    def kill(self) -> None:
        """End it; its answer still comes, with what has come of output."""

        def kill() -> None:
            self.to_kill = True

        self._post(kill)

    def abandon(self) -> None:
        """Nobody waits for it: the container is gone."""
        self._abandoned = True
        self._post(lambda: None)

    def _post(self, what: Callable[[], None]) -> None:
        with self._lock:
            self._inbox.append(what)
        with contextlib.suppress(OSError):  # full, so it will wake; or closed, as it has ended
            self._wakeup.send(b"\0")

    # -- its thread

    def run(self) -> None:
        """Run it to its end. Raises `LossError`, and what `Exec` raises."""
        task = self.task
        self._oom_kills_before = self._place.oom_kills()
        argv = scripts.run(task.script, self._sign, *task.words)
        process = self._place.start_exec(argv, task.environment, stdin=task.stdin)
        try:
            self._watch(process)
            self._place.end_tree(self)  # what is left of it, such as daemons
            self._drain(process)
            self._finish(process)
        finally:
            process.close()

    @property
    def is_cut(self) -> bool:
        """More has come on standard output than is wanted."""
        return self._outputs[0].cut

    def close(self) -> None:
        """Let go of what woke it."""
        self._wake.close()
        self._wakeup.close()

    def _watch(self, process: Exec) -> None:
        """Carry its streams until it has ended."""
        begun = time.monotonic()
        reading, killed = True, False
        while not process.has_ended():
            self._take_inbox()
            now = time.monotonic()
            due = min(process.next_look, now + 1.0)
            if self._started is None:
                if now > begun + _START_TIMEOUT:
                    raise LossError(f"a command has not started within {_START_TIMEOUT:.0f} s")
            elif not killed:
                due = min(due, now + self._check_deadline())
                if self.to_kill:
                    killed = True
                    self._place.end_tree(self)
                    process.look_soon()
                    continue
            wanted = reading and not any(output.pending for output in self._outputs)
            self._wait(process, due - now, reading=wanted)
            if wanted:
                reading = self._read(process)
                if not reading:
                    process.look_soon()
            self._write(process)
        self._ended = self._place.now()

    def _check_deadline(self) -> float:
        """Have it killed at its deadline; return how many seconds are left at least."""
        if self.task.timeout is None or self._started is None:
            return 1.0
        left = self._started + self.task.timeout - self._place.now()
        if left <= 0:
            self.timed_out = self.to_kill = True
            self._late = -left
        return left

    def _wait(self, process: Exec, seconds: float, *, reading: bool) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        events = (select.POLLIN if reading else 0) | (
            select.POLLOUT if self._input and self._input_open else 0
        )
        if events:
            poll.register(process.stream, events)
        poll.poll(max(0.0, seconds) * 1000 + 1)

    def _take_inbox(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake.recv(4096)
        with self._lock:
            inbox, self._inbox = self._inbox, []
        for each in inbox:
            each()
        if self._abandoned:
            raise LossError(ENDED)
        self._flush()

    def _flush(self) -> None:
        for output in self._outputs:
            output.flush(lambda data, kind=output.kind: self._place.send(kind, self.number, data))  # type: ignore[misc]

    def _read(self, process: Exec) -> bool:
        """Take what has come; False at the end."""
        try:
            pieces = process.read(wire.CHUNK)
        except BlockingIOError:
            return True
        if pieces is None:
            return False
        for is_error, data in pieces:
            if is_error:
                self._take_error(data)
            elif data:
                self._received(data)
        self._flush()
        return True

    def _received(self, data: bytes) -> None:
        """Take standard output, of which the first line is the script's."""
        if self._head is not None:
            self._head += data
            if self._started is None:
                line, newline, rest = self._head.partition(b"\n")
                if not newline:
                    if len(line) > _LONGEST_HEADER:
                        raise LossError("what is to start commands does not say so")
                    return
                self._begin(bytes(line))
                self._head = rest
            if len(self._head) < len(self._sign) and self._sign.startswith(self._head):
                return
            if self._head.startswith(self._sign):  # what was to become a command could not
                if b"\n" in self._head:
                    self._fail(bytes(self._head.partition(b"\n")[0]))
                elif len(self._head) > _LONGEST_HEADER:
                    raise LossError("what is to start commands does not say so")
                return
            data, self._head = bytes(self._head), None
        self._take_output(data)

    def _take_output(self, data: bytes) -> None:
        self._outputs[0].take(data)

    def _take_error(self, data: bytes) -> None:
        self.complaint += data[: _LONGEST_COMPLAINT - len(self.complaint)]
        self._outputs[1].take(data)

    def _begin(self, line: bytes) -> None:
        sign, word, detail = (*line.split(b" "), b"", b"")[:3]
        if sign != self._sign:
            raise LossError("what is to start commands says something else")
        if word == b"started" and detail.isdigit() and len(detail) < 10:
            self.process = int(detail)
            self._started = self._place.now()
            self._place.send(wire.STARTED, self.number)
        else:
            self._started = self._place.now()
            self._fail(line)

    def _fail(self, line: bytes) -> None:
        words = line.decode(errors="replace").split(" ")
        if self.failure is None:
            if len(words) != 3 or words[1] not in _ERRORS or words[2] not in self.task.names:
                raise LossError("what is to start commands gives no reason that could be")
            self.failure = (words[1], words[2])

    def _queue_input(self, data: bytes) -> None:
        if self._input_open:
            self._input += data
        else:
            self._place.send(wire.STDIN_CREDIT, self.number, bytes(4))

    def _write(self, process: Exec) -> None:
        if not self._input_open:
            return
        written = 0
        try:
            while self._input:
                with memoryview(self._input) as view:
                    count = process.stream.send(view[: wire.CHUNK])
                del self._input[:count]
                written += count
        except BlockingIOError:
            pass
        except OSError:  # nobody reads any more; credit of 0 says so
            self._input_open = False
            self._input.clear()
            self._place.send(wire.STDIN_CREDIT, self.number, bytes(4))
            return
        if written:
            self.written += written
            self._place.send(wire.STDIN_CREDIT, self.number, written.to_bytes(4, "big"))
        if self._input_ending and not self._input:
            self._input_open = False
            process.end_input()

    def _drain(self, process: Exec) -> None:
        """Take what is still under way: soon the Engine drops it, whether there is credit for it or not."""
        deadline = time.monotonic() + _PATIENCE
        reading = True
        while reading:
            left = deadline - time.monotonic()
            if left <= 0 or sum(len(output.pending) for output in self._outputs) > _MOST_DRAINED:
                raise LossError("the output of a command that has ended has no end")
            self._wait(process, left, reading=True)
            reading = self._read(process)
            self._take_inbox()
        if self._started is None:
            words = bytes(self._head or b"") + bytes(self.complaint)
            if os.strerror(errno.E2BIG).lower().encode() in words.lower():
                self.failure = ("E2BIG", "program" if "program" in self.task.names else "path")
                return
            said = words[:300].decode(errors="replace").strip() or f"wait status {process.status}"
            raise LossError(f"no command can be started in it: {said}")
        if self._head and self.failure is None:  # a short output that begins as the sign does
            self._take_output(bytes(self._head))

    def _finish(self, process: Exec) -> None:
        assert process.status is not None
        if not self.answers_early:
            self._deliver()
        answer = self._answer(process.status)
        self._place.send(wire.RESULT, self.number, wire.encode(answer))
        if answer.get("streams_open"):
            self.to_kill = False
            self._deliver()
            for output in self._outputs:
                self._place.send(output.kind, self.number)

    def _deliver(self) -> None:
        self._flush()
        while any(output.pending for output in self._outputs):
            poll = select.poll()
            poll.register(self._wake, select.POLLIN)
            poll.poll(1000)
            self._take_inbox()
            if self.answers_early and self.to_kill:  # only its output was still wanted, and now is not
                return

    def _answer(self, status: int) -> dict[str, object]:
        if self.failure is not None:
            number, about = getattr(errno, self.failure[0]), self.failure[1]
            return error_answer(number, self.task.names[about])
        assert self._started is not None
        return {
            "status": KILLED if self.timed_out else status,
            "cpu": 0.0,
            "peak": 0,
            "duration": max(0.0, self._ended - self._started),
            "timed_out": self.timed_out,
            "late": self._late,
            "stdout_cut": self._outputs[0].cut,
            "stderr_cut": self._outputs[1].cut,
            "streams_open": False,
            "oom_killed": self._place.oom_kills() > self._oom_kills_before,
        }


class Popen(Job):
    """A command that outlives the call that starts it."""

    answers_early = True

    def _answer(self, status: int) -> dict[str, object]:
        answer = super()._answer(status)
        if "status" in answer:
            answer["streams_open"] = True
        return answer


def error_answer(number: int, name: bytes) -> dict[str, object]:
    """The answer that raises an OSError."""
    return {"error": "OSError", "errno": number, "message": os.strerror(number), "filename": name[:4096]}

"""One request to an agent on its way: the answer to come, and the streams that flow meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Protocol

from pytest_sandboxes.agent import wire
from pytest_sandboxes.streams import Sink

__tracebackhide__ = True  # a failing test shows its own line, not ours


class Sender(Protocol):
    """What a request needs of its connection."""

    def send(self, data: bytes) -> None:
        """See `Connection.send`."""

    def grant(self, request: Request, kind: int, amount: int) -> None:
        """See `Connection.grant`."""


class Request:
    """A request, from when it is made until its answer and the ends of all its streams have come."""

    def __init__(
        self, connection: Sender, number: int, sinks: tuple[Sink, Sink], ticks_left: int | None
    ) -> None:
        self.future: Future[dict[str, object]] = Future()
        """Resolves to the agent's answer, or raises `SandboxLostError`."""
        self.started: Future[None] = Future()
        """Resolves when a popen's command has started, or the request has ended."""
        self._connection = connection
        self.number = number
        self.slot = 0
        """The slot of the sandbox that it is for."""
        self.objection: Callable[[Mapping[str, object]], str | None] | None = None
        """Asked about the answer before anybody has it: why the sandbox is to be given up instead, if so."""
        self.sinks = {wire.STDOUT: sinks[0], wire.STDERR: sinks[1]}
        self.allowed = {wire.STDOUT: wire.WINDOW, wire.STDERR: wire.WINDOW}
        self.open_streams = set(self.sinks)
        for future in (self.future, self.started):
            future.set_running_or_notify_cancel()  # whoever stops waiting cancels the wait, not the answer
        self.ticks_left = ticks_left
        """Ticks of the connection until the answer is overdue; None if it has all the time."""
        self.abandoned = False
        """Nobody waits for it any more, and the agent may not know."""
        self.input = _Input(connection, number)
        for kind, sink in self.sinks.items():
            sink.attach(lambda amount, kind=kind: connection.grant(self, kind, amount))  # type: ignore[misc]

    def write(self, data: bytes) -> Future[None]:
        """Send `data` to standard input as fast as it is read there.

        The future resolves when all has been handed over, or raises BrokenPipeError when nobody reads any
        more. Raises ValueError after `end_input`.
        """
        return self.input.write(data)

    def end_input(self) -> None:
        """Close standard input after what has been written."""
        self.input.end()

    def kill(self) -> None:
        """Kill what the request runs; its answer still comes."""
        self._connection.send(wire.frame(wire.KILL, self.number))

    def finish(self, error: Exception | None) -> None:
        """End all streams; called on the I/O thread."""
        for kind in tuple(self.open_streams):
            self.end_stream(kind, error)
        self.set_started()
        self.end_of_reading(error)

    def end_of_reading(self, error: Exception | None = None) -> None:
        """Nobody reads standard input any more."""
        self.input.fail(error or BrokenPipeError("the process has ended"))

    def set_started(self) -> None:
        """Whoever waits for the start has waited long enough."""
        if not self.started.done():
            self.started.set_result(None)

    def end_stream(self, kind: int, error: Exception | None) -> None:
        """No more comes on one stream."""
        self.open_streams.discard(kind)
        self.sinks[kind].end(error)


class _Input:
    """Bytes for a process, sent as the agent grants credit."""

    def __init__(self, connection: Sender, number: int) -> None:
        self._connection = connection
        self._number = number
        self._lock = threading.Lock()
        self._credit = wire.WINDOW
        self._waiting: list[tuple[memoryview, Future[None]]] = []
        self._error: Exception | None = None
        self._ending = False
        self._closed = False

    def write(self, data: bytes) -> Future[None]:
        if self._closed:
            raise ValueError("standard input has been closed: write before close_stdin()")
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            error = self._error
            if error is None:
                self._waiting.append((memoryview(data), future))
        if error is not None:
            future.set_exception(error)
        else:
            self._pump()
        return future

    def end(self) -> None:
        with self._lock:
            self._ending = self._closed = True
        self._pump()

    def spend(self, amount: int) -> None:
        """So much has been sent beside `write`."""
        with self._lock:
            self._credit -= amount

    def grant(self, amount: int) -> None:
        with self._lock:
            self._credit += amount
            if self._credit > wire.WINDOW:
                raise wire.ProtocolError("more input taken than was sent")
        self._pump()

    def fail(self, error: Exception) -> None:
        with self._lock:
            self._error = self._error or error
            waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            future.set_exception(error)

    def _pump(self) -> None:
        done = []
        with self._lock:
            frames = []
            while self._waiting and self._credit > 0:
                view, future = self._waiting[0]
                size = min(len(view), self._credit, wire.MAX_PAYLOAD)
                if size:
                    frames.append(wire.frame(wire.STDIN, self._number, bytes(view[:size])))
                self._credit -= size
                if size == len(view):
                    self._waiting.pop(0)
                    done.append(future)
                else:
                    self._waiting[0] = (view[size:], future)
            if self._ending and not self._waiting and self._error is None:
                self._ending = False
                frames.append(wire.frame(wire.STDIN_END, self._number))
            if frames:
                # under the lock, or two writers' frames could change places; it never waits
                self._connection.send(b"".join(frames))
        for future in done:
            future.set_result(None)

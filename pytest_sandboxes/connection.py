"""The controller's end of one agent's stream.

The agent is taken to be hostile: what it sends is checked frame by frame against what it was asked and how
much it was granted, and any breach loses the sandbox. Nothing here waits for it without a deadline of ours.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future

from pytest_sandboxes.agent import wire
from pytest_sandboxes.errors import SandboxLostError
from pytest_sandboxes.io_thread import IOThread
from pytest_sandboxes.request import Request
from pytest_sandboxes.streams import Kept, Sink

__tracebackhide__ = True  # a failing test shows its own line, not ours

TICK = 1.0
"""Seconds between two looks at an agent."""
SILENCE_TICKS = 10
"""Ticks without an answer to a ping after which an agent counts as lost. Ticks, not seconds: while this process itself
is stopped, nobody's silence grows."""
LEAST_READ = 1 << 10
"""Bytes within a tick that are as good as an answer: it may be behind them. Fewer would keep a stalled stream alive."""
OVERDUE_TICKS = 3
"""Ticks that a result may come after its request's own deadline, which the agent keeps to a fraction of a second."""
LATE = 1.0
"""Seconds past its deadline after which a command's end says more about the machine than about the command."""
HEARTBEAT_DEADLINE = 30.0
"""Seconds without a word from its controller after which an agent ends itself and all it runs."""

_READ = 1 << 18

Unwrap = Callable[[memoryview], Iterable[bytes | memoryview]]
"""See `Launched.unwrap`."""


def _as_it_comes(data: memoryview) -> Iterable[memoryview]:
    return (data,)


class Connection:
    """Requests to one agent, from any thread.

    `lost` is called once with the reason, from any thread, before any request learns of the loss, and returns the
    error that they are to raise; it is not called for a connection that was closed from this side.
    """

    def __init__(
        self,
        stream: socket.socket,
        io: IOThread,
        lost: Callable[[str], Exception],
        unwrap: Unwrap = _as_it_comes,
    ) -> None:
        stream.setblocking(False)  # noqa: FBT003 - socket has it so
        self._stream = stream
        self._io = io
        self._on_lost = lost
        self._unwrap = unwrap
        self._lock = threading.Lock()
        self._requests: dict[int, Request] = {}
        self._numbers = itertools.count(1)
        self._ended = False
        self._error: Exception | None = None
        self._write_lock = threading.Lock()
        self._sent = wire.Numbering()
        self._backlog = bytearray()
        # one buffer: a new one of this size for each read would cost three calls of the kernel
        self._inbox = memoryview(bytearray(_READ))
        self._reader = wire.FrameReader()
        self._owner = os.getpid()
        self._silent_ticks = 0
        self._read_since_tick = 0
        self._unanswered_pings = 0
        self._paused = False
        self.hello: Future[dict[str, object]] = Future()
        """Resolves when the agent has introduced itself."""
        _streams.add(stream)
        io.submit(self._open)

    # -- for callers

    @property
    def alive(self) -> bool:
        """Neither lost nor closed."""
        return not self._ended

    def request(
        self,
        operation: str,
        arguments: Mapping[str, object],
        *,
        timeout: float | None,
        input: bytes | None = None,
        sinks: tuple[Sink, Sink] | None = None,
        slot: int = 0,
        objection: Callable[[Mapping[str, object]], str | None] | None = None,
    ) -> Request:
        """Send a request to a slot. `input` is all of standard input; without it, `Request.write` may follow.

        `objection` is asked about the answer: a reason not to take it loses the sandbox. `timeout` is the agent's own
        deadline in seconds, past which this end gives the sandbox up.
        Raises `SandboxLostError` when the connection has ended, RuntimeError in a forked child.
        """
        if os.getpid() != self._owner:
            raise RuntimeError("a sandbox cannot be used in a forked child of the process that leased it")
        message = wire.encode({**arguments, "op": operation, "slot": slot, "timeout": timeout})
        if len(message) > wire.MAX_PAYLOAD:
            raise ValueError("arguments and environment of a command are limited to 256 KiB")
        ticks = None if timeout is None else int(timeout / TICK) + 1 + OVERDUE_TICKS
        request = Request(self, next(self._numbers), sinks or (Kept(), Kept()), ticks)
        request.slot, request.objection = slot, objection
        with self._lock:
            error = self._error
            if error is None:
                self._requests[request.number] = request
        if error is not None:
            raise error.with_traceback(None)  # it may have been raised before, in another test
        frames = wire.frame(wire.REQUEST, request.number, message)
        if input is not None and len(input) < wire.CHUNK:  # all in one write
            if input:
                frames += wire.frame(wire.STDIN, request.number, input)
                request.input.spend(len(input))
            frames += wire.frame(wire.STDIN_END, request.number)
            self.send(frames)
        else:
            self.send(frames)
            if input is not None:
                request.write(input).add_done_callback(lambda future: future.exception())
                request.end_input()
        return request

    def abandon_requests(self, slot: int, error: Exception) -> None:
        """Have a slot's requests under way raise `error`; whatever the agent still says of them is dropped."""
        with self._lock:
            requests = [
                request
                for request in self._requests.values()
                if request.slot == slot and not request.abandoned
            ]
            for request in requests:
                request.abandoned = True
        if requests:
            self._io.submit(lambda: _fail(requests, error))

    def forget_abandoned(self, slot: int) -> None:
        """The agent has learned of it: from now on it says no more of them."""
        with self._lock:
            self._requests = {
                number: request
                for number, request in self._requests.items()
                if request.slot != slot or not request.abandoned
            }

    def pause(self) -> None:
        """Stop the clocks of all commands, for somebody who is debugging."""
        self._paused = True
        self.send(wire.frame(wire.PAUSE, 0))

    def resume(self) -> None:
        """Let the clocks go on where they stopped."""
        self._paused = False
        self.send(wire.frame(wire.RESUME, 0))

    def close(self) -> None:
        """End the connection, and thereby the agent; requests under way raise `SandboxLostError`."""
        self._end(None)

    def lose(self, reason: str) -> None:
        """Give the sandbox up."""
        self._end(reason)

    # -- writing

    def send(self, frames: bytes) -> None:
        """Write frames in order; never waits.

        What the stream does not take now is written by the I/O thread.

        What may be queued is bounded by the credit of each request's input.
        """
        with self._write_lock:
            self._write(self._sent.number(frames))

    def send_bare(self, data: bytes) -> None:
        """Write what comes before all frames: the agent's program."""
        with self._write_lock:
            self._write(data)

    def _write(self, data: bytes) -> None:
        if self._backlog:
            self._backlog += data
            return
        try:
            sent = self._stream.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # the reading side notices the end too, and says how it came
            return
        if sent < len(data):
            self._backlog += data[sent:]
            self._io.submit(self._watch_writable)

    def _watch_writable(self) -> None:
        if self.alive:
            self._io.loop().add_writer(self._stream, self._writable)

    def _writable(self) -> None:
        with self._write_lock:
            try:
                with memoryview(self._backlog) as view:
                    sent = self._stream.send(view[:_READ])
                del self._backlog[:sent]
            except BlockingIOError:
                return
            except OSError:
                self._backlog.clear()
            if not self._backlog:
                self._io.loop().remove_writer(self._stream)

    def grant(self, request: Request, kind: int, amount: int) -> None:
        """Allow the agent `amount` more bytes on one stream of a request."""
        with self._lock:
            request.allowed[kind] += amount
        self.send(wire.frame(wire.CREDIT, request.number, bytes((kind,)) + amount.to_bytes(4, "big")))

    # -- the I/O thread

    def _open(self) -> None:
        if self.alive:
            loop = self._io.loop()
            loop.add_reader(self._stream, self._readable)
            loop.call_later(TICK, self._tick)

    def _readable(self) -> None:
        try:
            size = self._stream.recv_into(self._inbox)
        except BlockingIOError:
            return
        except (
            ConnectionResetError
        ):  # as a socket says it when something of ours was still unread at the other end
            size = 0
        except OSError as error:
            self.lose(f"its stream broke: {error}")
            return
        if not size:
            self.lose("its agent ended")
            return
        self._read_since_tick += size
        try:
            for piece in self._unwrap(self._inbox[:size]):
                for kind, number, content in self._reader.feed(piece):
                    self._received(kind, number, content)
        except wire.ProtocolError as error:
            self.lose(f"its agent broke the protocol: {error}")

    def _received(self, kind: int, number: int, content: bytes) -> None:
        if kind == wire.PONG and self._unanswered_pings:
            self._unanswered_pings -= 1
            self._silent_ticks = 0
            return
        if kind == wire.HELLO:
            hello = wire.decode_dict(content)
            if self.hello.done() or hello.get("protocol") != 1:
                raise wire.ProtocolError("unexpected greeting")
            self.hello.set_result(hello)
            return
        request = self._requests.get(number)
        if request is None:
            raise wire.ProtocolError("an answer to nothing")
        if request.abandoned:
            return
        if kind in request.sinks:
            self._take_output(request, kind, content)
        elif kind == wire.STDIN_CREDIT and len(content) == 4:
            amount = int.from_bytes(content, "big")
            if amount:
                request.input.grant(amount)
            else:
                request.input.fail(BrokenPipeError("the process does not read its input any more"))
        elif kind == wire.STARTED:
            request.set_started()
        elif kind == wire.RESULT and not request.future.done():
            self._take_result(request, wire.decode_dict(content))
        else:
            raise wire.ProtocolError(f"unexpected frame of type {kind}")

    def _take_result(self, request: Request, result: dict[str, object]) -> None:
        reason = None if request.objection is None else request.objection(result)
        if reason is not None:
            self.lose(reason)
            return
        request.end_of_reading()  # before anybody is told of the end, and writes
        request.future.set_result(result)
        if result.get("streams_open") is True and request.open_streams:
            request.set_started()  # after the result, for which who waits for the start looks next
        else:
            self._forget(request)
            request.finish(None)

    def _take_output(self, request: Request, kind: int, content: bytes) -> None:
        if kind not in request.open_streams:
            raise wire.ProtocolError("output after the end of a stream")
        if not content:
            request.end_stream(kind, None)
            if request.future.done() and not request.open_streams:
                self._forget(request)
            return
        with self._lock:
            request.allowed[kind] -= len(content)
            allowed = request.allowed[kind]
        if allowed < 0:
            raise wire.ProtocolError("more output than was granted")
        request.sinks[kind].feed(content)

    def _forget(self, request: Request) -> None:
        with self._lock:
            self._requests.pop(request.number, None)

    def _tick(self) -> None:
        if not self.alive:
            return
        self._silent_ticks = 0 if self._read_since_tick >= LEAST_READ else self._silent_ticks + 1
        self._read_since_tick = 0
        if self._silent_ticks > SILENCE_TICKS:
            self.lose(f"its agent has not answered for {SILENCE_TICKS * TICK:.0f} s")
            return
        self._unanswered_pings += 1
        self.send(wire.frame(wire.PING, 0))
        with self._lock:
            requests = list(self._requests.values())
        for request in requests:
            if request.ticks_left is not None and not self._paused and not request.future.done():
                request.ticks_left -= 1
                if request.ticks_left < 0:
                    self.lose("its agent did not end a command at its deadline")
                    return
        self._io.loop().call_later(TICK, self._tick)

    def _end(self, reason: str | None) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
        if reason is not None and self._io.is_current():  # to find out about its end may block
            self._io.loop().remove_reader(self._stream)
            self._io.submit_aside(lambda: self._tell_end(reason))
        else:
            self._tell_end(reason)

    def _tell_end(self, reason: str | None) -> None:
        error = SandboxLostError("the sandbox has been closed") if reason is None else self._on_lost(reason)
        with self._lock:  # a request that was made meanwhile learns of it like all others
            self._error = error
            requests = list(self._requests.values())
            self._requests.clear()
        self._io.submit(lambda: self._shut(error, requests))

    def _shut(self, error: Exception, requests: list[Request]) -> None:
        loop = self._io.loop()
        loop.remove_reader(self._stream)
        loop.remove_writer(self._stream)
        with self._write_lock:
            self._backlog.clear()
            self._stream.close()
        _fail(requests, error)
        if not self.hello.done():
            self.hello.set_exception(error)


def _fail(requests: list[Request], error: Exception) -> None:
    for request in requests:
        if not request.future.done():
            request.future.set_exception(error)
        request.finish(error)


_streams: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _close_streams_in_child() -> None:
    # A forked child of the user's would hold every stream open: no agent would see the end of this process.
    for stream in _streams:
        stream.close()


os.register_at_fork(after_in_child=_close_streams_in_child)

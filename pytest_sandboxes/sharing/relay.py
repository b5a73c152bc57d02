"""One request of a worker on its way through the controller: what comes back is passed on as it comes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol

from pytest_sandboxes.agent import wire
from pytest_sandboxes.sharing import messages

if TYPE_CHECKING:
    from pytest_sandboxes.request import Request


class Agentlike(Protocol):
    """What a relay needs of a sandbox."""

    def oom_kills(self) -> int:
        """See `Sandbox.oom_kills`."""


class _Stream:
    """A sink that keeps nothing: each piece goes on to the worker, and only what the worker grants is granted here."""

    def __init__(self, relay: Relay, kind: int) -> None:
        self._relay = relay
        self._kind = kind
        self._lock = threading.Lock()
        self._ungranted = 0
        self._grant: Callable[[int], None] = lambda _: None

    def attach(self, grant: Callable[[int], None]) -> None:
        """See `Sink`."""
        self._grant = grant

    def feed(self, data: bytes) -> None:
        """See `Sink`."""
        with self._lock:
            self._ungranted += len(data)
        self._relay.pass_on(self._kind, data)

    def end(self, error: Exception | None) -> None:
        """See `Sink`."""
        self._grant = lambda _: None  # it leads to the request and from there back here
        self._relay.stream_ended(self._kind, error)

    def grant(self, amount: int) -> None:
        """The worker takes so much more. Raises `ProtocolError` for more than has come."""
        with self._lock:
            self._ungranted -= amount
            if self._ungranted < 0:
                raise wire.ProtocolError("more output granted than has come")
        self._grant(amount)


class Relay:
    """A request under way. Its answer, or the error in place of one, is sent once, and after any loss that it tells of.

    `send` never waits. `done` is called once nothing more can come.
    """

    def __init__(
        self, number: int, sandbox: Agentlike, send: Callable[[bytes], object], done: Callable[[int], object]
    ) -> None:
        self.number = number
        self.sinks = (_Stream(self, wire.STDOUT), _Stream(self, wire.STDERR))
        self._sandbox = sandbox
        self._send = send
        self._done = done
        self._oom_before = sandbox.oom_kills()
        self._request: Request | None = None
        self._lock = threading.Lock()
        self._input_under_way = 0
        self._open = {wire.STDOUT, wire.STDERR}
        self._is_answered = False
        self._streams_follow = False

    # -- towards the sandbox, on the receiver thread of the worker's channel

    def begin(self, request: Request) -> None:
        """The request is on its way to the agent."""
        self._request = request
        request.started.add_done_callback(self._started)
        request.future.add_done_callback(self._answered)

    def fail(self, error: Exception) -> None:
        """There is no request to be made."""
        self._send(messages.message(wire.RESULT, self.number, {"error": messages.pack_error(error)}))
        self._done(self.number)

    def take(self, kind: int, content: bytes) -> None:
        """A frame of the worker's for this request. Raises `ProtocolError` for what cannot be one."""
        request = self._request
        if request is None:
            raise wire.ProtocolError("a frame for a request that was never made")
        if kind == wire.CREDIT and len(content) == 5 and content[0] in {wire.STDOUT, wire.STDERR}:
            self.sinks[content[0] - wire.STDOUT].grant(int.from_bytes(content[1:], "big"))
        elif kind == wire.STDIN:
            self._write(request, content)
        elif kind == wire.STDIN_END:
            request.end_input()
        elif kind == wire.KILL:
            request.kill()
        else:
            raise wire.ProtocolError(f"unexpected frame of type {kind}")

    def _write(self, request: Request, content: bytes) -> None:
        with self._lock:
            self._input_under_way += len(content)
            if self._input_under_way > wire.WINDOW:
                raise wire.ProtocolError("more input than was granted")
        size = len(content)
        request.write(content).add_done_callback(lambda future: self._written(future, size))

    def _written(self, future: Future[None], size: int) -> None:
        with self._lock:
            self._input_under_way -= size
        granted = size if future.exception() is None else 0  # none: nobody reads any more
        self._send(wire.frame(wire.STDIN_CREDIT, self.number, granted.to_bytes(4, "big")))

    def abandon(self) -> None:
        """The worker is gone: end what the request runs, and let nothing wait for credit that never comes."""
        if self._request is not None:
            self._request.kill()

    # -- towards the worker, on the I/O thread of the pool

    def _started(self, _: Future[None]) -> None:
        if self._request is not None and not self._request.future.done():  # else the answer says it
            self._send(wire.frame(wire.STARTED, self.number))

    def _answered(self, future: Future[dict[str, object]]) -> None:
        error = future.exception()
        answer: dict[str, object] = {"error": messages.pack_error(error)} if error is not None else {}
        result = {} if error is not None else future.result()
        if error is None:
            # now, because the agent has just answered: see `Sandbox.oom_kills`
            answer = {"answer": result, "oom": max(0, self._sandbox.oom_kills() - self._oom_before)}
        message = messages.message(wire.RESULT, self.number, answer)
        with self._lock:  # with what it says of streams: both may happen at once on two threads
            self._is_answered = True
            self._streams_follow = result.get("streams_open") is True and bool(self._open)
            self._send(message)
        if not self._streams_follow:
            self._done(self.number)

    def pass_on(self, kind: int, data: bytes) -> None:
        """A piece of output."""
        self._send(wire.frame(kind, self.number, data))

    def stream_ended(self, kind: int, error: Exception | None) -> None:
        """A stream has ended; where the answer says so already, it is not said again."""
        with self._lock:
            self._open.discard(kind)
            if self._is_answered and not self._streams_follow:
                return
            if error is None:
                self._send(wire.frame(kind, self.number))
            else:
                self._send(messages.message(messages.BROKEN, self.number, messages.pack_error(error)))
            is_over = self._is_answered and not self._open
        if is_over:
            self._done(self.number)

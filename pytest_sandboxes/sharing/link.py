"""A worker's end of its channel to the controller: requests, calls, and what comes back."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pytest_sandboxes.agent import wire
from pytest_sandboxes.errors import PoolClosedError, SandboxLostError
from pytest_sandboxes.request import Request
from pytest_sandboxes.sharing import messages
from pytest_sandboxes.sharing.messages import take
from pytest_sandboxes.sharing.outbox import Outbox
from pytest_sandboxes.streams import Kept, Sink

if TYPE_CHECKING:
    from pytest_sandboxes.lease import Lease

__tracebackhide__ = True  # a failing test shows its own line, not ours

CALL_TIMEOUT = 120.0
"""Seconds that the controller may take over anything but a lease, which has deadlines of its own."""
_LOOK_AGAIN = 5.0  # seconds between looks of who waits for a lease at whether the controller is there
_CLOSE_TIMEOUT = 5.0

Convert = Callable[[dict[str, object]], Any]


class ReceivingChannel(messages.Channel, Protocol):
    """The channel as a worker gets it, before anything is received."""

    def setcallback(self, callback: Callable[[object], object], endmarker: object) -> None:
        """Have each item given to `callback`, on execnet's receiver thread."""


class RemotePort:
    """A slot of a sandbox that the controller has; what `Slot` speaks to."""

    def __init__(
        self, link: Link, number: int, name: str, backend: str, workspace: str, *, is_shared: bool
    ) -> None:
        self.number = number
        """Tells it from all that the worker has ever leased."""
        self.name = name
        self.backend = backend
        self.workspace = workspace
        self.is_shared = is_shared
        """See `Sandbox.is_shared`."""
        self.lease: Lease | None = None
        """The lease that it belongs to, as long as it does."""
        self.oom = 0
        self._link = link

    def request(
        self,
        operation: str,
        arguments: Mapping[str, object],
        *,
        timeout: float | None,
        input: bytes | None = None,
        sinks: tuple[Sink, Sink] | None = None,
    ) -> Request:
        """See `Connection.request`."""
        return self._link.request(self, operation, arguments, timeout=timeout, input=input, sinks=sinks)

    def lose(self, reason: str) -> None:
        """Give the sandbox up; the loss is on record when this returns."""
        self._link.call("lose", {"port": self.number, "reason": messages.sendable(reason)})

    def oom_kills(self) -> int:
        """How many processes the kernel has killed at its memory limit during requests that have been answered."""
        return self.oom

    def __repr__(self) -> str:
        return f"<RemotePort {self.name}>"


@dataclass
class _Call:
    future: Future[Any]
    convert: Convert


class Link:
    """Requests and calls to the controller, from any thread. Ends with `close`, or with the channel."""

    def __init__(self, channel: ReceivingChannel) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._requests: dict[int, tuple[Request, RemotePort]] = {}
        self._ports: dict[int, RemotePort] = {}
        self._error: Exception | None = None
        self._owner = os.getpid()
        self._outbox = Outbox(channel, lambda: self._end("the channel is broken"), "sandboxes-link")
        channel.setcallback(self._received, endmarker=None)

    # -- for callers

    def tell(self, what: str, content: Mapping[str, object]) -> None:
        """Have something done; there is no answer."""
        self._outbox.put(messages.message(messages.TELL, 0, {"what": what, **content}))

    def call(
        self,
        what: str,
        content: Mapping[str, object],
        convert: Convert = lambda answer: answer,
        *,
        timeout: float | None = CALL_TIMEOUT,
        give_up: Callable[[int], object] = lambda _: None,
    ) -> Any:
        """Have something done, and wait for the answer; raises what that is when it is an error.

        `convert` makes the result from it on the receiver thread, before anything is received that was sent later. A
        wait without `timeout` ends with the channel. `give_up` is called with the call's number when the wait is
        interrupted.
        """
        self._refuse_children()
        number = next(self._numbers)
        future: Future[Any] = Future()
        with self._lock:
            error = self._error
            if error is None:
                self._calls[number] = _Call(future, convert)
        if error is not None:
            raise error.with_traceback(None)
        self._outbox.put(messages.message(messages.CALL, number, {"what": what, **content}))
        failure: BaseException | None
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while True:
                try:
                    failure = future.exception(_LOOK_AGAIN)
                    break
                except FutureTimeoutError:
                    if deadline is not None and time.monotonic() > deadline:
                        raise PoolClosedError(f"the controller did not answer within {timeout} s") from None
        except BaseException:
            with self._lock:
                self._calls.pop(number, None)
            give_up(number)
            raise
        if failure is not None:
            raise failure.with_traceback(None)
        return future.result()

    def request(
        self,
        port: RemotePort,
        operation: str,
        arguments: Mapping[str, object],
        *,
        timeout: float | None,
        input: bytes | None,
        sinks: tuple[Sink, Sink] | None,
    ) -> Request:
        """See `Connection.request`. The deadline is watched over by the controller's connection to the agent."""
        self._refuse_children()
        content = wire.encode({"op": operation, "timeout": timeout, **arguments})
        if len(content) > wire.MAX_PAYLOAD:
            raise ValueError("arguments and environment of a command are limited to 256 KiB")
        request = Request(self, next(self._numbers), sinks or (Kept(), Kept()), None)
        with self._lock:
            error = self._error
            if error is None:
                self._requests[request.number] = (request, port)
        if error is not None:
            raise error.with_traceback(None)
        whole = input if input is not None and len(input) < wire.CHUNK else None
        self._outbox.put(messages.message(wire.REQUEST, request.number, [port.number, content, whole]))
        if input is not None and whole is None:
            request.write(input).add_done_callback(lambda future: future.exception())
            request.end_input()
        return request

    def flush(self) -> None:
        """Wait until all that was said has been sent: what another thread sends from now on comes after it.

        Raises `PoolClosedError` when that takes too long, or the channel has ended.
        """
        if not self._outbox.flush(CALL_TIMEOUT):
            with self._lock:
                error = self._error
            raise error or PoolClosedError(f"the controller has taken nothing for {CALL_TIMEOUT} s")

    def send(self, data: bytes) -> None:
        """Send frames of a request; see `Connection.send`."""
        self._outbox.put(data)

    def grant(self, request: Request, kind: int, amount: int) -> None:
        """Allow `amount` more bytes on one stream of a request; see `Connection.grant`."""
        self._outbox.put(wire.frame(wire.CREDIT, request.number, bytes((kind,)) + amount.to_bytes(4, "big")))

    def port(self, described: object) -> RemotePort:
        """The port that an answer describes. Raises `ProtocolError` for what describes none."""
        match described:
            case [int(number), str(name), str(backend), str(workspace), bool(is_shared)]:
                port = RemotePort(self, number, name, backend, workspace, is_shared=is_shared)
            case _:
                raise wire.ProtocolError("not a slot")
        with self._lock:
            self._ports[number] = port
        return port

    def forget(self, port: RemotePort) -> None:
        """A port is not used any more: what happens to its sandbox concerns somebody else."""
        with self._lock:
            self._ports.pop(port.number, None)

    def close(self) -> None:
        """End the connection after what was sent before. May be called twice."""
        if os.getpid() == self._owner:
            self._end(None)
            self._outbox.join(_CLOSE_TIMEOUT)

    def _refuse_children(self) -> None:
        if os.getpid() != self._owner:
            raise RuntimeError("a sandbox cannot be used in a forked child of the process that leased it")

    # -- execnet's receiver thread, which must never wait

    def _received(self, item: object) -> None:
        if item is None:
            self._end("the controller has gone away, or cut this worker off")
            return
        try:
            for kind, number, content in messages.frames(item):
                self._take(kind, number, content)
        except (wire.ProtocolError, KeyError, IndexError, TypeError) as error:
            self._end(f"the controller sent something else than an answer: {error!r}")

    def _take(self, kind: int, number: int, content: bytes) -> None:
        if kind == messages.ANSWER:
            self._take_answer(number, wire.decode_dict(content))
            return
        if kind == messages.LOST:
            with self._lock:
                port = self._ports.get(number)
            if port is not None:
                _record_loss(port, messages.unpack_error(wire.decode(content)))
            return
        with self._lock:
            request, port = self._requests.get(number, (None, None))
        if request is None or port is None:
            return  # it has ended meanwhile
        if kind in request.sinks:
            self._take_output(request, port, kind, content)
        elif kind == wire.RESULT:
            self._take_result(request, port, wire.decode_dict(content))
        elif kind == wire.STARTED:
            request.set_started()
        elif kind == wire.STDIN_CREDIT:
            amount = int.from_bytes(content, "big")
            if amount:
                request.input.grant(amount)
            else:
                request.input.fail(BrokenPipeError("the process does not read its input any more"))
        elif kind == messages.BROKEN:
            if request.future.done():
                self._forget(request)
            request.finish(messages.unpack_error(wire.decode(content)))

    def _take_answer(self, number: int, answer: dict[str, object]) -> None:
        with self._lock:
            call = self._calls.pop(number, None)
        if call is None:
            return  # nobody waits any more
        if "error" in answer:
            call.future.set_exception(messages.unpack_error(answer["error"]))
            return
        try:
            result = call.convert(answer)
        except Exception as error:
            call.future.set_exception(PoolClosedError(f"the controller gave no possible answer: {error!r}"))
            raise
        call.future.set_result(result)

    def _take_output(self, request: Request, port: RemotePort, kind: int, content: bytes) -> None:
        if not content:
            request.end_stream(kind, None)
            if request.future.done() and not request.open_streams:
                self._forget(request)
            return
        try:
            request.sinks[kind].feed(content)
        except wire.ProtocolError as error:
            # the agent's, and the loss that follows ends the request
            reason = f"its agent broke the protocol: {error}"
            self.tell("lose", {"port": port.number, "reason": reason})

    def _take_result(self, request: Request, port: RemotePort, answer: dict[str, object]) -> None:
        if "error" in answer:
            self._forget(request)
            error = messages.unpack_error(answer["error"])
            request.future.set_exception(error)
            request.finish(error)
            return
        port.oom += take(answer, "oom", int)
        result = take(answer, "answer", dict)
        request.end_of_reading()  # before anybody is told of the end, and writes
        request.future.set_result(result)
        if result.get("streams_open") is True and request.open_streams:
            request.set_started()  # after the result, for which who waits for the start looks next
        else:
            self._forget(request)
            request.finish(None)

    def _forget(self, request: Request) -> None:
        with self._lock:
            self._requests.pop(request.number, None)

    def _end(self, reason: str | None) -> None:
        """Fail whatever waits. With a `reason`, all that is leased counts as lost."""
        closed = PoolClosedError("the pool of sandboxes has been closed: the run is over")
        error = (
            closed if reason is None else PoolClosedError(f"the pool of sandboxes is out of reach: {reason}")
        )
        with self._lock:
            if self._error is not None:
                return
            self._error = error
            calls, requests, ports = list(self._calls.values()), list(self._requests.values()), self._ports
            self._calls, self._requests, self._ports = {}, {}, {}
        if reason is not None:
            for port in ports.values():
                _record_loss(port, SandboxLostError(f"{port.name} was lost: {reason}"))
        for call in calls:
            call.future.set_exception(error)
        for request, port in requests:
            lost = SandboxLostError(f"{port.name} was lost: {reason or 'the run is over'}")
            if not request.future.done():
                request.future.set_exception(lost)
            request.finish(lost)
        self._outbox.close()


def _record_loss(port: RemotePort, error: Exception) -> None:
    if port.lease is not None:
        port.lease.record_loss(port, error)  # type: ignore[arg-type]

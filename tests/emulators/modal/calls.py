"""From a gRPC call to the method that answers it: who may call, what faults do, and UNIMPLEMENTED for all the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from google.protobuf.message import Message
from grpclib import GRPCError, Status
from grpclib.encoding.base import StatusDetailsCodecBase
from grpclib.server import Stream
from modal_proto import api_pb2 as api

from tests.emulators.events import EventLog
from tests.emulators.faults import FaultPlan
from tests.emulators.modal.faults import Fault

if TYPE_CHECKING:
    from grpclib._typing import IServable

Method = TypeVar("Method", bound=Callable[..., Any])
_Stream = Stream[Any, Any]

_TOO_MANY_TO_LOG = {"TaskExecStdinWrite", "TaskExecStdioRead", "TaskExecPoll"}


def answers(*methods: str) -> Callable[[Method], Method]:
    """Mark a method of a part as the answer to calls of these names.

    It takes the request and returns the reply, or is an asynchronous generator of replies.
    """

    def mark(method: Method) -> Method:
        method.answers = methods  # type: ignore[attr-defined]
        return method

    return mark


def takes_requests(*methods: str) -> Callable[[Method], Method]:
    """Mark a method as the answer to calls that send several requests: it takes the first, and an iterator of the rest."""

    def mark(method: Method) -> Method:
        method.takes_requests = True  # type: ignore[attr-defined]
        return answers(*methods)(method)

    return mark


class Guard(Protocol):
    """Decides who may call."""

    def __call__(self, method: str, request: Message, metadata: Any) -> None:
        """Raise UNAUTHENTICATED for who may not."""


class Desk:
    """Where all calls of one service come in."""

    def __init__(
        self, guard: Guard, events: EventLog, faults: FaultPlan[Fault], sandbox_of: Callable[[Message], str]
    ) -> None:
        self._guard = guard
        self._events = events
        self._faults = faults
        self._sandbox_of = sandbox_of

    def service(self, base: Any, parts: Iterable[object]) -> IServable:
        """A service in which each call is answered by the method of a part that is marked for it."""
        names: frozenset[str] = base.__abstractmethods__
        handlers = {name: self._handler(name, _refuse, takes_requests=False) for name in names}
        for part in parts:
            for method in vars(type(part)).values():
                for name in getattr(method, "answers", ()):
                    if name not in names:
                        raise TypeError(f"{base.__name__} has no call {name}")
                    answer = getattr(part, method.__name__)
                    handlers[name] = self._handler(
                        name, answer, takes_requests=hasattr(method, "takes_requests")
                    )
        members = {name: staticmethod(handler) for name, handler in handlers.items()}
        made: IServable = type(base.__name__, (base,), members)()
        return made

    def _handler(
        self, name: str, answer: Callable[..., Any], *, takes_requests: bool
    ) -> Callable[[_Stream], Awaitable[None]]:
        async def handle(stream: _Stream) -> None:
            request = await stream.recv_message()
            if request is None:
                return
            fault = await self._admit(name, request, stream)
            if fault and fault.kind == "lost_request":
                await stream.cancel()
                return
            lost = fault is not None and fault.kind == "lost_reply"
            reply = answer(request, stream) if takes_requests else answer(request)
            if isinstance(reply, AsyncGenerator):
                await _send_all(stream, reply, lost=lost)
                return
            message = await reply
            if fault and fault.kind == "late_reply":
                await asyncio.sleep(fault.delay)
            if lost:
                await stream.cancel()
            else:
                await stream.send_message(message)

        return handle

    async def _admit(self, name: str, request: Message, stream: _Stream) -> Fault | None:
        """The fault that is to happen to a call, if it is not an error that is raised here."""
        sandbox = self._sandbox_of(request)
        if name not in _TOO_MANY_TO_LOG:
            self._events.record("call", method=name, sandbox=sandbox)
        fault = self._faults.take(name, sandbox)
        if fault:
            self._events.record("fault", kind=fault.kind, method=name, sandbox=sandbox)
            if fault.kind != "late_reply":
                await asyncio.sleep(fault.delay)
            _raise(fault)
        self._guard(name, request, stream.metadata)
        return fault


class StatusDetailsCodec(StatusDetailsCodecBase):
    """Writes details of errors as the client reads them (modal/_utils/grpc_utils.py, `CustomProtoStatusDetailsCodec`)."""

    def encode(self, status: Status, message: str | None, details: Sequence[Message] | None) -> bytes:
        """The wire form, in which each detail names its type."""
        written = api.RPCStatus(code=status.value, message=message or "")
        for detail in details or ():
            written.details.add().Pack(detail, type_url_prefix="type.modal.com/")
        return written.SerializeToString()

    def decode(self, status: Status, message: str | None, data: bytes) -> Any:
        """Not for servers."""
        raise NotImplementedError


def _raise(fault: Fault) -> None:
    if fault.kind == "unavailable":
        raise GRPCError(Status.UNAVAILABLE, "The service is not available")
    if fault.kind == "expired_token":
        raise GRPCError(Status.UNAUTHENTICATED, "The token has expired")
    if fault.kind == "throttled":
        after = fault.retry_after
        details = None if after is None else [api.RPCRetryPolicy(retry_after_secs=after)]
        raise GRPCError(Status.RESOURCE_EXHAUSTED, "Too many requests", details)


async def _send_all(stream: _Stream, replies: AsyncGenerator[Message, None], *, lost: bool) -> None:
    async with aclosing(replies):
        async for message in replies:
            if lost:
                break
            await stream.send_message(message)
    if lost:
        await stream.cancel()


async def _refuse(request: Message) -> Message:
    raise GRPCError(Status.UNIMPLEMENTED, f"The emulator does not do what {request.DESCRIPTOR.name} asks for")

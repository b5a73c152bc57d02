"""What all that a slot can be asked to do has in common: a port to its sandbox, a pending answer, a checked answer.

`commands` and `file_operations` have a function for each thing to ask for. It starts one request and returns a
`Pending`, which a sync caller waits for and an async one awaits.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pytest_sandboxes.connection import HEARTBEAT_DEADLINE
from pytest_sandboxes.errors import SandboxesError, SandboxLostError, UnsupportedError
from pytest_sandboxes.request import Request
from pytest_sandboxes.results import describe_name
from pytest_sandboxes.streams import Sink

__tracebackhide__ = True  # a failing test shows its own line, not ours

Text = str | bytes | os.PathLike[str]
"""A path, or another word of a command."""

T = TypeVar("T")
Answer = dict[str, object]


class Port(Protocol):
    """A slot of a sandbox as `Slot` sees it, whichever process the pool lives in."""

    name: str
    """Name of the sandbox."""

    def request(
        self,
        operation: str,
        arguments: Mapping[str, object],
        *,
        timeout: float | None,
        input: bytes | None = None,
        sinks: tuple[Sink, Sink] | None = None,
    ) -> Request:
        """Start a request; see `Connection.request`."""

    def lose(self, reason: str) -> None:
        """Give the sandbox up: what it says cannot be relied on."""

    def oom_kills(self) -> int:
        """How many processes of the sandbox the kernel has killed at its memory limit so far."""


@dataclass(frozen=True)
class Pending(Generic[T]):
    """A request on its way and how to read its answer."""

    request: Request
    convert: Callable[[Answer], T]
    timeout: float | None

    def result(self) -> T:
        """Wait for the answer. An interrupted wait (Ctrl-C, a test's timeout) kills what the request runs."""
        # the connection gives up on its own clock; this is for the case that its thread is gone
        patience = None if self.timeout is None else self.timeout + 2 * HEARTBEAT_DEADLINE
        try:
            error = self.request.future.exception(patience)
        except FutureTimeoutError:
            self.request.kill()
            raise SandboxLostError("no answer came, nor word that none will") from None
        except BaseException:
            self.request.kill()
            raise
        if error is not None:
            raise error.with_traceback(None)  # it may have been raised before, in another test
        return self.convert(self.request.future.result())

    async def result_async(self) -> T:
        """Await the answer. A cancelled wait kills what the request runs."""
        try:
            answer = await asyncio.wrap_future(self.request.future)
        except BaseException:
            self.request.kill()
            raise
        return self.convert(answer)


# -- answers


def raise_error(answer: Answer) -> None:
    """Raise what the agent reports in place of a result: an OSError by its number, or one of few others."""
    kind = answer.get("error")
    if kind is None:
        return
    number, name, message = answer.get("errno"), answer.get("filename"), answer.get("message")
    if isinstance(number, int) and number in errno.errorcode:
        if isinstance(name, bytes) and name:
            raise OSError(number, os.strerror(number), describe_name(name))
        raise OSError(number, os.strerror(number))
    if kind == "MemoryError":
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if kind == "UnsupportedError":
        raise UnsupportedError(describe_name(str(message).encode("utf-8", "replace"))[:500])
    shown = describe_name(str(message).encode("utf-8", "replace"))[:500]
    raise SandboxesError(f"the agent could not do it: {shown}")


def field(port: Port, answer: Answer, name: str, kind: type[T]) -> T:
    """A field of an answer that has it; gives the sandbox up and raises `SandboxLostError` otherwise."""
    value = answer.get(name)
    # no number that an agent reports can be negative, endless or none
    if type(value) is not kind or (isinstance(value, int | float) and not 0 <= value < math.inf):
        raise lied(port, f"an answer without a possible {name}")
    return value


def lied(port: Port, what: str) -> SandboxLostError:
    """Give the sandbox up because of what it said; the error is for the caller to raise."""
    reason = f"its agent broke the protocol: {what}"
    port.lose(reason)
    return SandboxLostError(reason)

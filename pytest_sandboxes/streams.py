"""Where a request's output goes: kept in memory up to a limit, or handed piece by piece to a reader.

The I/O thread feeds them and never waits. Credit for more goes back to the agent when bytes have been kept or
read, so an unread stream stops its own process and nobody else's.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Protocol

from pytest_sandboxes.agent.wire import WINDOW, ProtocolError

__tracebackhide__ = True  # a failing test shows its own line, not ours


class Sink(Protocol):
    """Takes one output stream of a request; called on the I/O thread."""

    def attach(self, grant: Callable[[int], None]) -> None:
        """Learn how to grant the sender more bytes."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""

    def end(self, error: Exception | None) -> None:
        """No more will come; `error` says why when that is too early."""


class Kept:
    """Keeps all that comes, which may be no more than `limit` bytes."""

    def __init__(self, limit: int = 0) -> None:
        self._left = limit
        self.data = bytearray()  # a list of pieces would let one-byte frames cost fifty bytes each
        self._ungranted = 0
        self._grant: Callable[[int], None] = lambda _: None

    def attach(self, grant: Callable[[int], None]) -> None:
        """See `Sink`."""
        self._grant = grant

    def feed(self, data: bytes) -> None:
        """See `Sink`. Raises `ProtocolError` for more than was asked for."""
        self._left -= len(data)
        if self._left < 0:
            raise ProtocolError("more output than was asked for")
        self.data += data
        self._ungranted += len(data)
        if self._ungranted >= WINDOW // 2:
            self._grant(self._ungranted)
            self._ungranted = 0

    def end(self, error: Exception | None) -> None:  # noqa: ARG002 - as `Sink` has it
        """See `Sink`."""
        # it leads to the request and from there back here: all that was kept would wait for the garbage collector
        self._grant = lambda _: None

    def bytes(self) -> bytes:
        """All so far; `data` is the same without a copy."""
        return bytes(self.data)


class Piped:
    """Hands bytes to one reader, sync or async. `on_read` is called whenever that one asks for more."""

    def __init__(self, on_read: Callable[[], object] = lambda: None) -> None:
        self._on_read = on_read
        self._lock = threading.Lock()
        self._pieces: deque[bytes] = deque()
        self._ended = False
        self._error: Exception | None = None
        self._waiter: Future[None] | None = None
        self._grant: Callable[[int], None] = lambda _: None

    def attach(self, grant: Callable[[int], None]) -> None:
        """See `Sink`."""
        self._grant = grant

    def feed(self, data: bytes) -> None:
        """See `Sink`."""
        with self._lock:
            self._pieces.append(data)
            waiter, self._waiter = self._waiter, None
        _wake(waiter)

    def end(self, error: Exception | None) -> None:
        """See `Sink`."""
        with self._lock:
            self._ended = True
            self._error = self._error or error
            waiter, self._waiter = self._waiter, None
        _wake(waiter)

    def read(self, timeout: float | None = None) -> bytes:
        """The next piece, empty at the end.

        Raises TimeoutError when nothing comes for `timeout` seconds, and what ended the stream too early.
        """
        while True:
            piece, waiter = self._take()
            if waiter is None:
                return piece
            try:
                waiter.result(timeout)
            except FutureTimeoutError:
                raise TimeoutError(f"no output for {timeout} s") from None

    async def read_async(self) -> bytes:
        """The next piece, empty at the end; raises what ended the stream too early."""
        while True:
            piece, waiter = self._take()
            if waiter is None:
                return piece
            await asyncio.wrap_future(waiter)

    def _take(self) -> tuple[bytes, Future[None] | None]:
        self._on_read()
        with self._lock:
            if not self._pieces:
                if self._error is not None:
                    raise self._error.with_traceback(None)  # it may have been raised before, in another test
                if self._ended:
                    return b"", None
                # a reader that gave up leaves its waiter behind for the next
                if self._waiter is None or self._waiter.cancelled():
                    self._waiter = Future()
                return b"", self._waiter
            piece = self._pieces.popleft()
        self._grant(len(piece))
        return piece, None


def _wake(waiter: Future[None] | None) -> None:
    if waiter is not None and waiter.set_running_or_notify_cancel():
        waiter.set_result(None)

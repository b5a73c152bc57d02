"""Whether the command router of a sandbox can be reached: the client tries for minutes, and says nothing meanwhile.

Its address is told to the client alone, so that no probe goes there first. What the client's own attempts come to is
noted where it makes them, on behalf of whoever waits for them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from pytest_sandboxes.backends.modal.errors import unreachable
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ServiceUnavailableError

if TYPE_CHECKING:
    from grpclib.client import Channel

PATIENCE = 20.0
"""Seconds for which attempts may fail."""

_BETWEEN = 0.2
"""Seconds after a failure until the client is given up, in the pause before its next attempt: of a failure and a
cancellation at once, it sees the failure alone."""

_waiting: ContextVar[_Attempts | None] = ContextVar("waiting", default=None)
"""On whose behalf a channel is opened: a call of ours takes its context along to the client's thread."""


class _Attempts:
    """Attempts at one server that have failed."""

    def __init__(self, give_up: Callable[[], object]) -> None:
        self.complaint = ""
        """What to say of them, once they are given up."""
        self._give_up = give_up
        self._first: float | None = None

    def fail(self, address: str, error: OSError) -> None:
        """One more has."""
        now = time.monotonic()
        self._first = now if self._first is None else self._first
        if now - self._first >= PATIENCE and not self.complaint:
            self.complaint = (
                f"its command router at {one_line(address, 200)} cannot be reached: {unreachable(error)}"
            )
            self._give_up()


def note_attempts(channel: Channel) -> None:
    """Have what a channel of the client's does to connect known here."""
    connect = channel._create_connection  # noqa: SLF001 - there is no event for it
    address = f"{channel._host}:{channel._port}"  # noqa: SLF001

    async def connect_and_note() -> Any:
        attempts = _waiting.get()
        try:
            return await connect()
        except OSError as error:
            if attempts is not None:
                attempts.fail(address, error)
            raise
        except asyncio.CancelledError:  # it has taken too long for the client
            if attempts is not None:
                attempts.fail(address, TimeoutError())
            raise

    channel._create_connection = connect_and_note  # type: ignore[method-assign] # noqa: SLF001


@asynccontextmanager
async def within_reach() -> AsyncIterator[None]:
    """A block of calls to one router. Raises `ServiceUnavailableError` when that has not been reached for a while."""
    loop = asyncio.get_running_loop()
    timer = asyncio.timeout(None)
    attempts = _Attempts(lambda: loop.call_soon_threadsafe(timer.reschedule, loop.time() + _BETWEEN))
    token = _waiting.set(attempts)
    try:
        async with timer:
            yield
    except TimeoutError:
        if not attempts.complaint:
            raise
        raise ServiceUnavailableError(attempts.complaint) from None
    finally:
        _waiting.reset(token)

"""What a router says that is not so. No service is known to lie; who trusts none is to be shown that nothing comes of it.

A test plans them as it plans faults, by `Control.inject(what, lie)`, where `what` is one of `OUTPUT` and its like.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from grpclib import GRPCError, Status

from tests.emulators.events import EventLog
from tests.emulators.faults import FaultPlan
from tests.emulators.modal.faults import OUTPUT, Fault

_GIANT = 20 << 20
_FLOOD = bytes(1 << 18)


class Lies:
    """Which lie is told about what; each is logged as a fault."""

    def __init__(self, faults: FaultPlan[Fault], events: EventLog) -> None:
        self._faults = faults
        self._events = events
        self._forgotten: set[str] = set()

    def take(self, what: str, sandbox: str) -> Fault | None:
        """The one that is to be told now."""
        lie = self._faults.take(what, sandbox)
        if lie is not None:
            self._events.record("fault", kind=lie.kind, method=what, sandbox=sandbox)
        return lie

    def offset(self, exec_id: str, asked: int) -> int:
        """Where the reading of an output goes on, as the router has it."""
        if asked and exec_id in self._forgotten:
            self._forgotten.discard(exec_id)
            return 0
        return asked

    async def output(
        self, pieces: AsyncGenerator[bytes, None], exec_id: str, sandbox: str
    ) -> AsyncIterator[bytes]:
        """Standard output as it is told.

        `repeated`, `skipped` and `cut` are a piece that comes twice, not at all, or without its first byte; `swapped`
        comes behind the next. `giant` is a message of 20 MiB, and `flood` has no end. Of one that is `silent` half
        comes, and nothing ever after; of a `trickle`, a byte every `delay` seconds. An output that has `ended` has
        another end than the command; one that is `restarted` breaks, and begins again at its beginning.
        """
        async with aclosing(pieces):
            async for piece in pieces:
                lie = self.take(OUTPUT, sandbox)
                if lie is None:
                    yield piece
                    continue
                if lie.kind == "ended":
                    return
                if lie.kind == "restarted":
                    yield piece
                    self._forgotten.add(exec_id)
                    raise GRPCError(Status.UNAVAILABLE, "The router has been started anew")
                if lie.kind == "swapped":
                    yield await anext(pieces)
                async for told in self._told(piece, lie):
                    yield told

    async def _told(self, piece: bytes, lie: Fault) -> AsyncIterator[bytes]:
        """What becomes of one piece."""
        half = len(piece) // 2
        if lie.kind == "repeated":
            yield piece
            yield piece
        elif lie.kind == "swapped":
            yield piece
        elif lie.kind == "cut":
            yield piece[1:]
        elif lie.kind == "giant":
            yield bytes(_GIANT)
        elif lie.kind == "silent":
            yield piece[:half]
            await asyncio.Event().wait()
        elif lie.kind == "trickle":
            for byte in piece[:half]:
                yield bytes((byte,))
                await asyncio.sleep(lie.delay)
            await asyncio.Event().wait()
        elif lie.kind == "flood":
            sent = 0
            try:
                while True:
                    yield _FLOOD
                    sent += len(_FLOOD)
            finally:
                self._events.record("flooded", sent=sent)

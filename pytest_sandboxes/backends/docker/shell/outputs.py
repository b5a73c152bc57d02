"""Where a job's output waits until the controller wants it."""

from __future__ import annotations

from collections.abc import Callable

from pytest_sandboxes.agent import wire


class Output:
    """One output of a job: forwarded up to a limit while the controller grants credit, then dropped."""

    def __init__(self, kind: int, limit: int) -> None:
        self.kind = kind
        self.room = limit
        self.credit = wire.WINDOW
        self.cut = False
        self.pending = bytearray()

    def take(self, data: bytes) -> None:
        """Keep as much of `data` as is wanted."""
        kept = data[: self.room]
        self.cut = self.cut or len(kept) < len(data)
        self.room -= len(kept)
        self.pending += kept

    def flush(self, send: Callable[[bytes], None]) -> None:
        """Forward what there is credit for."""
        while self.pending and self.credit > 0:
            piece = bytes(self.pending[: min(self.credit, wire.CHUNK)])
            del self.pending[: len(piece)]
            self.credit -= len(piece)
            send(piece)

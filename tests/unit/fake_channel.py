"""Both ends of a channel of execnet, in one process: a thread for each direction receives, as execnet's does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class FakeChannel:
    """One end. What is sent arrives at the other end's callback, in order, on that end's own thread."""

    def __init__(self) -> None:
        self.other: FakeChannel
        self.sent: list[object] = []
        """All that this end has sent."""
        self.on_send: Callable[[], object] = lambda: None
        """Called before each send; may wait as a full pipe does, or raise OSError as a broken one does."""
        self._items: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def setcallback(self, callback: Callable[[object], object], endmarker: object) -> None:
        """Begin to receive."""

        def receive() -> None:
            while (item := self._items.get()) is not None:
                callback(item)
            callback(endmarker)

        self._thread = threading.Thread(target=receive, daemon=True)
        self._thread.start()

    def send(self, item: object) -> None:
        """Have it arrive at the other end."""
        if self._closed:
            raise OSError("closed")
        self.on_send()
        self.sent.append(item)
        self.other._items.put(item)

    def close(self, error: str | None = None) -> None:
        """Close both ends."""
        for end in (self, self.other):
            if not end._closed:
                end._closed = True
                end._items.put(None)

    def join(self) -> None:
        """Wait until all has been received."""
        if self._thread is not None:
            self._thread.join(60)
            assert not self._thread.is_alive()


def channel() -> tuple[FakeChannel, FakeChannel]:
    """The two ends."""
    one, other = FakeChannel(), FakeChannel()
    one.other, other.other = other, one
    return one, other

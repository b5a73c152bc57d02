"""Sending over a channel without ever waiting for it."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from pytest_sandboxes.sharing.messages import Channel

_MAX_SEND = 1 << 18
"""Bytes sent at a time: a neighbour on the same pipe waits for no more."""


class Outbox:
    """Sends what is put into it, in order, on a thread of its own, which ends with `close`, closing the channel.

    The receiver thread of execnet must not send: with both pipes full, two of them would wait for each other. Nor may a
    thread that a signal can interrupt, because half of an item may be in the pipe by then. What is put in is bounded by
    the credit of the streams that it belongs to.
    """

    def __init__(self, channel: Channel, broken: Callable[[], object], name: str) -> None:
        """`broken` is called on the thread, once, when nothing can be sent any more."""
        self._channel = channel
        self._broken = broken
        self._queue: queue.SimpleQueue[bytes | Future[bool] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._ended = False
        # a daemon, because a peer that has stopped reading can hold it for as long as it likes
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, data: bytes) -> None:
        """Send `data` soon; never waits. Dropped after `close`."""
        self._queue.put(data)

    def flush(self, patience: float) -> bool:
        """Wait, at most `patience` seconds, until all that was put in before has been sent; whether it has been."""
        reached: Future[bool] = Future()
        with self._lock:
            if self._ended:
                return False
            self._queue.put(reached)
        try:
            return reached.result(patience)
        except FutureTimeoutError:
            return False

    def close(self) -> None:
        """Close the channel after what was put in before; never waits."""
        self._queue.put(None)

    def join(self, patience: float) -> None:
        """Wait until the channel has been closed, but no more than `patience` seconds."""
        if threading.current_thread() is not self._thread:
            self._thread.join(patience)

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # what is closed twice, or broken, is as closed as can be
            try:
                self._send_all()
            except OSError:
                self._broken()
            self._end()
            self._channel.close()

    def _end(self) -> None:
        """Let nobody wait for what is not sent any more."""
        with self._lock:
            self._ended = True
        while not self._queue.empty():
            item = self._queue.get()
            if isinstance(item, Future):
                item.set_result(False)

    def _send_all(self) -> None:
        item = self._queue.get()
        while item is not None:
            if isinstance(item, Future):
                item.set_result(True)
                item = self._queue.get()
                continue
            parts, size = [item], len(item)
            item = b""
            while not self._queue.empty():  # nobody else takes from it
                item = self._queue.get()
                if not isinstance(item, bytes) or size + len(item) > _MAX_SEND:
                    break
                parts.append(item)
                size += len(item)
                item = b""
            try:
                self._channel.send(b"".join(parts))
            except OSError:
                if isinstance(item, Future):
                    item.set_result(False)
                raise
            if item == b"":
                item = self._queue.get()

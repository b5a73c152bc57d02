"""The agent's end of the stream to its controller, and the poll loop that everything else hangs on."""

from __future__ import annotations

import os
import select

from pytest_sandboxes.agent import wire

TYPE_CHECKING = False  # `typing` is not worth its import time here
if TYPE_CHECKING:
    from collections.abc import Callable

_READ = 1 << 18


class Poller:
    """Calls a function whenever a file descriptor is ready."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, events: int, handler: Callable[[], None]) -> None:
        """Call `handler` while `fd` has one of `events`, an error, or was hung up."""
        self._handlers[fd] = handler
        self._poll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        """Forget `fd`, whether watched or not."""
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def wait(self, timeout: float) -> None:
        """Handle what is ready now or within `timeout` seconds."""
        for fd, _ in self._poll.poll(max(0.0, timeout) * 1000):
            # an earlier handler of this round may have closed it
            handler = self._handlers.get(fd)
            if handler is not None:
                handler()


class Link:
    """Reads the controller's frames and queues those for it; the credit of every stream bounds the queue."""

    def __init__(
        self,
        incoming: int,
        outgoing: int,
        poller: Poller,
        receive: Callable[[int, int, bytes], None],
        lost: Callable[[], None],
    ) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._poller = poller
        self._receive = receive
        self._lost = lost
        self._reader = wire.FrameReader()
        self._numbers = wire.Numbering()
        # read into one buffer: a new one of this size for each read would cost three calls of the kernel
        self._inbox = memoryview(bytearray(_READ))
        self._queue = bytearray()
        self._blocked = False
        self._awaited: tuple[bytes, int, Callable[[bytes], None]] | None = None
        self._before = b""
        for fd in (incoming, outgoing):
            os.set_blocking(fd, False)
        poller.watch(incoming, select.POLLIN, self._readable)

    def send(self, kind: int, request: int, payload: bytes = b"") -> None:
        """Queue one frame; `flush` writes it."""
        self._queue += wire.frame(kind, request, payload, self._numbers.next())

    def send_bare(self, data: bytes) -> None:
        """Queue bytes that are no frame."""
        self._queue += data

    def wait_for(self, watchword: bytes, size: int, come: Callable[[bytes], None]) -> None:
        """Take no frame any more before somebody says `watchword`; `come` is called with the `size` bytes behind it.

        After those, frames are taken as ever, and are numbered anew in both directions.
        """
        self._awaited = watchword, size, come
        self._before = b""
        self._reader = wire.FrameReader()

    def flush(self) -> None:
        """Write as much as the stream takes now; the rest follows when it takes more."""
        queue = self._queue
        if self._outgoing < 0:
            queue.clear()
            return
        try:
            while queue:
                with memoryview(queue) as view:
                    written = os.write(self._outgoing, view[:_READ])
                del queue[:written]
        except BlockingIOError:
            pass
        except OSError:
            self._lost()  # which ends the agent, or closes this
            queue.clear()
            return
        if bool(queue) != self._blocked:
            self._blocked = bool(queue)
            if self._blocked:
                self._poller.watch(self._outgoing, select.POLLOUT, self._writable)
            else:
                self._poller.unwatch(self._outgoing)

    def close(self) -> None:
        """Let go of the stream; what is sent from now on goes nowhere."""
        if self._incoming >= 0:
            for fd in (self._incoming, self._outgoing):
                self._poller.unwatch(fd)
                os.close(fd)
            self._incoming = self._outgoing = -1

    def _writable(self) -> None:
        """The loop flushes before it waits again."""

    def _readable(self) -> None:
        try:
            size = os.readv(self._incoming, (self._inbox,))
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self._lost()
            return
        data = self._inbox[:size]
        for kind, request, payload in self._reader.feed(
            data if self._awaited is None else self._behind(data)
        ):
            if self._awaited is None:  # else the one before it was the last of its sender's
                self._receive(kind, request, payload)

    def _behind(self, data: memoryview) -> bytes:
        """What has come behind the watchword and what goes with it; nothing as long as these are not there."""
        assert self._awaited is not None
        watchword, size, come = self._awaited
        seen = self._before + bytes(data)
        at = seen.find(watchword)
        end = at + len(watchword) + size
        if at < 0 or end > len(seen):
            self._before = seen[at:] if at >= 0 else seen[1 - len(watchword) :]
            return b""
        self._awaited = None
        self._before = b""
        self._numbers = wire.Numbering()
        come(seen[end - size : end])
        return seen[end:]

"""The one thread that reads all sandboxes' streams and watches all clocks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_CLOSE_TIMEOUT = 5.0
_ASIDE = 32
"""Things that run aside at the same time: hundreds of sandboxes may be lost together, and each be asked about it."""


class IOThread:
    """An event loop on a thread of its own, started by the first use and ended by `close`.

    Nothing that blocks may run on it. It is a daemon only so that a forgotten one cannot keep an interpreter
    alive.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self._closed = False
        self._aside: ThreadPoolExecutor | None = None
        self.over = threading.Event()
        """The run is over: nobody waits any more for what is being begun."""

    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop.

        Raises RuntimeError after `close`, but not to what still runs on the thread itself, and when this process may
        start no thread.
        """
        with self._lock:
            if self._closed and threading.current_thread() is not self._thread:
                raise RuntimeError("the I/O thread has been closed")
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_serve, args=(loop,), name="sandboxes-io", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    loop.close()
                    raise
                self._loop, self._thread = loop, thread
            return self._loop

    def is_current(self) -> bool:
        """Whether the caller runs on it."""
        return threading.current_thread() is self._thread

    def submit(self, function: Callable[[], object]) -> None:
        """Run `function` on the thread, soon; dropped once the thread is closed."""
        try:
            self.loop().call_soon_threadsafe(function)
        except RuntimeError:
            if not self._closed:
                raise

    def submit_aside(self, function: Callable[[], object]) -> None:
        """Run `function` on another thread, because it may block; once this is being closed, here and now."""
        with self._lock:
            if not self._closing:
                self._aside = self._aside or ThreadPoolExecutor(_ASIDE, thread_name_prefix="sandboxes-aside")
                self._aside.submit(function)
                return
        function()

    def close(self) -> None:
        """End the thread after what was submitted before, and wait for it. May be called twice."""
        with self._lock:
            self._closing = True
            aside = self._aside
        if aside is not None:
            aside.shutdown()  # before the end, because what runs there submits what closes its stream
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None or loop.is_closed():
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_CLOSE_TIMEOUT)
        if (
            not thread.is_alive() and not loop.is_running()
        ):  # a `join` that was interrupted may have told wrong
            loop.close()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    # once more, for what its last round has submitted, such as the closing of a stream that ended in it
    loop.call_soon(loop.stop)
    loop.run_forever()

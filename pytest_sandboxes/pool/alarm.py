"""Time for a pool: what it is now, and to be told when some time has come."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Protocol


class Alarm(Protocol):
    """Rings once for each time it is set."""

    def be_there(self) -> None:
        """Be able to ring; raises RuntimeError in a process that may start no thread."""

    def set(self, when: float) -> None:
        """Ring then at the latest; never before the earliest time of those that it is set to."""

    def close(self) -> None:
        """Ring no more, and wait for what the ringing does."""


class Clock(Protocol):
    """Where a pool has its time from."""

    def now(self) -> float:
        """Seconds since whenever."""

    def alarm(self, ring: Callable[[], None]) -> Alarm:
        """An alarm that calls `ring`, on a thread of its own or of whoever moves the time."""


class MachineClock:
    """The machine's."""

    def now(self) -> float:
        """As `time.monotonic`."""
        return time.monotonic()

    def alarm(self, ring: Callable[[], None]) -> Alarm:
        """A thread that sleeps until then."""
        return AlarmThread(self, ring)


class AlarmThread:
    """Rings by a thread of its own, which sleeps until the time that was set, and ends with `close`."""

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._changed = threading.Condition()
        self._when = math.inf
        self._thread: threading.Thread | None = None
        self._closed = False

    def be_there(self) -> None:
        """Have the thread; raises RuntimeError when this process may start none."""
        with self._changed:
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._run, name="sandboxes-alarm", daemon=True)
                thread.start()
                self._thread = thread

    def set(self, when: float) -> None:
        """Ring then at the latest."""
        if (
            when >= self._when
        ):  # read without the lock: it only ever gets later by ringing, after which all is set anew
            return
        with self._changed:
            if when < self._when:
                self._when = when
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (left := self._when - self._clock.now()) > 0:
                    self._changed.wait(None if math.isinf(left) else min(left, threading.TIMEOUT_MAX))
                if self._closed:
                    return
                self._when = math.inf
            self._ring()

    def close(self) -> None:
        """End the thread. May be called twice, not by the thread itself."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

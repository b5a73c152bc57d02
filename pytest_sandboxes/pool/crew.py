"""The threads of a pool, which do what takes its time: starting, resetting and closing sandboxes."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pytest_sandboxes.errors import (
    ConfigurationError,
    InfrastructureError,
    PoolClosedError,
    SandboxStartError,
)
from pytest_sandboxes.io_thread import IOThread

if TYPE_CHECKING:
    from pytest_sandboxes.backends.base import Backend
    from pytest_sandboxes.pool.state import Plan, Shelf
    from pytest_sandboxes.profiles.profile import Profile
    from pytest_sandboxes.sandbox import Sandbox, SandboxSlot

__tracebackhide__ = True  # a failing test shows its own line, not ours

Start = Callable[["Backend", "Profile", IOThread], "Sandbox"]
_T = TypeVar("_T")


class Team(Protocol):
    """Whoever does chores of one kind for a pool."""

    def be_there(self) -> None:
        """Be able to do something; raises what `do` raises."""

    def do(self, chore: Callable[[_T], None], subject: _T) -> None:
        """Do it soon, and not before this has returned, until `close`."""

    def close(self) -> None:
        """Do what is left to do, wait for it, and be no more."""


def run_is_over() -> PoolClosedError:
    """What a pool that has been closed has to say."""
    return PoolClosedError("the pool of sandboxes has been closed: the run is over")


class Crew:
    """Carries out what a plan says about sandboxes; its threads end with `close`."""

    def __init__(
        self,
        start: Start,
        team: Callable[[str], Team],
        *,
        started: Callable[[Shelf, Sandbox], None],
        start_failed: Callable[[Shelf, Exception], None],
        was_reset: Callable[[SandboxSlot, Exception | None], None],
        has_closed: Callable[[Sandbox], None],
        was_parked: Callable[[Exception | None], None],
    ) -> None:
        """What is called after `start` is told how each thing went; a reset with what there is against its success."""
        self._start_sandbox = start
        self._started = started
        self._start_failed = start_failed
        self._was_reset = was_reset
        self._has_closed = has_closed
        self._was_parked = was_parked
        self._io = IOThread()
        # starts have threads of their own: all of them may be waiting for an image, and leases must go on meanwhile
        self._starters = team("sandboxes-start")
        self._cleaners = team("sandboxes-clean")
        self._closing = False

    def be_there(self) -> None:
        """Have hands to end with what is about to be started; raises what `carry_out` raises."""
        self._cleaners.be_there()

    def carry_out(self, plan: Plan) -> None:
        """Have sandboxes started, reset and closed; returns at once.

        Raises `ConfigurationError` in a process that may start no thread.
        """
        for shelf in plan.start:
            self._starters.do(self._start, shelf)
        for slot in plan.reset:
            self._cleaners.do(self._reset, slot)
        for sandbox in plan.close:
            self._cleaners.do(self._close, sandbox)
        for sandbox in plan.park:
            self._cleaners.do(self._park, sandbox)

    def start_nothing_more(self) -> None:
        """What is still in the queue is not to be started."""
        self._closing = True
        self._io.over.set()

    def close(self) -> None:
        """Wait until all is done, and end the threads."""
        self._starters.close()
        self._cleaners.close()
        self._io.close()

    def _start(self, shelf: Shelf) -> None:
        if self._closing:
            self._start_failed(shelf, run_is_over())
            return
        try:
            sandbox = self._start_sandbox(shelf.backend, shelf.profile, self._io)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait have to learn of it
            if not isinstance(error, ConfigurationError | InfrastructureError):
                error = SandboxStartError(f"backend {shelf.backend.name} failed: {error!r}")
            self._start_failed(shelf, error)
        else:
            self._started(shelf, sandbox)
            sandbox.tie()

    def _reset(self, slot: SandboxSlot) -> None:
        problem = None
        try:
            slot.reset()
        except Exception as error:  # noqa: BLE001 - whatever it is, there is no proof
            problem = error
        self._was_reset(slot, problem)

    def _close(self, sandbox: Sandbox) -> None:
        with contextlib.suppress(Exception):  # the end of its backend, and the next run's start, try again
            sandbox.close()
        self._has_closed(sandbox)

    def _park(self, sandbox: Sandbox) -> None:
        problem = None
        try:
            sandbox.park()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not to outlive the run
            problem = error
            sandbox.close()
        self._was_parked(problem)


class ThreadTeam:
    """Threads for chores of one kind, started as they are needed."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)  # notified when a thread comes to its end
        self._chores: SimpleQueue[tuple[Callable[[Any], None], object] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._working = 0
        """Threads that have not come to their end."""
        self._free = 0
        """Threads that wait for a chore, less the chores that wait for one."""
        self._closing = False

    def be_there(self) -> None:
        """Have a thread, before something is begun that cannot be ended without; raises what `do` raises."""
        with self._lock:
            if not self._threads and not self._closing:
                self._start_thread()

    def do(self, chore: Callable[[_T], None], subject: _T) -> None:
        """Have it done in the background; here and now once there is no background any more.

        Raises `ConfigurationError` in a process that may start no thread.
        """
        with self._lock:
            if not self._closing:
                if self._free <= 0 and len(self._threads) < self._most:
                    self._start_thread()
                self._free -= 1
                self._chores.put((chore, subject))
                return
        chore(subject)

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if self._threads:  # which will do
                return
            raise ConfigurationError(
                f"the pool of sandboxes cannot start a thread: {error}; raise the limits of this process on "
                "processes and memory (ulimit -u, ulimit -v)"
            ) from None
        self._threads.append(thread)
        self._working += 1
        self._free += 1

    def _work(self) -> None:
        while (task := self._chores.get()) is not None:
            chore, subject = task
            del task
            try:
                chore(subject)
            except Exception:  # noqa: BLE001 - a bug, of which people are told, and which ends no thread
                threading.excepthook(threading.ExceptHookArgs([*sys.exc_info(), threading.current_thread()]))
            del chore, subject  # whoever waits for more keeps nothing alive
            with self._lock:
                self._free += 1
        with self._left:
            self._working -= 1
            self._left.notify_all()

    def close(self) -> None:
        """Wait until all is done, and end the threads. May be called again, where it was interrupted."""
        with self._left:
            self._closing = True
            for _ in self._threads:
                self._chores.put(None)
            # not by `join`, which takes a thread for ended once it has been interrupted (before Python 3.13)
            self._left.wait_for(lambda: not self._working)
        for thread in self._threads:
            thread.join()

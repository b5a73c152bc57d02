"""The controller's side of sharing: a desk for each worker, in front of the one supply."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pytest_sandboxes.errors import InfrastructureError, PoolClosedError
from pytest_sandboxes.io_thread import IOThread
from pytest_sandboxes.sharing.announcement import Announcement
from pytest_sandboxes.sharing.desk import Desk
from pytest_sandboxes.sharing.messages import Channel
from pytest_sandboxes.supply import Supply

_WAITING_AT_MOST = 1024  # leases that are waited for at once; a thread exists only while one of them needs it
_CLOSE_TIMEOUT = 2.0
_GRACE = 2.0  # seconds for what a process has left in its pipes before it ended


class Office:
    """Serves all workers of a run, until `close`.

    Its threads: those that wait for leases and for other slow things, one that watches processes, and one for each
    worker that sends to it.
    """

    def __init__(self, supply: Supply, *, everyone_runs_all: bool, runs_after_crash: int) -> None:
        """`everyone_runs_all`: as with `--dist each`. `runs_after_crash`: crashes after which a test is run again."""
        self._supply = supply
        self._everyone_runs_all = everyone_runs_all
        self._runs_after_crash = runs_after_crash
        self._lock = threading.Lock()
        self._desks: list[Desk] = []
        self._announced: Counter[tuple[str, str]] = Counter()
        self._tests: dict[str, bool] = {}
        """All that have been announced, and whether each may be repeated."""
        self._crashes: Counter[str] = Counter()
        self._executor = ThreadPoolExecutor(_WAITING_AT_MOST, thread_name_prefix="sandboxes-office")
        self._watcher = IOThread()
        self._watched: set[int] = set()
        """Descriptors of workers' processes; the watcher's thread has them."""
        self._closed = False

    def open_desk(self, name: str, channel: Channel, died: Callable[[], object] | None) -> Desk:
        """Serve a worker. `died` is called a while after its process has ended, None for one of another machine.

        Raises `PoolClosedError` after `close`.
        """
        desk = Desk(
            name,
            channel,
            self._supply,
            self._executor,
            refuse=self.refusal,
            greeted=lambda desk, pid: None if died is None else self._watch(desk, pid, died),
        )
        with self._lock:
            is_open = not self._closed
            if is_open:
                self._desks.append(desk)
        if not is_open:
            desk.end(None)
            raise PoolClosedError("the pool of sandboxes has been closed: the run is over")
        return desk

    def prepare(self, announcement: Announcement) -> None:
        """Check what a worker will need, and have that started which nobody has announced before.

        Raises `ConfigurationError` for what is wrong.
        """
        fresh = []
        with self._lock:
            self._tests.update(announcement.tests)
            for wish in announcement.wishes:
                known = self._announced.get(wish.key, -1)
                more = wish.leases if self._everyone_runs_all else wish.leases - max(known, 0)
                if known < 0 or more > 0:
                    self._announced[wish.key] = max(known, 0) + more
                    fresh.append((replace(wish, leases=more), known < 0))
        self._supply.prepare([wish for wish, is_new in fresh if is_new], announcement.tests)
        for wish, is_new in fresh:
            if not is_new:
                self._supply.pool.expect(wish.backend, wish.profile, wish.leases)

    # -- crashes

    def _watch(self, desk: Desk, pid: int, died: Callable[[], object]) -> None:
        """End a worker's desk with its process: a child that it has forked can hold its end of the channel open."""
        try:
            descriptor = os.pidfd_open(pid)
        except (AttributeError, OSError):  # no such call here, or gone: the channel's end has to do
            return

        def gone() -> None:
            self._unwatch(descriptor)
            desk.end(None)
            self._watcher.loop().call_later(_GRACE, died)

        def watch() -> None:
            self._watched.add(descriptor)
            self._watcher.loop().add_reader(descriptor, gone)

        self._watcher.submit(watch)

    def _unwatch(self, descriptor: int) -> None:
        self._watched.discard(descriptor)
        self._watcher.loop().remove_reader(descriptor)
        os.close(descriptor)

    def _unwatch_all(self) -> None:
        for descriptor in tuple(self._watched):
            self._unwatch(descriptor)

    def crashed(self, desk: Desk) -> None:
        """A worker has crashed: count it against the tests that held a lease, or waited for one."""
        desk.end(None)
        with self._lock:
            self._crashes.update(desk.holders_at_end)

    def count_crash(self, desk: Desk, nodeid: str) -> bool:
        """The worker at a desk, `crashed`, ran a test then; whether that is a sandbox test, which is counted once."""
        with self._lock:
            if nodeid in desk.holders_at_end:
                return True
            if nodeid not in self._tests:
                return False
            self._crashes[nodeid] += 1  # before it had a lease, or after
            return True

    def is_sandbox_test(self, nodeid: str) -> bool:
        """A test has been announced as one that needs sandboxes."""
        with self._lock:
            return nodeid in self._tests

    def may_run_again(self, nodeid: str) -> bool:
        """A sandbox test whose worker has just crashed may be run once more."""
        with self._lock:
            return self._crashes[nodeid] <= self._runs_allowed(nodeid)

    def is_given_up(self, nodeid: str) -> bool:
        """A test has crashed so many workers that it gets no lease any more."""
        with self._lock:
            return self._crashes[nodeid] > self._runs_allowed(nodeid)

    def count_retry(self) -> None:
        """A test is being run once more."""
        self._supply.pool.count_infra_retry()

    def refusal(self, holder: str) -> Exception | None:
        """Why a holder gets no lease, if so."""
        if not self.is_given_up(holder):
            return None
        with self._lock:
            crashes = self._crashes[holder]
        times = "once" if crashes == 1 else f"{crashes} times"
        return InfrastructureError(f"workers crashed {times} while they ran {holder}, which is not run again")

    def _runs_allowed(self, nodeid: str) -> int:
        return self._runs_after_crash if self._tests.get(nodeid, True) else 0

    # -- the end

    def close(self) -> None:
        """End all desks; before the pool is closed, so that no lease is given to who is gone. May be called twice."""
        with self._lock:
            self._closed = True
            desks = list(self._desks)
        for desk in desks:
            desk.end(None)
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        for desk in desks:
            desk.join(max(0.0, deadline - time.monotonic()))
        self._watcher.submit(self._unwatch_all)
        self._watcher.close()

    def join(self) -> None:
        """Wait for the threads that wait for leases, which the end of the pool has ended."""
        self._executor.shutdown(wait=True)

"""The run's sign of life: an object that is written again and again, and that every shard watches."""

from __future__ import annotations

import threading
import time
from datetime import datetime

import msgspec

from pytest_sandboxes.batch.runners.gcp.objects import LostError, Objects, Version
from pytest_sandboxes.errors import BackendUnavailableError

NAME = "lease.json"
_PARTS = 6
"""Of the time after which shards end: the lease is written so often in it."""
_LONGEST_PAUSE = 20.0
_SHORTEST_CALL = 2.0
_REMOVAL = 30.0
_LONGEST = 86_400.0


class _Content(msgspec.Struct):
    stop: list[int]
    """Shards that have to end."""
    ttl: float
    """Seconds after which it is old."""


def lasts(content: bytes) -> float:
    """Seconds after which a lease of this content is old; the most there can be where it does not say."""
    try:
        return min(msgspec.json.decode(content, type=_Content).ttl, _LONGEST)
    except msgspec.MsgspecError:
        return _LONGEST


class Lease:
    """Of one run, from `begin` to `end`. A thread of its own writes it: nothing in a run of pytest delays it.

    Each time it takes the place of what was written before, and of nothing else: where shards have missed it, and have
    removed the run, it does not come back.
    """

    def __init__(self, objects: Objects, ttl: float) -> None:
        self._objects = objects
        self._ttl = ttl
        # a connection that hangs must not cost the run: there is time for another one
        self._timeout = min(max(ttl / _PARTS, _SHORTEST_CALL), _LONGEST_PAUSE)
        self._lock = threading.Lock()
        self._stopped: set[int] = set()
        self._change = threading.Event()
        self._is_over = False
        self._version: Version | None = None
        self._tried: set[bytes] = set()
        """Contents that may have been written, and that nobody knows of."""
        self._began = 0.0
        """When the last call that has written it began, as Unix time: it goes on while the machine sleeps."""
        self._failure: BackendUnavailableError | None = None
        self._is_lost = False
        self._thread = threading.Thread(target=self._keep, name="sandboxes-gcp-lease", daemon=True)

    @property
    def now(self) -> datetime:
        """When it was written last, by the service's clock. Not before `begin`."""
        assert self._version is not None
        return self._version.written

    @property
    def is_late(self) -> bool:
        """Shards may miss it by now, or soon: what becomes of them is to be judged when it has been written again."""
        with self._lock:
            return self._version is not None and time.time() - self._began > self._ttl / 2

    def check(self) -> None:
        """Raise `BackendUnavailableError` where it is not there any more, or is late and cannot be written."""
        is_late = self.is_late
        with self._lock:
            if self._failure is not None and (self._is_lost or is_late):
                raise self._failure

    def begin(self) -> None:
        """Write it, and have it written from now on. Raises `BackendUnavailableError`."""
        self._write()
        self.check()
        self._thread.start()

    def stop(self, shard: int) -> None:
        """Tell a shard to end."""
        with self._lock:
            self._stopped.add(shard)
        self._change.set()

    def end(self) -> None:
        """Write it no more, and remove it: whoever looks for it ends. Raises `BackendUnavailableError`."""
        self._is_over = True
        self._change.set()
        if self._thread.ident is not None:
            self._thread.join(_REMOVAL)
        self._objects.remove(NAME, _REMOVAL)

    def _write(self) -> None:
        with self._lock:
            content = msgspec.json.encode(_Content(sorted(self._stopped), self._ttl))
            before = 0 if self._version is None else self._version.generation
            self._tried.add(content)
            own = set(self._tried)
        began = time.time()
        try:
            version = self._objects.replace(NAME, content, before, own, self._timeout)
        except LostError as error:
            with self._lock:
                self._is_lost, self._failure = True, self._loss(error)
            return
        with self._lock:
            self._version, self._began, self._failure = version, began, None
            self._tried.clear()

    def _loss(self, error: LostError) -> BackendUnavailableError:
        return BackendUnavailableError(
            f"backend gcp: {self._objects.prefix}{NAME} {error}, and this process has not written it for "
            f"{time.time() - self._began:.0f} s: shards that miss it for {self._ttl:.0f} s (gcp.controller_timeout) "
            "end, and remove what there is of the run; keep this machine awake, or raise that, and run the tests again"
        )

    def _keep(self) -> None:
        while True:
            self._change.wait(min(self._ttl / _PARTS, _LONGEST_PAUSE))
            self._change.clear()
            if self._is_over or self._is_lost:
                return
            began = time.monotonic()
            try:
                self._write()
            except BackendUnavailableError as error:
                with self._lock:
                    self._failure = error
                continue
            time.sleep(
                max(0.0, 1.0 - (time.monotonic() - began))
            )  # one write a second is what an object takes

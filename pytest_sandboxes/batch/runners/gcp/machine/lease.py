"""Whether there still is a controller, and what it wants."""

from __future__ import annotations

import contextlib
import email.utils
import json
import time

from pytest_sandboxes.batch.runners.gcp.machine.bucket import Bucket, GoneError

NAME = "lease.json"
_LEASE_PAUSE = 10.0  # seconds between looks at most
_MISSES = 3  # looks, one after the other, after which what is not to be read is gone
_ROUNDING = 2.0  # seconds: what two times of the service, without fractions, may be wrong by


class Lease:
    """The controller's: an object that it writes again and again while it lives, with what it wants."""

    def __init__(self, bucket: Bucket, shard: int, ttl: float) -> None:
        self._bucket = bucket
        self._shard = shard
        self._ttl = ttl
        self._pause = min(ttl / 12, _LEASE_PAUSE)
        self._generation = ""
        self._age = 0.0
        self._since = time.monotonic()
        self._looked = float("-inf")
        self._missed = 0
        self.is_over = False
        """Nobody has been heard of for too long: the shard has to end, though that may be this VM's own fault."""
        self.is_unwanted = False
        """The shard has to end, by the controller's word."""

    def look(self) -> bool:
        """Whether the shard has to end; asks the bucket as often as is needed to know in time."""
        now = time.monotonic()
        if now - self._looked >= self._pause:
            self._looked = now
            with contextlib.suppress(GoneError):  # it grows older meanwhile
                self._read()
            self.is_over = self.is_over or time.monotonic() - self._since > self._ttl
        return self.is_over or self.is_unwanted

    def is_gone(self) -> bool:
        """Whether there is no controller any more, by the service's word alone; asks until that is certain.

        If so, there is no lease any more either: a controller that comes back finds that its run is over. Who could not
        read for a while knows nothing of the controller. Raises `GoneError`.
        """
        self._read()
        while 0 < self._missed < _MISSES:
            time.sleep(self._pause)
            self._read()
        if self._missed:
            return True
        return self._age + _ROUNDING > self._ttl and self._bucket.delete(NAME, self._generation)

    def _read(self) -> None:
        found = self._bucket.get(NAME)
        if found is None:
            self._missed += 1
            # who may not list a bucket is refused what is gone, and may be refused for a moment what is there
            self.is_over = self.is_over or self._missed >= _MISSES
            return
        self._missed = 0
        content, headers = found
        self._age = _age(headers)
        generation = headers.get("x-goog-generation", "")
        if generation != self._generation:
            self._generation = generation
            self._since = time.monotonic() - self._age
            self.is_unwanted = self._shard in json.loads(content)["stop"]


def _age(headers: dict[str, str]) -> float:
    """Seconds since an object was written, by the service's clock alone; 0 where it does not say."""
    try:
        now, then = (email.utils.parsedate_to_datetime(headers[name]) for name in ("date", "last-modified"))
    except (KeyError, ValueError):
        return 0.0
    return max(0.0, (now - then).total_seconds())

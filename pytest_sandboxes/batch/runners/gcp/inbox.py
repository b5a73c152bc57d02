"""What shards have written to the bucket, each part once and in order. Contents and names are hostile."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Container, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from pytest_sandboxes.batch.runners.gcp.objects import Objects
from pytest_sandboxes.batch.runners.gcp.parts import LARGEST, MOST_BYTES, Order, Part, parse

if TYPE_CHECKING:
    from google.cloud.storage import Blob

_FOLDER = "events/"
_PAUSE = 0.5
"""Seconds between two listings of what is new."""
_ALL = 20.0
"""Seconds between two listings of everything, for what clocks of VMs have misplaced."""
_ALL_SHARE = 10
"""So many times as long as such a listing takes, at least: a long run has hundreds of thousands of parts."""
_OVERLAP = 60.0
"""Seconds by which listings of what is new overlap: so far may clocks of VMs be behind."""


_AT_ONCE = 64 << 20
"""Bytes that are read at a time, but for one part that goes beyond: all of it is in memory."""
_LEAST = 64 << 10
"""Bytes as which a part counts at least: it takes time as well."""
_THREADS = 8
"""Parts that are got at a time: each takes a journey to the bucket and back, whatever its size."""


@dataclass
class Heard:
    """What is new of a shard."""

    shard: int
    parts: list[tuple[Part, bool, bytes]] = field(default_factory=list)
    """In order; of each whether an attempt begins with it, and its content."""
    is_all: bool = True
    """Nothing that was listed is left."""
    is_too_much: bool = False
    """It has written more than any shard of ours does, of which nothing is read."""


class Inbox:
    """Of one run. Threads of its own get parts, until it is closed."""

    def __init__(self, objects: Objects) -> None:
        self._cancelled = threading.Event()
        self._objects = objects.cancelled_by(self._cancelled)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="sandboxes-gcp-inbox")
        self._under_way: list[Future[bytes]] = []
        self._orders: dict[int, Order] = {}
        self._bytes: Counter[int] = Counter()
        self._blobs: dict[Part, Blob] = {}
        self._listed = self._listed_all = float("-inf")
        self._all_pause = _ALL
        self._last = -1
        """The shard that was read last."""
        self._is_behind = False
        self.is_empty = True
        """No shard has written anything yet."""

    def pause(self) -> float:
        """Seconds until it is time to look again."""
        return 0.0 if self._is_behind else max(0.0, self._listed + _PAUSE - time.monotonic())

    def look(self, shards: Container[int], now: datetime, *, everything: bool = False) -> None:
        """List what those shards have written. `now` is the service's time, not long ago."""
        began = time.monotonic()
        everything = everything or began - self._listed_all >= self._all_pause
        start = "" if everything else f"{int((now.timestamp() - _OVERLAP) * 1000):013d}"
        for blob in self._objects.list(_FOLDER, start):
            part = parse(blob.name.removeprefix(f"{self._objects.prefix}{_FOLDER}"))
            if part is None or part.shard not in shards:
                continue
            self.is_empty = False
            if self._orders.setdefault(part.shard, Order()).add(part):
                self._blobs[part] = blob
        self._listed = time.monotonic()
        if everything:
            self._listed_all = self._listed
            self._all_pause = max(_ALL, _ALL_SHARE * (self._listed - began))

    def read(self, shards: Iterable[int], stopped: Container[int] = ()) -> list[Heard]:
        """What was listed of those shards and not read before, of each its parts in order.

        There is a bound on what is read at a time: who is left out comes first the next time. Of shards that are
        `stopped` only the end has its content.
        """
        found: list[Heard] = []
        self._under_way = []
        contents: list[tuple[Heard, Part, bool, Future[bytes] | None]] = []
        left = _AT_ONCE
        for shard in sorted(shards, key=lambda each: (each <= self._last, each)):
            heard = Heard(shard)
            found.append(heard)
            for part, begins in self._orders.setdefault(shard, Order()).ready():
                blob = self._blobs.pop(part)
                self._bytes[shard] += blob.size
                if blob.size > LARGEST or self._bytes[shard] > MOST_BYTES:
                    heard.is_too_much = True
                    break
                content = None
                if part.is_end or shard not in stopped:
                    name = f"{_FOLDER}{part.name}"
                    content = self._threads.submit(self._objects.get, name, blob.generation)
                    self._under_way.append(content)
                    left -= max(blob.size, _LEAST)
                contents.append((heard, part, begins, content))
                if left <= 0:
                    break
            self._last = shard
            if left <= 0:
                heard.is_all = False
                break
        self._is_behind = left <= 0
        for heard, part, begins, content in contents:
            heard.parts.append((part, begins, b"" if content is None else content.result()))
        return found

    def close(self, patience: float) -> None:
        """End what is under way, waiting at most so many seconds."""
        self._threads.shutdown(
            wait=False, cancel_futures=True
        )  # first, or who is released takes what is next
        self._cancelled.set()
        wait([each for each in self._under_way if not each.cancelled()], patience)

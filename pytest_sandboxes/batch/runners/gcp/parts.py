"""The names of what shards write, and in which order it is read. Names and contents are hostile."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

LARGEST = 16 << 20
"""Bytes of a part; no shard of ours writes more than an event beyond half of that."""
MOST_BYTES = 4 << 30
"""Bytes of all parts of a shard."""
_NAME = re.compile(r"[0-9]{13}-([0-9]{1,6})-([0-9]{1,3})-([0-9]{1,7})\.(part|end)")


@dataclass(frozen=True, order=True)
class Part:
    """One object that a shard has written."""

    attempt: int
    number: int
    shard: int
    is_end: bool
    name: str
    """Without the prefix. It begins with milliseconds of Unix time, so that later ones sort behind."""


def parse(name: str) -> Part | None:
    """The part of this name; None for what has no name of one."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    shard, attempt, number = (int(found[group]) for group in (1, 2, 3))
    return Part(attempt, number, shard, found[4] == "end", name)


@dataclass
class Order:
    """Which parts of a shard may be read now: each once, as numbered, and none of an attempt that is over."""

    attempt: int = -1
    """The one that is read."""
    _next: int = 0
    _waiting: dict[tuple[int, int], Part] = field(default_factory=dict)

    def add(self, part: Part) -> bool:
        """A part is there, as a listing says, perhaps not for the first time; whether it is one that will be read."""
        key = part.attempt, part.number
        if key < (self.attempt, self._next) or key in self._waiting:
            return False
        self._waiting[key] = part
        return True

    def ready(self) -> Iterator[tuple[Part, bool]]:
        """The parts to read, and of each whether it is the first of an attempt.

        An attempt is over when a later one has begun: what is missing of it then never comes.
        """
        while True:
            part = self._waiting.pop((self.attempt, self._next), None)
            if part is not None:
                self._next += 1
                yield part, False
                continue
            later = sorted(
                attempt for attempt, number in self._waiting if attempt > self.attempt and not number
            )
            if not later:
                return
            self.attempt, self._next = later[0], 1
            first = self._waiting.pop((self.attempt, 0))
            self._waiting = {key: each for key, each in self._waiting.items() if key[0] >= self.attempt}
            yield first, True

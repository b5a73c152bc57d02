"""Users of containers: who is root, and ids for code."""

from __future__ import annotations

import random
import threading

_IDS = range(20_000, 60_000)  # neither root nor anybody whom an image has


def is_root(user: str) -> bool:
    """Whether a container's `user`, with or without a group, is root; empty is what Docker takes for it."""
    name = user.partition(":")[0]
    return name in {"", "root"} or (name.isdecimal() and int(name) == 0)


class Users:
    """Gives out user ids, none of them twice before all have been given out.

    Limits on processes count per user, across all containers of an Engine: so it begins where chance has it, lest two
    runs share theirs. May be used from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = random.SystemRandom().randrange(len(_IDS))

    def take(self, count: int) -> range:
        """So many ids in a row."""
        with self._lock:
            first = self._next if self._next + count <= len(_IDS) else 0
            self._next = first + count
        return _IDS[first : first + count]


users = Users()
"""Those of this process's containers."""

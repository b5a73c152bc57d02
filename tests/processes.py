"""Finding processes through /proc, from outside, without a word from the code under test."""

from __future__ import annotations

import os
from pathlib import Path


def carrying(mark: str, *files: str) -> set[int]:
    """Ids of the processes with `mark` in one of these files of theirs in /proc, in any PID namespace.

    Left out are zombies, which run no code and wait to be buried, and what may not be read: another user's. What has
    just become a program has neither a command line nor an environment for a moment, even if whoever started it was
    told that it has: see that it is there with a deadline.
    """
    wanted = mark.encode()
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        process = Path("/proc", name)
        try:
            if b") Z " in (process / "stat").read_bytes():
                continue
            if any(wanted in (process / file).read_bytes() for file in files):
                found.add(int(name))
        except OSError:  # gone meanwhile
            continue
    return found

"""Finding processes through /proc, from outside, without a word from the code under test."""

from __future__ import annotations

import os
import signal
from pathlib import Path

_EXITING, _SIGNALED = 0x4, 0x400
"""Flags of processes that the kernel ends, PF_EXITING and PF_SIGNALED of its sched.h."""


def carrying(mark: str, *files: str) -> set[int]:
    """Ids of the processes with `mark` in one of these files of theirs in /proc, in any PID namespace.

    Left out is what will never run code again: zombies, and what has been killed and takes the kernel a moment to
    bury. So is what may not be read: another user's. What has just become a program has neither a command line nor an
    environment for a moment, even if whoever started it was told that it has: see that it is there with a deadline.
    """
    wanted = mark.encode()
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        process = Path("/proc", name)
        try:
            if any(wanted in (process / file).read_bytes() for file in files) and _runs_code(process):
                found.add(int(name))
        except OSError:  # gone meanwhile
            continue
    return found


def _runs_code(process: Path) -> bool:
    """Whether it will ever get back to its code. Raises OSError if it is gone."""
    # in this order: the signal is no longer pending once the flags say that it has been taken
    if _is_being_killed((process / "status").read_bytes()):
        return False
    state, *numbers = (process / "stat").read_bytes().rpartition(b")")[2].split()
    flags = int(numbers[5])
    return state not in {b"Z", b"X"} and not flags & (_EXITING | _SIGNALED)


def _is_being_killed(status: bytes) -> bool:
    lines = (line.split() for line in status.splitlines())
    pending = [int(words[1], 16) for words in lines if words[0] in {b"SigPnd:", b"ShdPnd:"}]
    return any(signals & 1 << (signal.SIGKILL - 1) for signals in pending)

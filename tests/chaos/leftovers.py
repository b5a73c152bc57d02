"""Counting what a run has left behind, through /proc and without a word from the program under test.

A run gets a marker of its own as the name of its workspace. Every process inside one of its sandboxes has that name in
its mount table, whatever it did to its command line, environment or session; the launchers outside have it in their
command line.
"""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress
from pathlib import Path

from tests.processes import carrying


def processes(marker: str) -> set[int]:
    """Processes that are in a sandbox with `marker` in its workspace, or launch one."""
    return carrying(marker, "mountinfo", "cmdline") - {os.getpid()}


def seconds_until_gone(marker: str, patience: float) -> float:
    """How long it takes from now until no process is left; raises AssertionError after `patience` seconds."""
    began = time.perf_counter()
    while left := processes(marker):
        passed = time.perf_counter() - began
        assert passed < patience, f"{len(left)} processes left after {passed:.1f} s: {describe(left)}"
        _wait_for_the_end_of(min(left))
    return time.perf_counter() - began


def _wait_for_the_end_of(pid: int) -> None:
    """For a moment, and no longer than it lives: to look at all processes takes all of a core."""
    with suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            select.select([process], [], [], 0.1)
        finally:
            os.close(process)


def describe(pids: set[int]) -> str:
    """Command lines of processes, for a message."""
    lines = []
    for pid in sorted(pids):
        try:
            words = Path("/proc", str(pid), "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        lines.append(f"{pid}: {words.decode(errors='replace')[:120]!r}")
    return "; ".join(lines)


def control_groups() -> list[str]:
    """Control groups of sandboxes that exist now."""
    found: list[str] = []
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        found += [os.path.join(folder, name) for name in names if name.startswith("pytest-sandboxes-")]
    return found

"""Seeing to it that all of an emulator ends, from outside, with the descriptors of its processes."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tests.processes import carrying
from tests.waiting import DEADLINE, wait_until


def opened(pids: Iterable[int]) -> list[int]:
    """A descriptor for each of those that are still there, which what has started the others need not be."""
    descriptors = []
    for pid in pids:
        with suppress(ProcessLookupError):
            descriptors.append(os.pidfd_open(pid))
    return descriptors


def wait_for_the_end(mark: str, processes: Iterable[int], directory: Path) -> None:
    """Of these processes, and with them of all that carries a mark, and of the directory of their emulator."""
    for descriptor in processes:
        try:
            assert select.select([descriptor], [], [], DEADLINE)[0]
        finally:
            os.close(descriptor)
    assert not carrying(mark, "environ")
    wait_until(lambda: not directory.exists(), f"the removal of {directory}")

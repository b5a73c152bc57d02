"""The pool alone, with sandboxes that cost nothing: `python -m tests.benchmarks.simulated 10000` measures one size."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from pytest_sandboxes.lease import Lease
from pytest_sandboxes.pool import Pool
from pytest_sandboxes.profiles import Profile
from tests.benchmarks.local_slots import wait_until_warm
from tests.benchmarks.measuring import NOTHING, Row, seconds_of, times

_PROJECT = Path(__file__).parents[2]


class _Backend:
    name = "simulated"

    def close(self) -> None:
        """Nothing to let go of."""


class _Sandbox:
    """All that a pool asks of a sandbox."""

    alive = True
    can_reset = False
    backend = _Backend.name
    _numbers = itertools.count(1)

    def __init__(self, *_: object) -> None:
        self.name = f"simulated-{next(self._numbers)}"
        self.started = time.monotonic()
        self.lost: object = None

    def close(self) -> None:
        """Nothing to end."""


def pools(*, quick: bool) -> Iterator[Row]:
    """Leases per second and memory, and how both grow with the number of slots."""
    few, many, rounds = (200, 2_000, 1) if quick else (1_000, 10_000, 5)
    found: dict[int, list[dict[str, float]]] = {few: [], many: []}
    for _ in range(rounds):
        for slots in (few, many):
            command = [sys.executable, "-m", __name__, str(slots)]
            said = subprocess.run(command, cwd=_PROJECT, check=True, capture_output=True, text=True).stdout
            found[slots].append(json.loads(said))

    def middle(slots: int, name: str) -> float:
        return median(each[name] for each in found[slots])

    for name, shown in (("leases", "leases"), ("cycles", "leases with release and replacement")):
        yield Row(
            f"pool of {many:,} simulated slots: {shown}",
            f"{middle(many, name):,.0f}/s",
            f"{middle(few, name):,.0f}/s with {few:,}",
            times(middle(few, name) / middle(many, name)),
            ">= 20,000/s, linear" if name == "leases" else NOTHING,
            rounds,
        )
    yield Row(
        f"pool of {many:,} simulated slots: memory of a leased slot",
        f"{middle(many, 'bytes'):,.0f} B",
        f"{middle(few, 'bytes'):,.0f} B with {few:,}",
        times(middle(many, "bytes") / middle(few, "bytes")),
        "linear",
        rounds,
    )


def measure(slots: int) -> dict[str, float]:
    """One pool of so many slots, all leased and given back."""
    profile = Profile().override({"max_sandboxes": slots, "buffer_sandboxes": slots}, "benchmarks")
    start: Any = _Sandbox
    backends: Any = {_Backend.name: _Backend()}
    pool = Pool(backends, start=start)
    before = _resident_bytes()
    pool.expect(_Backend.name, profile, slots)
    wait_until_warm(pool, slots)
    leases: list[Lease] = []

    def lease_all() -> None:
        leases.extend(pool.lease(_Backend.name, profile) for _ in range(slots))

    leasing = seconds_of(lease_all)
    occupied = _resident_bytes() - before
    for lease in leases:
        lease.release()
    pool.expect(_Backend.name, profile, 2 * slots)
    wait_until_warm(pool, slots)

    def use_all() -> None:
        for _ in range(slots):
            pool.lease(_Backend.name, profile).release()
        wait_until_warm(pool, slots)

    cycling = seconds_of(use_all)
    pool.close()
    return {"leases": slots / leasing, "cycles": slots / cycling, "bytes": occupied / slots}


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))

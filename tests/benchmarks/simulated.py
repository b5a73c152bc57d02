"""The pool alone, on a virtual clock: `python -m tests.benchmarks.simulated 10000` measures one size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

from pytest_sandboxes.lease import Lease
from pytest_sandboxes.profiles.profile import Profile
from tests.benchmarks.measuring import NOTHING, Row, times
from tests.simulation.world import NAME, Weather, World

_PROJECT = Path(__file__).parents[2]
_SLOTS = 10  # of a sandbox
_ROWS = (
    ("leases", "leases", ">= 20,000/s, linear"),
    ("cycles", "leases, each with release and reset", NOTHING),
    ("waits", "the same, with twice as many tests as slots", NOTHING),
)


def pools(*, quick: bool) -> Iterator[Row]:
    """Leases per second and memory, and how both grow with the number of slots."""
    sizes, rounds = ((100, 1_000), 1) if quick else ((100, 1_000, 10_000), 5)
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for slots in sizes:
            command = [sys.executable, "-m", __name__, str(slots)]
            said = subprocess.run(command, cwd=_PROJECT, check=True, capture_output=True, text=True).stdout
            found[slots].append(json.loads(said))

    def middle(slots: int, name: str) -> float:
        return median(each[name] for each in found[slots])

    few = sizes[0]
    for name, shown, target in _ROWS:
        for slots in sizes:
            yield Row(
                f"pool of {slots:,} simulated slots: {shown}",
                f"{middle(slots, name):,.0f}/s",
                f"{middle(few, name):,.0f}/s with {few:,}",
                times(middle(few, name) / middle(slots, name)),
                target,
                rounds,
            )
    for slots in sizes[1:]:
        yield Row(
            f"pool of {slots:,} simulated slots: memory of a leased slot",
            f"{middle(slots, 'bytes'):,.0f} B",
            f"{middle(sizes[1], 'bytes'):,.0f} B with {sizes[1]:,}",
            times(middle(slots, "bytes") / middle(sizes[1], "bytes")),
            "linear",
            rounds,
        )


def measure(slots: int) -> dict[str, float]:
    """One pool of so many slots, all leased and given back, and then used again and again."""
    fields = {"max_sandboxes": slots // _SLOTS, "min_sandboxes": slots // _SLOTS, "slots_per_sandbox": _SLOTS}
    profile = Profile().override(fields, "benchmarks")
    world = World(weather=Weather(start_seconds=(1.0, 1.0)))
    before = _resident_bytes()
    world.pool.expect(NAME, profile, slots)
    world.clock.run(10)
    leases: list[Lease] = []
    leasing = _cpu_seconds_of(lambda: leases.extend(world.pool.lease(NAME, profile) for _ in range(slots)))
    occupied = _resident_bytes() - before
    for lease in leases:
        lease.release()
    leases.clear()
    world.clock.run(10)
    many = max(slots, 10_000)
    rates = {
        name: many / _cpu_seconds_of(partial(_use, world, profile, many, lines))
        for name, lines in (("cycles", slots), ("waits", 2 * slots))
    }
    world.close()
    return {"leases": slots / leasing, "bytes": occupied / slots, **rates}


def _use(world: World, profile: Profile, leases: int, lines: int) -> None:
    """So many leases of so many tests at a time, each held for a second."""
    left = iter(range(leases))

    def ask() -> None:
        if next(left, None) is not None:
            world.ask(profile, granted)

    def granted(lease: Lease | Exception) -> None:
        assert isinstance(lease, Lease)
        world.clock.after(1.0, lambda: end(lease))

    def end(lease: Lease) -> None:
        world.release(lease)
        ask()

    for _ in range(lines):
        ask()
    world.clock.run(2.0 + 2.0 * leases / min(lines, leases))
    world.clock.run_until(lambda: not world.owners)


def _cpu_seconds_of(action: Callable[[], object]) -> float:
    """What one thread takes that never waits, whatever else the machine does."""
    begin = time.process_time()
    action()
    return time.process_time() - begin


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))

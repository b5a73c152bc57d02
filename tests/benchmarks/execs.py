"""What it costs to run a command in a slot, next to running it here."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

from tests.benchmarks.local_slots import slots
from tests.benchmarks.measuring import Row, compared, seconds_of, taking_turns, times

TRUE = "/bin/true"


def spawn() -> None:
    """Start and bury a process as fast as this language can."""
    pid = os.posix_spawn(TRUE, [TRUE], os.environ)
    os.waitpid(pid, 0)


def run() -> None:
    """What everybody does instead: no isolation, but both outputs."""
    subprocess.run([TRUE], capture_output=True, check=True)


def single(*, quick: bool) -> Iterator[Row]:
    """One command after the other."""
    samples = 300 if quick else 2000
    with slots(1) as (slot,):
        ours, spawned, ran = taking_turns(samples, lambda: slot.exec("true"), spawn, run, warm_up=30)
    what = "exec of `true`, local, isolated"
    yield compared(what, ours, spawned, samples=samples, target="<= 1.5 x", name="`os.posix_spawn`")
    yield compared(what, ours, ran, samples=samples, name="`subprocess.run`")


def throughput(*, quick: bool) -> Iterator[Row]:
    """Commands per second from several threads, in one slot and over several."""
    calls, rounds = (60, 2) if quick else (400, 5)
    for slot_count, threads in ((1, 1), (1, 2), (1, 8), (2, 2), (8, 8)):
        with slots(slot_count) as found:
            uses = [partial(found[index % slot_count].exec, "true") for index in range(threads)]
            ours, floors = [], []
            for _ in range(rounds):
                ours.append(per_second(uses, calls))
                floors.append(per_second([spawn] * threads, calls))
        rate, floor = median(ours), median(floors)
        yield Row(
            f"exec/s, {counted(threads, 'thread')}, {counted(slot_count, 'slot')}",
            f"{rate:,.0f}/s",
            f"{floor:,.0f}/s `os.posix_spawn`",
            times(floor / rate),
            samples=rounds * calls,
        )


def per_second(functions: Sequence[Callable[[], object]], calls: int) -> float:
    """Calls per second of all functions together, each on a thread of its own."""
    share = calls // len(functions)

    def repeat(function: Callable[[], object]) -> None:
        for _ in range(share):
            function()

    def all_at_once() -> None:
        threads = [threading.Thread(target=repeat, args=(function,)) for function in functions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return share * len(functions) / seconds_of(all_at_once)


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"

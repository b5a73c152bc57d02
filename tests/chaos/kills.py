"""SIGKILL of pytest at random instants: what outlived it, and for how long.

`python -m tests.chaos.kills [count] [--backend docker]` prints the figures.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import tempfile
import time
from pathlib import Path

from tests.chaos import leftovers
from tests.chaos.victims_of_kills import PATIENCE, start_victim


def kill_once(number: int, instant: float, signals: tuple[int, ...] = (signal.SIGKILL,)) -> float:
    """Kill a busy run `instant` seconds after it has got going; return the seconds until all is gone."""
    marker = f"victim-{os.getpid()}-{number}"
    with tempfile.TemporaryDirectory() as name:
        victim = start_victim(marker, Path(name))
        time.sleep(instant)
        # a counter that sees nothing proves nothing
        assert leftovers.processes(marker), "nothing was running when the run was killed"
        for each in signals:
            victim.send_signal(each)
        took = leftovers.seconds_until_gone(marker, PATIENCE)
        victim.wait(PATIENCE)
        return took


def main(count: int) -> None:
    """Kill `count` runs and print the figures."""
    instants = random.Random(count)
    times = [kill_once(number, instants.uniform(0, 0.5)) for number in range(count)]
    print(
        f"{count} kills: all processes gone after a median of {statistics.median(times) * 1000:.0f} ms, "
        f"at most {max(times) * 1000:.0f} ms; control groups left: {len(leftovers.control_groups())}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.kills", description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=50)
    parser.add_argument("--backend", choices=["local", "docker"], default="local")
    arguments = parser.parse_args()
    if arguments.backend == "docker":
        from tests.chaos import docker_kills

        docker_kills.main(arguments.count)
    else:
        main(arguments.count)

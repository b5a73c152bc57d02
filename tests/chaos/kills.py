"""SIGKILL of pytest at random instants: `python -m tests.chaos.kills [count]` prints how long processes outlived it."""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import leftovers

PATIENCE = 10.0
_VICTIMS = Path(__file__).with_name("victims.py")
_START_TIMEOUT = 60.0


def start_victim(marker: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start a run that is busy in sandboxes when this returns. Raises AssertionError if it does not get there."""
    ready = folder / f"ready-{marker}"
    profiles = folder / f"{marker}.yaml"
    profiles.write_text(f"profiles:\n  default: {{workspace_base: /{marker}, execution_timeout_s: 1000}}\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        str(_VICTIMS),
    ]
    victim = subprocess.Popen(
        [*command, f"--sandbox-profiles-file={profiles}", f"--rootdir={folder}", "-c", os.devnull],
        cwd=folder,
        env={
            **os.environ,
            "VICTIMS_READY": str(ready),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + _START_TIMEOUT
    while not ready.exists():
        assert victim.poll() is None, f"the victim ended by itself with {victim.returncode}"
        assert time.monotonic() < deadline, "the victim did not get going"
        time.sleep(0.002)
    return victim


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
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)

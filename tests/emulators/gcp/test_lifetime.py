"""An emulator ends with what it runs, however it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.emulators.ends import opened, wait_for_the_end
from tests.emulators.gcp.conftest import Service, batch_client, storage_client
from tests.emulators.gcp.control import Control
from tests.processes import carrying
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
DAEMONS = "setsid sh -c 'sleep 1000 & sleep 1000' & touch /there; sleep 1000"
STARTER = """
import sys, time
from tests.emulators.gcp.starting import running
with running() as (environment, control):
    import json
    print(json.dumps({"environment": dict(environment), "control": str(control.path)}), flush=True)
    time.sleep(1000)
"""


@contextmanager
def process(*command: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """One that says where an emulator is."""
    with subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        try:
            assert started.stdout is not None
            yield started, json.loads(started.stdout.readline())
        finally:
            started.kill()


def begin_job(said: dict[str, Any]) -> tuple[str, list[int]]:
    """Its uid, and a descriptor for each of its processes."""
    environment, control = said["environment"], Control(Path(said["control"]))
    with batch_client(environment) as batch:
        storage = storage_client(environment)
        service = Service(environment, control, batch, storage)
        job = service.create(DAEMONS, task_count=2)
        service.running(job, 2)
        storage.close()
    # before that, bwrap may be half-way, and leave a process when it is killed
    wait_until(lambda: sum(map(is_sleep, carrying(job.uid, "environ"))) == 2 * DAEMONS.count("sleep"))
    return job.uid, opened(carrying(job.uid, "environ"))


def is_sleep(pid: int) -> bool:
    """Whether it is the last that a task starts."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\0")
    return False


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, "input"])
def test_an_emulator_on_its_own(end: signal.Signals | str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with process("-m", "tests.emulators.gcp", "--log", str(log)) as (emulator, said):
        uid, processes = begin_job(said)
        if isinstance(end, str):
            assert emulator.stdin is not None
            emulator.stdin.close()
        else:
            emulator.send_signal(end)
        assert emulator.wait(30) == (-end if end is signal.SIGKILL else 0)
    wait_for_the_end(uid, processes, Path(said["control"]).parent)
    names = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert (names[-1] == "emulator_ended") == (end is not signal.SIGKILL)


def test_one_whose_starter_is_killed() -> None:
    with process("-c", STARTER) as (starter, said):
        uid, processes = begin_job(said)
        starter.kill()
        starter.wait(30)
        wait_for_the_end(uid, processes, Path(said["control"]).parent)

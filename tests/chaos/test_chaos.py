"""Small counts of what the scripts beside this do in large ones, and what a killed run leaves on disk."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pytest_sandboxes import get_backend
from pytest_sandboxes.backends.cgroups import Groups, Limits
from pytest_sandboxes.backends.ownership import Claim
from tests.chaos import crashes, leftovers, storm, timeouts
from tests.chaos.kills import kill_once
from tests.chaos.victims_of_kills import PATIENCE, start_victim

_KILLS_PER_TEST = 5


@pytest.mark.parametrize("seed", range(4))
def test_nothing_outlives_a_killed_run(seed: int) -> None:
    instants = random.Random(seed)
    for number in range(_KILLS_PER_TEST):
        kill_once(seed * 100 + number, instants.uniform(0, 0.5))


@pytest.mark.parametrize(
    "signals",
    [(signal.SIGINT,), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM,), (signal.SIGHUP,)],
    ids=["ctrl-c", "ctrl-c twice", "sigterm", "hangup"],
)
def test_nothing_outlives_an_ended_run(signals: tuple[int, ...]) -> None:
    kill_once(1000, 0.2, signals)


_DIES_WHILE_BUBBLEWRAP_STARTS = """
import os, signal, sys
from pytest_sandboxes import get_backend
from pytest_sandboxes.backends import isolated
isolated.Launcher._meet = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
get_backend("local").create_sandbox(workdir="/" + sys.argv[1])
"""

_FORKS_FROM_C_AND_DIES = """
import ctypes, os, signal, sys, time
from pytest_sandboxes import get_backend
sandbox = get_backend("local").create_sandbox(workdir="/" + sys.argv[1])
sandbox.popen("sleep", "1000")
if ctypes.CDLL(None).fork() == 0:  # behind the interpreter's back: it holds every descriptor
    time.sleep(1000)
print("forked", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("round_", range(5))
def test_nothing_outlives_a_controller_that_dies_while_bubblewrap_starts(round_: int) -> None:
    marker = f"victim-starting-{os.getpid()}-{round_}"
    died = subprocess.run(
        [sys.executable, "-c", _DIES_WHILE_BUBBLEWRAP_STARTS, marker], timeout=60, check=False
    )
    assert died.returncode == -signal.SIGKILL
    leftovers.seconds_until_gone(marker, PATIENCE)


def test_nothing_outlives_a_controller_whose_fork_holds_its_streams() -> None:
    marker = f"victim-forking-{os.getpid()}"
    command = [sys.executable, "-c", _FORKS_FROM_C_AND_DIES, marker]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as controller:
        assert controller.stdout is not None
        assert controller.stdout.readline() == b"forked\n"
        forked = {pid for pid in leftovers.processes(marker) if os.getpgid(pid) == controller.pid} - {
            controller.pid
        }
        try:
            controller.kill()
            controller.wait(PATIENCE)
            deadline = time.monotonic() + PATIENCE
            while leftovers.processes(marker) - forked:
                assert time.monotonic() < deadline, leftovers.describe(leftovers.processes(marker) - forked)
            assert forked == leftovers.processes(marker), "the fork that held the streams was not there"
            assert forked
        finally:
            os.killpg(controller.pid, signal.SIGKILL)


def test_a_run_that_is_stopped_for_a_moment_loses_nothing() -> None:
    marker = f"victim-{os.getpid()}-stopped"
    with get_backend("local").create_sandbox() as sandbox:
        process = sandbox.popen("cat")
        with tempfile.TemporaryDirectory() as name:
            victim = start_victim(marker, Path(name))
            victim.send_signal(signal.SIGSTOP)
            victim.send_signal(signal.SIGCONT)
            assert leftovers.processes(marker)
            victim.kill()
            leftovers.seconds_until_gone(marker, PATIENCE)
            victim.wait(PATIENCE)
        process.write("still here\n")
        assert process.stdout.readline(timeout=60) == "still here\n"


@pytest.mark.parametrize("seed", range(2))
def test_hostile_trees_time_out_on_time(seed: int) -> None:
    late = timeouts.time_out(12, seed=100 + seed)
    # the promise is 0.5 s, which the script measures; a shared machine may take its time
    assert max(late) < 5


def test_the_next_run_removes_the_scratch_of_a_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, alive, foreign = (
        tmp_path / name for name in ("pytest-sandboxes-dead", "pytest-sandboxes-alive", "other")
    )
    for folder in (dead, alive, foreign):
        (folder / "below").mkdir(parents=True)
        (folder / "below" / "file").touch()
    (dead / "below").chmod(0)
    claim = Claim(alive)
    with get_backend("local").create_sandbox(isolation="none") as sandbox:
        assert sandbox.exec("true").success
    claim.release()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["other", "pytest-sandboxes-alive"]


def test_the_next_run_removes_the_control_groups_of_a_killed_one() -> None:
    limits = Limits(memory=64, pids=None)
    groups = Groups()
    if not groups.can(limits):
        # nothing that could be left: such limits are refused here
        assert leftovers.control_groups() == []
        return
    abandoned = groups.make(limits)
    for claim in abandoned._claims:
        claim.release()  # as the end of its owner would
    kept = groups.make(limits)
    Groups()
    left = leftovers.control_groups()
    assert not any(str(path) in left for path in abandoned._directories.values())
    assert all(str(path) in left for path in kept._directories.values())
    kept.remove()


def test_the_counter_sees_a_daemon() -> None:
    marker = f"victim-{os.getpid()}-daemon"
    with get_backend("local").create_sandbox(workdir=f"/{marker}") as sandbox:
        before = leftovers.processes(marker)
        process = sandbox.popen("python3", "-c", _DAEMON)
        assert process.stdout.readline(timeout=60) == "planted\n"
        assert len(leftovers.processes(marker)) > len(before)
    deadline = time.monotonic() + PATIENCE
    assert leftovers.seconds_until_gone(marker, deadline - time.monotonic()) < PATIENCE


_DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("planted", flush=True)
        time.sleep(1000)
    os._exit(0)
time.sleep(1000)
"""


def test_crashed_workers_lose_no_slot() -> None:
    crashes.crash(10)


def test_every_verdict_is_right_in_a_storm() -> None:
    storm.rage(24)


def test_every_verdict_is_right_in_a_storm_of_containers(python_image: str) -> None:
    storm.rage(24, image=python_image, profiles=4)

"""However a run ends, nothing of it stays: counted at the emulator."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.integration.gcp.conftest import GcpProject, ended
from tests.waiting import DEADLINE, wait_until

HANGS = """
import time

import pytest

@pytest.mark.parametrize("number", range(2))
def test_it(number):
    if number:
        time.sleep(1000)
"""
TIMEOUT = 8
"""Seconds after which shards of these tests miss their controller."""
BOUND = TIMEOUT * 13 / 12 + 35
"""Seconds in which they are gone then: they look twelve times, and get 35 seconds to end."""


@pytest.fixture
def hanging(gcp: GcpProject) -> Iterator[subprocess.Popen[bytes]]:
    """A run in two shards, of which one has ended, and one is in the middle of a test."""
    gcp.configure(controller_timeout=TIMEOUT)
    gcp.project.write("test_it.py", HANGS)
    with gcp.begin("--sandbox-shards=2") as process:
        gcp.control.wait("runnable_ended", timeout=DEADLINE)
        wait_until(lambda: sum(name.endswith("-0-1.part") for name in gcp.objects()) == 2)
        yield process


def test_ctrl_c_twice_leaves_nothing(gcp: GcpProject, hanging: subprocess.Popen[bytes]) -> None:
    gcp.control.inject("batch.jobs.delete", "slow", delay=1)
    hanging.send_signal(signal.SIGINT)
    wait_until(lambda: not any("lease" in each for each in gcp.objects()))
    output = ended(hanging, signal.SIGINT)
    assert hanging.returncode == 2, output
    assert "Traceback" not in output
    gcp.check_nothing_is_left()


def test_sigterm_in_a_call_is_taken_for_no_refusal_of_the_service(
    gcp: GcpProject, hanging: subprocess.Popen[bytes]
) -> None:
    gcp.control.inject("storage.objects.list", "slow", delay=2)
    gcp.control.wait("fault", method="storage.objects.list", timeout=DEADLINE)
    output = ended(hanging, signal.SIGTERM)
    assert hanging.returncode == 143, output
    assert "Exit: SIGTERM" in output
    assert "ERROR" not in output
    gcp.check_nothing_is_left()


def test_a_run_whose_lease_is_gone_ends_and_says_so(gcp: GcpProject) -> None:
    gcp.configure(controller_timeout=TIMEOUT)
    gcp.project.write("test_it.py", "def test_it(): pass\n")
    gcp.control.withhold_machines("quota")
    with gcp.begin("--sandbox-shards=1") as process:
        gcp.control.wait("job_created", timeout=DEADLINE)
        gcp.remove(next(name for name in gcp.objects() if name.endswith("/lease.json")))
        output = ended(process)
    assert process.returncode == 4, output
    said = f"/lease.json is gone, and this process has not written it for [0-9]+ s: shards that miss it for {TIMEOUT} s"
    assert re.search(said, output), output
    gcp.check_nothing_is_left()


def last_sign_of_life(gcp: GcpProject) -> float:
    calls = gcp.control.events("call", method="storage.objects.insert")
    return max(float(each["time"]) for each in calls if "lease" in each["resource"])


def test_shards_of_a_run_that_was_killed_leave_nothing_but_their_job_which_the_next_run_removes(
    gcp: GcpProject, here: GcpProject, hanging: subprocess.Popen[bytes]
) -> None:
    ended(hanging, signal.SIGKILL)
    (killed,) = gcp.control.remains().jobs
    (end,) = gcp.control.wait("job_state", job=killed, state="SUCCEEDED", timeout=DEADLINE)
    assert end["time"] - last_sign_of_life(gcp) < BOUND
    left = gcp.control.remains()
    assert (left.machines, left.processes, gcp.objects()) == ([], 0, [])
    gcp.project.write("test_it.py", "def test_it(): pass\n")
    run = here.run_here("--sandbox-shards=1")
    assert run.verdicts == {"test_it": "passed"}
    assert "sandboxes: removed what 1 killed run of yours had left" in run.stdout


@pytest.mark.parametrize(
    ("method", "resource", "number", "code"),
    [
        ("storage.objects.insert", "*lease.json", signal.SIGINT, 2),
        ("storage.objects.insert", "*orders/*", signal.SIGTERM, 143),
        ("batch.jobs.create", "*", signal.SIGTERM, 143),
    ],
    ids=["first", "between upload and job", "between the request for a job and its answer"],
)
def test_what_is_under_way_when_a_signal_comes_is_removed_as_well(
    gcp: GcpProject, method: str, resource: str, number: signal.Signals, code: int
) -> None:
    gcp.project.write("test_it.py", "def test_it(): pass\n")
    gcp.control.inject(method, "slow", resource=resource, delay=0.5)
    with gcp.begin("--sandbox-shards=1") as process:
        gcp.control.wait("fault", method=method, timeout=DEADLINE)
        output = ended(process, number)
    assert process.returncode == code, output
    assert "Traceback" not in output
    gcp.check_nothing_is_left()

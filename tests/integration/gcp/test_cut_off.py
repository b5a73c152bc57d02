"""A VM that cannot reach the bucket for a while: it gives up its shard, and takes the run from nobody else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from pytest_sandboxes.batch.runners.gcp import lease, section
from pytest_sandboxes.batch.runners.gcp.machine import main
from pytest_sandboxes.batch.runners.gcp.naming import new_run
from pytest_sandboxes.batch.runners.gcp.objects import Objects
from pytest_sandboxes.batch.runners.gcp.service import Service
from pytest_sandboxes.profiles.profile import Profile
from tests.integration.gcp.conftest import GcpProject, ended
from tests.waiting import DEADLINE, wait_until

TTL = 8.0
SHARD = """
import pathlib, sys, time
folder = pathlib.Path({folder!r})
sys.stdin.read()
(folder / "told to end").touch()
while not (folder / "may end").exists():
    time.sleep(0.01)
"""
LEASE = json.dumps({"stop": [], "ttl": TTL}).encode()


@pytest.fixture
def objects(here: GcpProject) -> Iterator[Objects]:
    """Of a run with orders for two shards."""
    profile = Profile().override({"gcp": {"bucket": here.bucket}}, "test")
    with closing(Service(section.read(profile))) as service:
        found = Objects(service, new_run())
        archive = {"path": "archives/a.tar", "sha256": "a"}
        found.put(archive["path"], b"")
        job = {"project": archive, "environment": archive, "variables": {}, "spec": {}}
        for shard in range(2):
            found.put(f"orders/0-{shard}.json", json.dumps({"shard": shard, "job": job}).encode())
        yield found
        found.remove_all(10)


def test_a_vm_that_was_cut_off_leaves_a_run_that_lives_alone(
    here: GcpProject, objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_sandboxes.batch.runners.gcp.machine.bucket._PATIENCE", 0.5)
    monkeypatch.setenv("BATCH_TASK_INDEX", "0")
    config = {
        "bucket": here.bucket,
        "prefix": objects.prefix,
        "wave": 0,
        "ttl": TTL,
        "bootstrap": SHARD.format(folder=str(tmp_path)),
    }
    version = objects.replace(lease.NAME, LEASE, 0, (), DEADLINE)
    before = set(here.objects())
    with ThreadPoolExecutor(1) as thread:
        code = thread.submit(main.main, config)
        wait_until(lambda: any("/state/" in name for name in here.objects()))
        here.control.inject("storage.objects.get", "unavailable", resource="*lease.json", times=None)
        wait_until((tmp_path / "told to end").exists)
        objects.replace(lease.NAME, LEASE, version.generation, (), DEADLINE)
        here.control.clear_faults()
        (tmp_path / "may end").touch()
        assert code.result(DEADLINE) == 0
    left = set(here.objects())
    assert before <= left
    assert [name for name in left if name.endswith("-0-0-1.end")]


def test_an_order_that_is_gone_is_the_loss_of_its_shard_and_says_nothing_of_roles(gcp: GcpProject) -> None:
    gcp.project.write("test_it.py", "def test_one(): pass\ndef test_two(): pass\n")
    gcp.control.withhold_machines("quota")
    with gcp.begin("--sandbox-shards=2") as process:
        gcp.control.wait("job_created", timeout=DEADLINE)
        (order,) = [name for name in gcp.objects() if name.endswith("orders/0-1.json")]
        gcp.remove(order)
        gcp.control.release_machines()
        output = ended(process)
    assert gcp.finished(output) == {"test_one": ["passed"], "test_two": ["passed"]}, output
    assert output.count("lost: ") == 1
    assert "lost: shard 2 has ended before its last test with exit status 78" in output

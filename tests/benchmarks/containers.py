"""Backend docker beside what everybody does with the same Engine: its SDK's exec, `docker exec`, a container a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from pytest_sandboxes import registry
from pytest_sandboxes.backends.base import BackendOptions
from pytest_sandboxes.pool.pool import Pool
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.slot import Slot
from tests.benchmarks.execs import counted, per_second, spawn
from tests.benchmarks.measuring import NOTHING, Row, compared, milliseconds, seconds_of, taking_turns, times
from tests.benchmarks.tasks import compared_with_bare, suite

IMAGE = os.environ.get("BENCHMARKS_IMAGE", "pytest-sandboxes/python")
_FOREVER = ["sleep", "1000"]
_FEW = 20
_CONTAINER_PER_TEST = f"""

few = pytest.mark.parametrize("task", range({_FEW}))


@few
def test_container(tmp_path, task):
    import docker

    engine = docker.from_env()
    container = engine.containers.run(IMAGE, {_FOREVER}, detach=True, network_mode="none")
    try:
        judge(container, tmp_path)
    finally:
        container.remove(force=True)
        engine.close()


@few
def test_testcontainer(tmp_path, task):
    import os

    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"  # one container less to start
    from testcontainers.core.container import DockerContainer

    with DockerContainer(IMAGE).with_command({_FOREVER}).with_kwargs(network_mode="none") as container:
        judge(container.get_wrapped_container(), tmp_path)


def judge(container, folder):
    import io, tarfile

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in (("solution.py", SOLUTION), ("input", INPUT)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))
    container.put_archive("/", packed.getvalue())
    assert container.exec_run(["sh", "-c", "python3 /solution.py < /input"]).output.decode() == EXPECTED
"""


def execs(*, quick: bool) -> Iterator[Row]:
    """One command after the other, each way."""
    samples, few = (50, 3) if quick else (1000, 20)
    with _slot() as slot, _container() as container:
        by_command = ["docker", "exec", container.id, "true"]
        ways = {
            "the SDK's `exec_run`": lambda: container.exec_run(["true"]),
            "`docker exec`": lambda: subprocess.run(by_command, check=True),
        }
        ours, floor = taking_turns(samples, lambda: slot.exec("true"), spawn, warm_up=30)
        theirs = taking_turns(few, *ways.values())
    what = "exec of `true`, docker"
    yield compared(what, ours, floor, samples=samples, target="<= 4 x", name="`os.posix_spawn`")
    for name, duration, target in zip(ways, theirs, (">= 15 x faster", NOTHING), strict=True):
        row = f"{milliseconds(duration)} {name}"
        yield Row(what, milliseconds(ours), row, f"{times(duration / ours)} faster", target, few)


def tasks(*, quick: bool) -> Iterator[Row]:
    """Python tasks as tests, beside the same tasks each in a container of its own."""
    count, rounds = (20, 1) if quick else (160, 2)
    others = {"a container a test": "test_container"}
    if find_spec("testcontainers"):
        others["a container a test, by testcontainers"] = "test_testcontainer"
    more = f"\nIMAGE = {IMAGE!r}\n{_CONTAINER_PER_TEST}"
    # an interpreter of the kind that is in the image, where there is one
    with suite(count, more, python=shutil.which("python3", path="/usr/bin")) as run, _profiles() as file:
        options = ("--sandbox-backend=docker", f"--sandbox-profiles-file={file}")
        ours, floor = taking_turns(rounds, lambda: run("test_isolated", *options), lambda: run("test_bare"))
        theirs = [seconds_of(partial(run, name)) * count / _FEW for name in others.values()]
    what = f"{count} Python tasks, `pytest -n 2`, docker"
    yield compared_with_bare(what, ours, floor, count=count, rounds=rounds, target="<= 2 x")
    for name, duration in zip(others, theirs, strict=True):
        yield Row(
            what, f"{ours:.2f} s", f"{duration:.1f} s {name}", f"{times(duration / ours)} faster", samples=1
        )


@contextmanager
def _profiles() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sandboxes.yaml"
        file.write_text(f"profiles: {{default: {{image: {IMAGE}, max_sandboxes: 2}}}}")
        yield file


def throughput(*, quick: bool) -> Iterator[Row]:
    """Commands per second over all slots of one container, a thread for each."""
    calls, rounds = (64, 2) if quick else (1280, 5)
    for slots in (1, 8, 32):
        with _pool(slots_per_sandbox=slots) as (pool, profile):
            found = [Slot(pool.lease("docker", profile)) for _ in range(slots)]
            assert len({slot.name for slot in found}) == 1
            uses = [partial(slot.exec, "true") for slot in found]
            rate = median(per_second(uses, calls) for _ in range(rounds))
        floor = median(per_second([spawn] * slots, calls) for _ in range(rounds))
        yield Row(
            f"exec/s, one container, {counted(slots, 'slot')}",
            f"{rate:,.0f}/s",
            f"{floor:,.0f}/s `os.posix_spawn`",
            times(floor / rate),
            ">= 600/s" if slots == 32 else NOTHING,
            rounds * calls,
        )


def leases(*, quick: bool) -> Iterator[Row]:
    """A lease, a reset and a release, beside a container a test."""
    samples, few = (10, 2) if quick else (100, 10)
    with _pool() as (pool, profile):
        pool.lease("docker", profile).release()
        whole = [seconds_of(lambda: _one_test(pool, profile)) for _ in range(samples)]
    import docker

    engine = docker.from_env()
    theirs = median(seconds_of(lambda: _container_per_test(engine)) for _ in range(few))
    engine.close()
    yield Row(
        "lease, exec of `true` and release with reset, one container, docker",
        milliseconds(median(whole)),
        f"{milliseconds(theirs)} a container a test",
        times(theirs / median(whole)) + " faster",
        "<= 5 ms",
        samples,
    )


def first_leases(*, quick: bool) -> Iterator[Row]:
    """From the end of collection to the first lease, with what an earlier run has kept and with nothing, in turns."""
    samples = 3 if quick else 20
    warm, cold = [], []
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, XDG_STATE_HOME=folder):
        _first_lease(park=True, found=0)
        for number in range(samples):
            cold.append(_first_lease(park=False, found=None))
            warm.append(_first_lease(park=number < samples - 1, found=1))
    yield Row(
        "first lease of a run, docker, `--sandbox-keep`",
        milliseconds(median(warm)),
        f"{milliseconds(median(cold))} without",
        f"{times(median(cold) / median(warm))} faster",
        ">= 20 x faster",
        samples,
    )


def _first_lease(*, park: bool, found: int | None) -> float:
    """Seconds that it takes a run; `found`: how many it finds waiting, None if it does not look."""
    profile = Profile().override({"image": IMAGE, "buffer_sandboxes": 1}, "benchmarks")
    begin = time.perf_counter()
    backend = registry.make("docker", BackendOptions(park_seconds=None if found is None else 60.0), {})
    pool = Pool({"docker": backend})
    try:
        backend.check(profile)
        backend.check_machine(profile)
        lease = pool.lease("docker", profile)
        duration = time.perf_counter() - begin
        Slot(lease).exec("true", check=True)
        lease.release()
        assert pool.statistics().taken_over == (found or 0)
    finally:
        pool.close(park=park)
    return duration


@contextmanager
def _pool(slots_per_sandbox: int = 1) -> Iterator[tuple[Pool, Profile]]:
    """A pool of one container."""
    fields = {"buffer_sandboxes": 0, "max_sandboxes": 1, "slots_per_sandbox": slots_per_sandbox}
    profile = Profile().override({"image": IMAGE, **fields}, "benchmarks")
    pool = Pool({"docker": registry.make("docker", BackendOptions(), {})})
    try:
        yield pool, profile
    finally:
        pool.close()


@contextmanager
def _slot() -> Iterator[Slot]:
    with _pool() as (pool, profile):
        yield Slot(pool.lease("docker", profile))


@contextmanager
def _container() -> Iterator[Any]:
    import docker

    engine = docker.from_env()
    container = engine.containers.run(IMAGE, _FOREVER, detach=True, network_mode="none")
    try:
        yield container
    finally:
        container.remove(force=True)
        engine.close()


def _one_test(pool: Pool, profile: Profile) -> None:
    lease = pool.lease("docker", profile)
    Slot(lease).exec("true")
    lease.release()


def _container_per_test(engine: Any) -> None:
    container = engine.containers.run(IMAGE, _FOREVER, detach=True, network_mode="none")
    try:
        container.exec_run(["true"])
    finally:
        container.remove(force=True)

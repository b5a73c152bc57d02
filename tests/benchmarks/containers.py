"""Backend docker beside what everybody does with the same Engine: its SDK's exec, `docker exec`, a container a test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from pytest_sandboxes import registry
from pytest_sandboxes.backends.base import BackendOptions
from pytest_sandboxes.pool import Pool
from pytest_sandboxes.profiles import Profile
from pytest_sandboxes.slot import Slot
from tests.benchmarks.execs import spawn
from tests.benchmarks.measuring import NOTHING, Row, compared, milliseconds, seconds_of, taking_turns, times

IMAGE = os.environ.get("BENCHMARKS_IMAGE", "pytest-sandboxes/python")
_FOREVER = ["sleep", "1000"]


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


@contextmanager
def _pool() -> Iterator[tuple[Pool, Profile]]:
    """A pool of one container."""
    profile = Profile().override({"image": IMAGE, "buffer_sandboxes": 0, "max_sandboxes": 1}, "benchmarks")
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

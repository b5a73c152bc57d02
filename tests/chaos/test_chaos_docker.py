"""Small counts of what `tests.chaos.docker_kills` does in large ones."""

from __future__ import annotations

import os
import random
import shutil
from typing import Any

import pytest

pytest.importorskip("docker", reason="the docker SDK is not installed")

from pytest_sandboxes.connection import HEARTBEAT_DEADLINE
from tests.chaos import leftovers
from tests.chaos.docker_kills import POINTS, containers, die_once, die_with_engine, networks
from tests.chaos.victims_of_kills import PATIENCE


@pytest.mark.parametrize("seed", range(4))
def test_nothing_outlives_a_run_that_is_killed_at_any_instant(
    engine: Any, python_image: str, seed: int
) -> None:
    die_once(engine.api, python_image, seed, random.Random(seed).uniform(0, 2.5))


@pytest.mark.parametrize(("point", "never_started"), list(zip(POINTS, (0, 1, 1, 0), strict=True)))
def test_nothing_outlives_a_run_that_is_killed_in_the_middle_of_a_start(
    engine: Any, python_image: str, point: str, never_started: int
) -> None:
    death = die_once(engine.api, python_image, 100 + POINTS.index(point), point)
    # another container may be at any point of its own start
    assert death.never_started >= never_started
    assert death.networks == 1


def test_the_counters_see(engine: Any, busybox_image: str) -> None:
    marker = f"victim-{os.getpid()}-planted"
    network = engine.api.create_network(marker, driver="bridge", labels={"pytest-sandboxes.process": marker})[
        "Id"
    ]
    host_config = engine.api.create_host_config(network_mode="none", tmpfs={f"/{marker}": ""})
    planted = engine.api.create_container(busybox_image, ["sleep", "1000"], host_config=host_config)["Id"]
    try:
        assert containers(engine.api, marker) == {planted: "created"}
        engine.api.start(planted)
        assert containers(engine.api, marker) == {planted: "running"}
        assert len(leftovers.processes(marker)) == 1
        assert networks(engine.api, marker) == [network]
    finally:
        engine.api.remove_container(planted, force=True)
        engine.api.remove_network(network)
    assert not containers(engine.api, marker)
    assert not networks(engine.api, marker)


def test_no_code_outlives_a_run_that_is_killed_with_its_engine(engine: Any, python_image: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can start dockerd")
    if not shutil.which("dockerd"):
        pytest.skip("no dockerd is installed")
    assert die_with_engine(python_image) < HEARTBEAT_DEADLINE + PATIENCE

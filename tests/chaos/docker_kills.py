"""SIGKILL of pytest on backend docker: what is left, by /proc and by the Engine's API, and for how long.

`python -m tests.chaos.kills [count] --backend docker` runs this.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import docker
import docker.errors
import pytest

from pytest_sandboxes.backends import owner
from pytest_sandboxes.backends.docker import janitor
from pytest_sandboxes.backends.docker.engine import Engine
from pytest_sandboxes.connection import HEARTBEAT_DEADLINE
from tests.chaos import leftovers
from tests.chaos.victims_of_kills import PATIENCE, start_victim
from tests.engine import images
from tests.engine.own import OwnEngine, own_engine
from tests.waiting import wait_until

POINTS = ("create_network", "create_container:2", "attach_socket:2", "start:2")
"""Where a run dies in the middle of a start; the first container is the one that shows that the machine can."""
_LATEST = 2.5  # seconds; most runs are busy by then
_DOCKERD_START = 60.0


class Death(NamedTuple):
    """What outlived a run, and for how many seconds."""

    processes: float
    containers: float
    """Until the last one that ran was gone."""
    never_started: int
    """Containers that stayed for the next sweep."""
    networks: int
    """Networks that did."""


def profile(marker: str, image: str, network: str = "outbound") -> str:
    """A profile whose containers have `marker` as the name of their workspace."""
    return f"{{image: {image}, network: {network}, workspace_base: /{marker}, execution_timeout_s: 1000}}"


def containers(api: Any, marker: str) -> dict[str, str]:
    """The state of each container with `marker` in its workspace."""
    found = {}
    for container in api.containers(all=True):
        with contextlib.suppress(docker.errors.NotFound):
            described = api.inspect_container(container["Id"])
            if f"/{marker}" in (described["HostConfig"].get("Tmpfs") or {}):
                found[container["Id"]] = described["State"]["Status"]
    return found


def networks(api: Any, process: str) -> list[str]:
    """Networks that a process has made."""
    label = f"{janitor._PROCESS}={process}"
    return [network["Id"] for network in api.networks(filters={"label": [label]})]


def die_once(api: Any, image: str, number: int, when: float | str) -> Death:
    """Have a run die, `when` seconds after its start or after a call of the SDK, and sweep after it.

    Raises AssertionError when anything outlives that.
    """
    marker = f"victim-{os.getpid()}-{number}"
    with _user_of_our_own(marker), tempfile.TemporaryDirectory() as name:
        victim = start_victim(
            marker,
            Path(name),
            profile(marker, image),
            "--sandbox-backend=docker",
            dies_after=when if isinstance(when, str) else None,
            wait=False,
        )
        process = owner.process(victim.pid)
        if isinstance(when, str):
            assert victim.wait(_DOCKERD_START) == -signal.SIGKILL, f"it did not die after {when}"
        else:
            time.sleep(when)
            victim.kill()
        began = time.perf_counter()
        processes_gone = leftovers.seconds_until_gone(marker, PATIENCE)
        while "running" in (left := containers(api, marker)).values() or "removing" in left.values():
            assert time.perf_counter() - began < PATIENCE, f"containers are left: {left}"
        containers_gone = time.perf_counter() - began
        victim.wait(PATIENCE)
        death = Death(processes_gone, containers_gone, len(left), len(networks(api, process)))
        sweep()
        assert not left.keys() & containers(api, marker).keys()
        # the Engine may still be about to carry out what the run had asked for when it died
        wait_until(lambda: _sweep_leaves_nothing(api, marker, process), "that a sweep leaves nothing")
    return death


@contextmanager
def _user_of_our_own(name: str) -> Iterator[None]:
    """Be a user of that name, with all processes that are started meanwhile.

    Any other run would begin with removing what is left of ours, before it is counted.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOGNAME", name)
        try:
            yield
        finally:
            sweep()  # nobody else ever will


def _sweep_leaves_nothing(api: Any, marker: str, process: str) -> bool:
    sweep()
    return not containers(api, marker) and not networks(api, process)


def sweep() -> None:
    """What the next run does first."""
    engine = Engine()
    try:
        janitor.sweep(engine)
    finally:
        engine.close()


def die_with_engine(image: str) -> float:
    """Kill a busy run and its Engine at once, which leaves containers alone; the seconds for which code ran on."""
    with own_engine("--live-restore", megabytes=700) as engine:
        engine.load(image)
        return _die_with(engine, image)


def _die_with(engine: OwnEngine, image: str) -> float:
    marker = f"victim-{os.getpid()}-engine"
    with tempfile.TemporaryDirectory() as name:
        victim = start_victim(
            marker,
            Path(name),
            profile(marker, image, "none"),
            "--sandbox-backend=docker",
            environment={"DOCKER_HOST": engine.address},
        )
        inside = {pid for pid in leftovers.processes(marker) if pid != victim.pid}
        assert inside, "nothing was running when the run was killed"
        victim.kill()
        engine.stop(signal.SIGKILL)
        victim.wait(PATIENCE)
        return leftovers.seconds_until_gone(marker, HEARTBEAT_DEADLINE + PATIENCE)


def main(count: int) -> None:
    """Have `count` runs die and print the figures."""
    chance = random.Random(count)
    with closing(docker.from_env(timeout=60)) as client:
        image = images.ensure(client, "python")
        whens: list[float | str] = [
            POINTS[number // 2 % len(POINTS)] if number % 2 else chance.uniform(0, _LATEST)
            for number in range(count)
        ]
        deaths = [die_once(client.api, image, number, when) for number, when in enumerate(whens)]
    print(
        f"{count} kills, half of them between the calls of a start: all processes gone after {_figures(deaths, 0)}, "
        f"all containers that ran after {_figures(deaths, 1)}; {sum(death.never_started for death in deaths)} "
        f"containers that never ran and {sum(death.networks for death in deaths)} networks stayed for the next sweep, "
        "which left none"
    )
    took = die_with_engine(image)
    print(f"pytest and dockerd killed together: all processes gone after {took:.1f} s")


def _figures(deaths: list[Death], field: int) -> str:
    times = [death[field] for death in deaths]
    return f"a median of {statistics.median(times) * 1000:.0f} ms, at most {max(times) * 1000:.0f} ms"

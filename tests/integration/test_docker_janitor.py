"""What is left of dead runs on a real Engine is swept; what is not, or is somebody else's, is not touched."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest

from pytest_sandboxes import Slot
from pytest_sandboxes.backends import owner
from pytest_sandboxes.backends.base import BackendOptions
from pytest_sandboxes.backends.docker import DockerBackend, janitor
from pytest_sandboxes.backends.docker.engine import Engine
from pytest_sandboxes.pool.pool import Pool
from pytest_sandboxes.profiles.profile import Profile

pytest.importorskip("docker", reason="the docker SDK is not installed")

OWNER, PROCESS = "pytest-sandboxes.owner", "pytest-sandboxes.process"
_RUNS = itertools.count()


class Things:
    """Makes containers and networks as runs of whatever process and owner would, and says which are left."""

    def __init__(self, api: Any, image: str) -> None:
        self._api = api
        self._image = image
        self.made: dict[str, str] = {}

    @staticmethod
    def labels(**changes: str) -> dict[str, str]:
        run = f"test{os.getpid()}x{next(_RUNS)}"
        names = {"owner": OWNER, "process": PROCESS}
        return {**janitor.labels(run), **{names[key]: value for key, value in changes.items()}}

    def container(
        self, what: str, labels: Mapping[str, str], *, name: str = "", image: str = "", runs: bool = False
    ) -> str:
        name = name or f"{janitor.PREFIX}{labels['pytest-sandboxes.run']}-1"
        made: str = self._api.create_container(
            image or self._image,
            ["sleep", "1000"],
            name=name,
            labels=dict(labels),
            host_config=self._api.create_host_config(network_mode="none"),
        )["Id"]
        self.made[what] = made
        if runs:
            self._api.start(made)
        return made

    def network(self, what: str, labels: Mapping[str, str]) -> str:
        name = f"{janitor.PREFIX}{labels['pytest-sandboxes.run']}"
        made: str = self._api.create_network(name, driver="bridge", labels=dict(labels))["Id"]
        self.made[what] = made
        return made

    def left(self) -> list[str]:
        there = {each["Id"] for each in self._api.containers(all=True)}
        there |= {each["Id"] for each in self._api.networks()}
        return [what for what, made in self.made.items() if made in there]

    def remove(self) -> None:
        containers = {each["Id"] for each in self._api.containers(all=True)}
        networks = {each["Id"] for each in self._api.networks()}
        for made in containers & set(self.made.values()):
            self._api.remove_container(made, force=True, v=True)
        for made in networks & set(self.made.values()):
            self._api.remove_network(made)


@pytest.fixture
def things(engine: Any, busybox_image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Things]:
    owner = f"test{os.getpid()}x{next(_RUNS)}@here"  # else the sweeps of tests beside this one would meet
    monkeypatch.setattr(janitor, "owner", lambda: owner)
    made = Things(engine.api, busybox_image)
    yield made
    made.remove()


def sweep() -> None:
    engine = Engine()
    try:
        janitor.sweep(engine)
    finally:
        engine.close()


def dead() -> str:
    """A process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = owner.process(process.pid)
    process.communicate()
    assert known
    return known


def ours() -> str:
    return owner.process(os.getpid())


def on_another_machine() -> str:
    return " ".join(["0" * 36, *ours().split()[1:]])


def reused() -> str:
    """Our own pid, when it was another process's."""
    return ours().rpartition(" ")[0] + " 1"


def test_what_dead_runs_have_left_is_removed(things: Things) -> None:
    things.container("created", things.labels(process=dead()))
    things.container("running", things.labels(process=dead()), runs=True)
    things.container("of a pid that is another's by now", things.labels(process=reused()))
    things.network("network", things.labels(process=dead()))
    sweep()
    assert things.left() == []


def test_a_living_runs_are_not_touched(things: Things, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    things.container("created", things.labels())
    paused = things.container("paused", things.labels(), runs=True)
    engine.api.pause(paused)
    things.network("network", things.labels())
    everything_is_old(monkeypatch)
    sweep()
    assert things.left() == ["created", "paused", "network"]


def test_of_what_cannot_be_looked_up_only_the_stale_is_removed(
    things: Things, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = on_another_machine()  # which has the same name, and a user of the same name
    things.container("running", things.labels(process=elsewhere), runs=True)
    paused = things.container("paused", things.labels(process=elsewhere), runs=True)
    engine.api.pause(paused)
    things.container("created", things.labels(process=elsewhere))
    exited = things.container("exited", things.labels(process=elsewhere), runs=True)
    engine.api.kill(exited)
    engine.api.wait(exited)
    things.network("network", things.labels(process=elsewhere))
    in_use = things.network("network in use", things.labels(process=elsewhere))
    user = things.container("its user", things.labels(process=elsewhere), name=f"other-{os.getpid()}")
    engine.api.disconnect_container_from_network(user, "none")
    engine.api.connect_container_to_network(user, in_use)
    engine.api.start(user)
    before = things.left()
    sweep()
    assert things.left() == before, "all of it is young"
    everything_is_old(monkeypatch)
    sweep()
    assert things.left() == ["running", "paused", "network in use", "its user"]


def everything_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what was made in the last seconds pass for older than any limit."""
    for limit in ("_STARTED_BY_THEN", "_UNUSED_BY_THEN"):
        monkeypatch.setattr(janitor, limit, -timedelta(minutes=1))


def test_what_waits_for_a_run_is_judged_by_the_time_in_its_name(things: Things) -> None:
    now = time.time()
    for what, name in (
        ("waits", janitor.parked_name("0" * 12, now + 100)),
        ("has just ended", janitor.parked_name("1" * 12, now - 10)),
        ("should have ended", janitor.parked_name("2" * 12, now - 1000)),
        ("nonsense", f"{janitor.PREFIX}parked-soon-{os.getpid()}"),
    ):
        things.container(what, things.labels(process=dead()), name=f"{name}{os.getpid()}", runs=True)
    sweep()
    assert things.left() == ["waits", "has just ended", "nonsense"]


def test_what_has_been_taken_over_is_judged_by_the_process_in_its_name(
    things: Things, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_by = things.labels(process=dead())
    for what, holder in (
        ("alive", ours()),
        ("dead", dead()),
        ("reused", reused()),
        ("elsewhere", on_another_machine()),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(janitor, "process", lambda _, holder=holder: holder)
            name = janitor.held_name(f"{os.getpid():012}")
        things.container(what, made_by, name=name, runs=True)
    things.container("nonsense", made_by, name=f"{janitor.PREFIX}held-x-y-z-{os.getpid()}", runs=True)
    everything_is_old(monkeypatch)
    sweep()
    assert things.left() == ["alive", "elsewhere", "nonsense"]


@pytest.mark.parametrize("owner", ["another@machine", "", "test@here", "*", "."])
def test_another_users_are_not_touched(things: Things, monkeypatch: pytest.MonkeyPatch, owner: str) -> None:
    things.container("container", things.labels(owner=owner, process=dead()))
    things.network("network", things.labels(owner=owner, process=dead()))
    everything_is_old(monkeypatch)
    sweep()
    assert things.left() == ["container", "network"]


def test_what_is_kept_or_only_inherits_labels_is_not_touched(
    things: Things, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = things.labels(process=dead())
    things.container("kept", labels, name=f"kept-{os.getpid()}")
    things.container("of an image of a sandbox", labels, name=f"own-{os.getpid()}")
    things.container("alike", labels, name=f"{janitor.PREFIX}mine-{os.getpid()}")
    everything_is_old(monkeypatch)
    sweep()
    assert things.left() == ["kept", "of an image of a sandbox", "alike"]


@pytest.mark.parametrize(
    "process",
    [
        "",
        "nonsense",
        "a b c d",
        "{boot} {namespace} pid {started}",
        "{boot} {namespace} -1 {started}",
        "{boot} {namespace} ../1 {started}",
        "{boot} {namespace} ² {started}",
        "{boot} {namespace} 1",
    ],
)
def test_nonsense_in_labels_is_neither_dead_nor_an_error(things: Things, process: str) -> None:
    boot, namespace, _, started = ours().split()
    forged = process.format(boot=boot, namespace=namespace, started=started)
    things.container("container", things.labels(process=forged))
    sweep()
    assert things.left() == ["container"]


@pytest.fixture
def image_with_volume(engine: Any, python_image: str) -> Iterator[str]:
    """An image that declares a volume in which everybody may write."""
    api = engine.api
    container = api.create_container(
        python_image, ["sh", "-c", "mkdir -m 1777 /data && echo content > /data/file"], network_disabled=True
    )["Id"]
    name = f"pytest-sandboxes/volume-{os.getpid()}"
    try:
        api.start(container)
        assert api.wait(container)["StatusCode"] == 0
        api.commit(container, repository=name, tag="latest", changes="VOLUME /data")
    finally:
        api.remove_container(container, force=True)
    yield name
    api.remove_image(name)


def volumes_of(engine: Any, image: str) -> set[str]:
    """The volumes of all containers of an image."""
    found = set()
    for container in engine.api.containers(all=True, filters={"ancestor": image}):
        mounts = engine.api.inspect_container(container["Id"])["Mounts"]
        found |= {mount["Name"] for mount in mounts if mount["Type"] == "volume"}
    return found


def volumes(engine: Any) -> set[str]:
    return {each["Name"] for each in engine.api.volumes()["Volumes"] or ()}


@pytest.mark.parametrize(("isolation", "written"), [("slot", False), ("sandbox", True)])
def test_an_images_volumes_leave_nothing_behind(
    engine: Any, image_with_volume: str, isolation: str, written: bool
) -> None:
    pool = Pool({"docker": DockerBackend(BackendOptions())})
    try:
        profile = Profile().override(
            {"image": image_with_volume, "isolation": isolation, "buffer_sandboxes": 0}, "test"
        )
        slots = [Slot(pool.lease("docker", profile)) for _ in range(2)]
        for slot in slots:
            assert slot.sh("cat /data/file", check=True).stdout == "content\n"
            assert slot.sh("echo more > /data/left").success is written, "no reset would remove it"
        used = volumes_of(engine, image_with_volume)
        assert used
        assert used <= volumes(engine)
    finally:
        pool.close()
    assert not used & volumes(engine)


def test_volumes_of_the_dead_are_swept(things: Things, engine: Any, image_with_volume: str) -> None:
    things.container("with a nameless one", things.labels(process=dead()), image=image_with_volume)
    used = volumes_of(engine, image_with_volume)
    assert used
    named = {}
    for what, labels in (
        ("dead", things.labels(process=dead())),
        ("alive", things.labels()),
        ("somebody else's", things.labels(process=dead(), owner="another@machine")),
    ):
        name = f"{janitor.PREFIX}{labels['pytest-sandboxes.run']}-0"
        named[what] = engine.api.create_volume(name, labels=labels)["Name"]
    try:
        sweep()
        left = volumes(engine)
        assert not used & left
        assert [what for what in named if named[what] in left] == ["alive", "somebody else's"]
    finally:
        for name in volumes(engine) & set(named.values()):
            engine.api.remove_volume(name)

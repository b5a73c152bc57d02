"""Volumes in which backend docker carries a Python to images: made once, replaced, and never left behind."""

from __future__ import annotations

import os
import re
import sysconfig
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pytest_sandboxes.backends.base import BackendOptions
from pytest_sandboxes.backends.carried import CarriedPython
from pytest_sandboxes.backends.docker import DockerBackend, containers, janitor
from pytest_sandboxes.backends.docker.engine import Engine
from pytest_sandboxes.backends.docker.interpreters import DIRECTORY
from pytest_sandboxes.backends.docker.removal import remove, remove_volume
from pytest_sandboxes.errors import BackendUnavailableError, SandboxStartError
from pytest_sandboxes.profiles.profile import Profile
from tests.integration.conftest import Inner
from tests.integration.docker_images import NO_INTERPRETER, PYTHON, ImageMaker, profiles, volumes

pytest.importorskip("docker", reason="the docker SDK is not installed")

PATIENCE = 30.0


@pytest.fixture
def backend() -> Iterator[DockerBackend]:
    backend = DockerBackend(BackendOptions())
    yield backend
    backend.close()


def test_one_that_cannot_be_unpacked_is_tried_again_by_the_next(
    backend: DockerBackend, busybox_image: str, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = Profile(image=busybox_image)
    with monkeypatch.context() as patched:
        patched.setattr(CarriedPython, "pack", lambda *_: CarriedPython(b"no tar" * 1000, ("none",)))
        with pytest.raises(BackendUnavailableError, match="^cannot carry Python to image"):
            backend.check_machine(profile)
    backend.check_machine(profile)
    backend.close()
    assert not volumes(engine)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--nonsense",), "and the Python that runs pytest, carried there: .*nonsense"),
        (("/nowhere/python3",), "and the Python that runs pytest, carried there: .*/nowhere/python3"),
    ],
)
def test_of_one_that_does_not_run_there_the_last_words_are_noted(  # noqa: PLR0917 - fixtures
    backend: DockerBackend,
    busybox_image: str,
    engine: Any,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    complaint: str,
) -> None:
    packed = CarriedPython.pack(DIRECTORY, sysconfig.get_platform().removeprefix("linux-"))
    broken = CarriedPython(packed.archive, (packed.command[0], *words))
    monkeypatch.setattr(CarriedPython, "pack", lambda *_: broken)
    profile = Profile(image=busybox_image)
    backend.check_machine(profile)
    (note,) = backend.notes(profile)
    assert re.search(f"served by the sh of .* it has no python3 on its PATH .*{complaint}", note)
    assert greets(backend.launch(profile))
    backend.close()
    assert not volumes(engine)


def test_a_user_of_the_image_may_run_it(backend: DockerBackend, busybox_image: str) -> None:
    profile = Profile(image=busybox_image, isolation="sandbox", user="1234:1234")
    backend.check_machine(profile)
    assert greets(backend.launch(profile))


def greets(container: containers.EngineContainer) -> bool:
    return containers.greet(container) == ""


def test_a_volume_that_somebody_removes_is_replaced(
    backend: DockerBackend, busybox_image: str, engine: Any
) -> None:
    profile = Profile(image=busybox_image)
    assert greets(backend.launch(profile))
    (volume,) = volumes(engine)
    remove_volume(engine.api, volume)
    assert volume not in volumes(engine)
    with pytest.raises(SandboxStartError, match="cannot start a container of image"):
        backend.launch(profile)
    assert volume not in volumes(engine), "the Engine has made an empty one"
    assert greets(backend.launch(profile))
    backend.close()
    assert not volumes(engine)


def test_one_volume_is_made_for_all_who_wait(
    backend: DockerBackend, busybox_image: str, make_image: ImageMaker, engine: Any
) -> None:
    images = [busybox_image, make_image(busybox_image, {PYTHON: NO_INTERPRETER})]
    with ThreadPoolExecutor() as pool:
        launched = list(pool.map(lambda image: backend.launch(Profile(image=image)), images * 2))
    assert all(map(greets, launched))
    assert len(volumes(engine)) == 1


def test_the_volumes_of_dead_runs_are_swept_and_no_others(engine: Any, busybox_image: str) -> None:
    ours = janitor.labels("run")
    process = ours["pytest-sandboxes.process"]
    of_the_dead = {**ours, "pytest-sandboxes.process": process.rpartition(" ")[0] + " 1"}
    somebody_elses = {**of_the_dead, "pytest-sandboxes.owner": "another@machine"}
    made: dict[str, str] = {}
    for whose, labels in (
        ("ours", ours),
        ("the dead's", of_the_dead),
        ("in use", of_the_dead),
        ("somebody else's", somebody_elses),
    ):
        name = f"{janitor.PREFIX}run-test-{os.getpid()}-{len(made)}"
        made[whose] = engine.api.create_volume(name, labels=labels)["Name"]
    host_config = engine.api.create_host_config(binds={made["in use"]: {"bind": "/used", "mode": "ro"}})
    user = engine.api.create_container(busybox_image, ["true"], host_config=host_config, volumes=["/used"])[
        "Id"
    ]
    sweeping = Engine()
    try:
        janitor.sweep(sweeping)
        left = {volume["Name"] for volume in engine.api.volumes()["Volumes"]}
        assert [whose for whose in made if made[whose] in left] == ["ours", "in use", "somebody else's"]
    finally:
        sweeping.close()
        engine.api.remove_container(user, force=True)
        for volume in made.values():
            remove_volume(engine.api, volume)


def test_a_killed_run_leaves_its_volume_to_the_next(inner: Inner, busybox_image: str, engine: Any) -> None:
    profiles(inner, slots=busybox_image)
    inner.write(
        "test_it.py",
        """
        import os, signal
        from pathlib import Path
        from pytest_sandboxes.backends.docker import janitor

        def test_it(sandbox):
            if not Path("process").exists():
                Path("process").write_text(janitor.labels("")["pytest-sandboxes.process"])
                os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    inner.run_apart("--sandbox-profile=slots")
    process = Path("process").read_text()
    (volume,) = volumes(engine, process)
    deadline = time.monotonic() + PATIENCE
    while engine.api.containers(all=True, filters={"volume": volume}):
        assert time.monotonic() < deadline, "its container lives on"
        time.sleep(0.02)
    assert inner.run("--sandbox-profile=slots").counts == {"passed": 1}
    assert not volumes(engine, process)


def test_a_kept_slot_keeps_its_volume(inner: Inner, busybox_image: str, engine: Any) -> None:
    profiles(inner, slots=busybox_image)
    inner.write(
        "test_it.py", "def test_it(sandbox):\n    sandbox.write_text('evidence', 'here')\n    assert False\n"
    )
    run = inner.run("--sandbox-profile=slots", "--sandbox-keep-failed")
    container = next(line for line in run.stdout.splitlines() if line.startswith("  end:")).split()[-1]
    try:
        (volume,) = volumes(engine)
        inspected = engine.api.inspect_container(container)
        assert [mount["Name"] for mount in inspected["Mounts"] if mount.get("Name")] == [volume]
        assert inspected["State"]["Running"]
    finally:
        remove(engine.api, container)
    remove_volume(engine.api, volume)
    assert not volumes(engine)

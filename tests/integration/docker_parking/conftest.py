"""A place for containers that wait between two runs."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_sandboxes.backends.base import BackendOptions
from pytest_sandboxes.backends.docker import DockerBackend, janitor
from pytest_sandboxes.profiles.profile import Profile
from tests.integration.conftest import Inner

PATIENCE = 60.0
NUMBERS = itertools.count()
KEEP = "--sandbox-keep=300"
_TALK = """
import os, struct, sys, time
def say(data):
    while data:
        data = data[os.write(1, data):]
{body}
time.sleep(1000)
"""


class Place:
    """Where a test's containers are known from all others: a user of its own, and a workspace of a name of its own."""

    def __init__(self, inner: Inner, api: Any, image: str) -> None:
        self.inner = inner
        self.image = image
        self.marker = f"parked-{os.getpid()}-{next(NUMBERS)}"
        self._api = api
        self.set_profile()

    def set_profile(self, more: str = "") -> None:
        """Write the profile, and what `more` says of it."""
        fields = f"image: {self.image}, workspace_base: /{self.marker}, buffer_sandboxes: 1{more}"
        self.inner.write("sandboxes.yaml", f"profiles: {{default: {{{fields}}}}}\n")
        self.inner.write("pytest.ini", "[pytest]\nsandbox_backend = docker\n")

    @property
    def profile(self) -> Profile:
        """The same, for a backend that is used directly."""
        fields = {"image": self.image, "workspace_base": f"/{self.marker}", "buffer_sandboxes": 1}
        return Profile().override(fields, "test")

    def backend(self) -> DockerBackend:
        """A backend of a run that parks."""
        return DockerBackend(BackendOptions(park_seconds=300.0, directory=self.inner.path))

    def containers(self) -> dict[str, str]:
        """The name of each that there is, by id."""
        from docker.errors import NotFound

        found = {}
        for container in self._api.containers(all=True):
            try:
                described = self._api.inspect_container(container["Id"])
            except NotFound:
                continue
            if f"/{self.marker}" in (described["HostConfig"].get("Tmpfs") or {}):
                found[container["Id"]] = described["Name"].lstrip("/")
        return found

    def only(self) -> str:
        """The id of the only one, which is parked."""
        ((container, name),) = self.containers().items()
        assert name.startswith(f"{janitor.PREFIX}parked-"), name
        return container

    def wait_until_gone(self) -> None:
        """All of them."""
        deadline = time.monotonic() + PATIENCE
        while left := self.containers():
            assert time.monotonic() < deadline, f"containers are left: {left}"
            time.sleep(0.02)

    def remove(self) -> None:
        """Whatever a test has left on purpose."""
        for container in self.containers():
            self._api.remove_container(container, force=True, v=True)

    def use(self, body: str = "") -> None:
        """Have the project's only test write down which container it is in, and then do what `body` says."""
        self.inner.write(
            "test_it.py",
            "import pathlib\n"
            "def test_it(sandbox, request):\n"
            "    with pathlib.Path('seen').open('a') as seen:\n"
            "        seen.write(sandbox.read_text('/etc/hostname'))\n" + body,
        )

    def seen(self) -> list[str]:
        """Which containers those were, shortened."""
        return (self.inner.path / "seen").read_text().split()


@pytest.fixture
def place(
    inner: Inner, engine: Any, python_image: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Place]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    # an owner of its own, for the runs that it starts as well: else tests beside it and this one remove each other's
    monkeypatch.setenv("LOGNAME", f"test{os.getpid()}x{next(NUMBERS)}")
    made = Place(inner, engine.api, python_image)
    yield made
    made.remove()


@pytest.fixture
def plant(place: Place, engine: Any) -> Iterator[Callable[[str], str]]:
    """Starts a container with all labels and the name of a parked one, which is none."""
    made = []

    def start(body: str, **environment: str) -> str:
        labels = janitor.labels(f"planted{os.getpid()}")
        container: str = engine.api.create_container(
            place.image,
            ["python3", "-c", _TALK.format(body=body)],
            labels=labels,
            stdin_open=True,
            detach=True,
            environment=environment,
            host_config=engine.api.create_host_config(network_mode="none"),
        )["Id"]
        made.append(container)
        engine.api.rename(container, janitor.parked_name(container, time.time() + 300))
        engine.api.start(container)
        return container

    yield start
    there = {each["Id"] for each in engine.api.containers(all=True)}
    for container in there & set(made):
        engine.api.remove_container(container, force=True, v=True)

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_sandboxes.backends.docker.engine import Engine
from pytest_sandboxes.backends.docker.images import Image, Images
from pytest_sandboxes.errors import BackendUnavailableError

docker_errors = pytest.importorskip("docker.errors")


class FakeEngine:
    """An Engine that has no image until it has pulled one."""

    host = "unix:///engine.sock"

    def __init__(self, architecture: str = "amd64") -> None:
        self.pulled: list[tuple[str, str | None]] = []
        self.looked = threading.Barrier(1)
        self.image: dict[str, Any] | None = None
        self.architecture = architecture

    def api(self) -> Any:
        return self

    def errors_as_start_errors(self, _: str) -> AbstractContextManager[None]:
        return nullcontext()

    def inspect_image(self, name: str) -> dict[str, Any]:
        if self.image is None:
            raise docker_errors.ImageNotFound(name)
        return self.image

    def pull(self, repository: str, tag: str | None) -> None:
        self.pulled.append((repository, tag))
        self.image = {
            "Id": "sha256:1",
            "Architecture": self.architecture,
            "Config": {"WorkingDir": "/app", "User": "me"},
        }

    def version(self) -> dict[str, str]:
        return {"Arch": "amd64"}


@pytest.mark.parametrize(
    ("name", "repository", "tag"),
    [
        ("python", "python", "latest"),
        ("python:3.13", "python", "3.13"),
        ("host:5000/a/b", "host:5000/a/b", "latest"),
        ("host:5000/a/b:c", "host:5000/a/b", "c"),
        ("a@sha256:00", "a@sha256:00", None),
    ],
)
def test_one_tag_is_pulled(name: str, repository: str, tag: str | None) -> None:
    engine = FakeEngine()
    image = Images(cast("Engine", engine)).get(name)
    assert image == Image(name, "sha256:1", "/app", "me", "x86_64")
    assert engine.pulled == [(repository, tag)]


def test_who_waits_for_a_pull_does_not_pull() -> None:
    engine = FakeEngine()
    images = Images(cast("Engine", engine))
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(images.get, ["python"] * 8))
    assert len(set(map(id, found))) == 1
    assert len(engine.pulled) == 1


def test_an_image_for_another_machine() -> None:
    images = Images(cast("Engine", FakeEngine("arm64")))
    with pytest.raises(
        BackendUnavailableError, match="is for arm64, and the Docker Engine at unix:.* runs on amd64"
    ):
        images.get("python")


def test_what_cannot_be_pulled_is_tried_again_by_the_next() -> None:
    engine = FakeEngine()
    tried = SimpleNamespace(times=0)

    def refuse(*_: object, **__: object) -> None:
        tried.times += 1
        raise docker_errors.APIError("no such host")

    engine.pull = refuse  # type: ignore[method-assign]
    images = Images(cast("Engine", engine))
    for times in (1, 2):
        with pytest.raises(
            BackendUnavailableError, match="no image 'python' and cannot pull it.*docker login"
        ):
            images.get("python")
        assert tried.times == times

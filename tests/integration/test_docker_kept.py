"""Containers of failed tests that are kept, and ended when the test is run once more."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_sandboxes.backends.base import BackendOptions
from pytest_sandboxes.backends.docker import DockerBackend
from pytest_sandboxes.backends.docker.removal import remove
from pytest_sandboxes.keeping import Keeper
from pytest_sandboxes.pool.pool import Pool
from pytest_sandboxes.profiles.profile import Profile
from tests.engine.losing_proxy import LosingProxy, losing_proxy

docker = pytest.importorskip("docker", reason="the docker SDK is not installed")


@pytest.fixture
def proxy(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LosingProxy]:
    """What is between this test and the Engine."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")
    engine_socket = str(engine.api.get_adapter(engine.api.base_url).socket_path)
    with losing_proxy(tmp_path / "engine.sock", engine_socket, silent=False) as proxy:
        yield proxy


@pytest.fixture
def pool(proxy: LosingProxy) -> Iterator[Pool]:
    pool = Pool({"docker": DockerBackend(BackendOptions())})
    yield pool
    pool.close()


@pytest.fixture
def keeper(pool: Pool) -> Keeper:
    return Keeper(pool)


@pytest.fixture
def keep(engine: Any, pool: Pool, keeper: Keeper, python_image: str) -> Iterator[Callable[[], str]]:
    """Keeps another container, and returns its id; none outlives the test."""
    profile = Profile().override({"image": python_image, "buffer_sandboxes": 0, "max_sandboxes": 1}, "test")
    kept: list[str] = []

    def keep() -> str:
        with pool.lease("docker", profile, holder="test_it") as lease:
            keeper.keep(lease, "test_it")
        (said,) = keeper.kept
        kept.append(said.split()[-1])
        assert [each["Id"][:12] for each in engine.api.containers(filters={"id": kept[-1]})] == kept[-1:]
        return kept[-1]

    yield keep
    for container in kept:
        remove(engine.api, container)


def test_they_are_ended_without_the_docker_command(
    engine: Any, keeper: Keeper, keep: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    container = keep()
    monkeypatch.setenv("PATH", os.devnull)
    keeper.end("test_it")
    assert keeper.kept == []
    assert not engine.api.containers(all=True, filters={"id": container})


def test_one_that_may_live_on_is_told_of(proxy: LosingProxy, keeper: Keeper, keep: Callable[[], str]) -> None:
    container = keep()
    proxy.lose(b"DELETE", times=1000)
    keeper.end("test_it")
    keeper.end("test_it")
    (said,) = keeper.kept
    assert said.count("not ended") == 1
    assert f"  end:   docker rm -f {container}\n" in said
    assert f"not ended: cannot end container {container}: the Docker Engine at" in said
    proxy.lose(b"", times=0)
    keeper.end("test_it")
    assert keeper.kept == []

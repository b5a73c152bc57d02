"""The Docker Engine and the images of `tests.engine`, for all tests that need them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import docker


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """A client of a Docker Engine that answers. In CI, conftest.py of the project decides what becomes of the skip."""
    from tests.engine import daemon

    try:
        client = daemon.connect()
    except daemon.EngineError as error:
        pytest.skip(str(error))
    with closing(client):
        yield client


@pytest.fixture(scope="session")
def python_image(engine: docker.DockerClient) -> str:
    """The name of an image with Python, git and certificates."""
    return _image(engine, "python")


@pytest.fixture(scope="session")
def busybox_image(engine: docker.DockerClient) -> str:
    """The name of an image with a shell and its tools, and nothing else."""
    return _image(engine, "busybox")


@pytest.fixture(scope="session")
def testbed_image(engine: docker.DockerClient) -> str:
    """The name of an image with a project's repository in /testbed, one of whose two tests fails."""
    return _image(engine, "testbed")


def _image(engine: docker.DockerClient, name: str) -> str:
    from tests.engine import images

    return images.ensure(engine, name)

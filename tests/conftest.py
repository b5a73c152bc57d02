"""The Docker Engine and the images of `tests.engine`, for all tests that need them."""

from __future__ import annotations

import io
import os
import platform
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import interpreters

if TYPE_CHECKING:
    import docker


@pytest.fixture(scope="session")
def kept_wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for `pack_once`, the same for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "kept-wheels"
    folder.mkdir(exist_ok=True)
    return folder


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
def runner_image(engine: docker.DockerClient, python_image: str) -> Iterator[str]:
    """An image with the Python that runs here."""
    said = engine.containers.run(python_image, ["python3", "-V"], remove=True).decode().split()[1]
    if said == platform.python_version():
        yield python_image
        return
    content = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=content, mode="w") as archive:
        interpreters.copy(Path(folder))
        archive.add(folder, str(interpreters.PREFIX))
    container = engine.api.create_container(python_image, entrypoint=["none"])["Id"]
    try:
        engine.api.put_archive(container, "/", content.getvalue())
        path = f"PATH={interpreters.PREFIX}/bin:/usr/local/bin:/usr/bin:/bin"
        image = engine.api.commit(container, conf={"Env": [path]})["Id"]
    finally:
        engine.api.remove_container(container, force=True)
    yield image
    engine.api.remove_image(image, force=True)


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

"""Docker Engines behind SSH and TLS: real ones, with a real sshd and a dockerd that verifies certificates."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_sandboxes.backends.docker.engine import Engine
from pytest_sandboxes.errors import BackendUnavailableError
from tests.processes import carrying
from tests.threads import live_threads

if TYPE_CHECKING:
    from tests.engine import sshd, tls


@dataclass(frozen=True)
class Remote:
    """An Engine, and how to get there."""

    environment: Mapping[str, str]
    engine: Any
    """A client that goes there another way."""
    mark: str | None
    """What is in the command line of each process that carries a connection, and of no other; None if none does."""
    context: list[str] = field(default_factory=list)
    """Arguments of `docker context create`."""

    def carriers(self) -> set[int]:
        """The processes that carry connections."""
        return set() if self.mark is None else carrying(self.mark, "cmdline")


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """For what is too large to stay, as pytest's own directories do."""
    with tempfile.TemporaryDirectory(prefix="remote-") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def ssh_server(engine: Any, place: Path) -> Iterator[sshd.Server]:
    from tests.engine import sshd

    if sshd.find() is None:
        pytest.skip("no sshd is installed")
    with sshd.serve(place / "ssh") as server:
        yield server


@pytest.fixture(scope="module")
def tls_server(engine: Any, python_image: str, place: Path) -> Iterator[tls.Server]:
    if os.geteuid():
        pytest.skip("only root can start dockerd")
    if not shutil.which("dockerd"):
        pytest.skip("no dockerd is installed")
    from tests.engine import tls

    with tls.serve(place / "tls", python_image, engine) as server:
        yield server


@pytest.fixture
def by_ssh(ssh_server: sshd.Server, engine: Any) -> Remote:
    environment = {
        "DOCKER_HOST": ssh_server.address,
        "PATH": f"{ssh_server.programs}:{os.environ['PATH']}",
    }
    return Remote(
        environment, engine, str(ssh_server.directory / "ssh_config"), [f"host={ssh_server.address}"]
    )


@pytest.fixture
def by_tls(tls_server: tls.Server) -> Iterator[Remote]:
    certificates = tls_server.certificates
    environment = {
        "DOCKER_HOST": tls_server.address,
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": str(certificates),
    }
    with closing(tls_server.client()) as client:
        files = [f"{name}={certificates / name}.pem" for name in ("ca", "cert", "key")]
        yield Remote(environment, client, None, [f"host={tls_server.address}", *files])


@pytest.fixture(params=["by_ssh", "by_tls"])
def remote(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """An Engine that this process is sent to."""
    found: Remote = request.getfixturevalue(request.param)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    return found


def complaint(*others: threading.Thread) -> str:
    """Why there is no Engine, for a user who has made a mistake; nothing is left of the attempt."""
    before = live_threads()
    engine = Engine()
    try:
        with pytest.raises(BackendUnavailableError) as caught:
            engine.api()
    finally:
        engine.close()
    assert not live_threads() - before - set(others)
    return str(caught.value)

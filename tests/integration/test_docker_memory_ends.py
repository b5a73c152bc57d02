"""Whether it was its memory limit that has ended a container: asked of Engines that hang, or that have another time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pytest_sandboxes.backends.base import AgentSetup, SlotSetup
from pytest_sandboxes.backends.docker import containers
from pytest_sandboxes.backends.docker.containers import Container, EngineContainer
from pytest_sandboxes.backends.docker.engine import Engine
from tests.engine.losing_proxy import losing_proxy
from tests.waiting import wait_until

docker = pytest.importorskip("docker", reason="the docker SDK is not installed")

PATIENCE = 30.0
SETUP = AgentSetup((SlotSetup("/workspace"),), {}, counts_oom_kills=True)


class Ended(EngineContainer):
    """A container that has ended; of its agent nothing is needed."""

    last_words = Container.last_words


@pytest.fixture
def ours() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


@pytest.mark.parametrize("call", [b"/info", b"/events"])
def test_an_engine_that_hangs_is_not_waited_for(
    engine: Any, ours: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: bytes
) -> None:
    monkeypatch.setattr(containers, "_EVENTS_TIMEOUT", 0.2)
    if call == b"/events":  # the real answer to what is asked before may take longer than that
        monkeypatch.setattr(ours, "time", lambda _: datetime.now(UTC))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")
    engine_socket = str(engine.api.get_adapter(engine.api.base_url).socket_path)
    answers: list[bool] = []
    with losing_proxy(tmp_path / "engine.sock", engine_socket, silent=True) as proxy:
        ours.api()
        proxy.lose(call, times=1)
        ended = Ended(ours, "0" * 64, SETUP)
        asking = threading.Thread(target=lambda: answers.append(ended.ended_at_memory_limit()))
        asking.start()
        asking.join(PATIENCE)
        assert answers == [False]
        wait_until(lambda: proxy.lost, "an answer that could be lost")
    asking.join(PATIENCE)


@pytest.fixture
def full(engine: Any, busybox_image: str) -> Iterator[str]:
    """A container that has just come to its memory limit."""
    limits = engine.api.create_host_config(mem_limit="8m", memswap_limit="8m", network_mode="none", init=True)
    made: str = engine.api.create_container(busybox_image, ["sleep", "1000"], host_config=limits)["Id"]
    try:
        engine.api.start(made)
        engine.api.exec_start(engine.api.exec_create(made, ["tail", "/dev/zero"]))
        yield made
    finally:
        engine.api.remove_container(made, force=True)


@pytest.mark.parametrize("ahead", [-30, 30])
def test_the_engines_clock_counts(
    ours: Engine, full: str, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    here = time.time
    monkeypatch.setattr(time, "time", lambda: here() + ahead)
    assert Ended(ours, full, SETUP).ended_at_memory_limit()
    assert not Ended(ours, "0" * 64, SETUP).ended_at_memory_limit()

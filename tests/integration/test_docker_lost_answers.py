"""An Engine that has made a container of which nobody has been told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_sandboxes.backends.base import BackendOptions
from pytest_sandboxes.backends.docker import DockerBackend
from pytest_sandboxes.backends.docker import engine as engine_module
from pytest_sandboxes.pool.pool import Pool
from pytest_sandboxes.profiles.profile import Profile
from tests.engine.losing_proxy import losing_proxy

docker = pytest.importorskip("docker", reason="the docker SDK is not installed")


@pytest.mark.parametrize("silent", [False, True], ids=["cut", "silent"])
def test_a_start_whose_answer_got_lost_is_made_up_for_and_nothing_is_left_of_it(
    engine: Any, python_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, silent: bool
) -> None:
    address = engine.api.base_url
    socket_path = str(engine.api.get_adapter(address).socket_path)
    if silent:
        monkeypatch.setattr(engine_module, "CALL_TIMEOUT", 15.0)
    profile = Profile().override({"image": python_image, "buffer_sandboxes": 0, "max_sandboxes": 1}, "test")
    with losing_proxy(tmp_path / "engine.sock", socket_path, silent=silent) as proxy:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")
        backend = DockerBackend(BackendOptions())
        label = [f"{name}={value}" for name, value in backend._labels.items() if name.endswith(".run")]

        def ours() -> list[str]:
            return [each["Id"] for each in engine.api.containers(all=True, filters={"label": label})]

        pool = Pool({"docker": backend})
        try:
            backend.check_machine(profile)
            assert ours() == []
            proxy.lose(b"/containers/create", times=1 if silent else 2)
            with pool.lease("docker", profile, holder="test_it") as lease:
                assert proxy.lost
                assert len(ours()) == 1, "what has been made without anybody's knowledge is still there"
                assert [port.alive for port in lease.ports] == [True]
        finally:
            pool.close()
        assert ours() == []

"""Sandboxes that are containers: what differs from processes, and that nothing stays on the Engine."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.emulators.modal.conftest import Service, Start, connect
from tests.emulators.modal.control import Control
from tests.emulators.modal.test_execs import AT_THE_DEADLINE
from tests.emulators.modal.test_lifetime import LEAVE_DAEMON, emulator_apart
from tests.waiting import wait_until

if TYPE_CHECKING:
    import docker
    import modal


class Traces:
    """What is on the Engine of an emulator that is found by a sandbox of its own."""

    def __init__(self, engine: docker.DockerClient, sandbox: modal.Sandbox) -> None:
        self._engine = engine
        of_emulators = {"label": "pytest-sandboxes.modal-emulator"}
        for each in engine.containers.list(filters=of_emulators, ignore_removed=True):
            if f"MODAL_SANDBOX_ID={sandbox.object_id}" in each.attrs["Config"]["Env"]:
                label = each.labels["pytest-sandboxes.modal-emulator"]
                self._filters = {"label": f"pytest-sandboxes.modal-emulator={label}"}

    def find(self) -> list[Any]:
        """Containers, volumes and images."""
        api = self._engine.api  # beside it, the SDK asks for each thing once more, which may be gone by then
        found = [
            *api.containers(all=True, filters=self._filters),
            *api.images(all=True, filters=self._filters),
        ]
        return [*found, *(api.volumes(self._filters)["Volumes"] or ())]


@pytest.fixture
def service(start: Start, engine: docker.DockerClient, busybox_image: str) -> Service:
    """An emulator whose sandboxes are containers."""
    return start(mode="docker", debian_slim=busybox_image)


def test_commands(service: Service) -> None:
    from modal.exception import InvalidError

    sandbox = service.create(env={"A": "1"}, workdir="/tmp")
    assert service.run(sandbox, "echo $A; pwd; echo err >&2; exit 3") == ("1\n/tmp\n", "err\n", 3)
    content = bytes(range(256)) * 8192
    process = sandbox.exec("cat", text=False)
    process.stdin.write(content)
    process.stdin.write_eof()
    process.stdin.drain()
    assert (process.stdout.read(), process.wait()) == (content, 0)
    assert sandbox.exec("sleep", "1000", timeout=1).wait() in AT_THE_DEADLINE
    assert service.control.wait("exec_ended", returncode=137)
    with pytest.raises(InvalidError, match="/nope"):
        sandbox.exec("/nope")


def test_the_main_command(service: Service) -> None:
    sandbox = service.create("sh", "-c", "cat; echo err >&2; exit 3")
    assert service.run(sandbox, LEAVE_DAEMON)[2] == 0
    assert len(service.processes(sandbox)) >= 3
    sandbox.stdin.write(b"hello\n")
    sandbox.stdin.write_eof()
    sandbox.stdin.drain()
    sandbox.wait()
    assert (sandbox.stdout.read(), sandbox.stderr.read(), sandbox.returncode) == ("hello\n", "err\n", 3)
    assert not service.processes(sandbox)


def test_images_are_built(service: Service, busybox_image: str, tmp_path: Path) -> None:
    import modal
    from modal.exception import ImageBuildError

    (tmp_path / "file").write_text("content\n")
    (tmp_path / "Dockerfile").write_text(f"FROM {busybox_image}\nCOPY file /file\n")
    image = modal.Image.from_dockerfile(tmp_path / "Dockerfile", context_dir=tmp_path)
    sandbox = service.create(image=image.run_commands("echo more >> /file"))
    assert service.run(sandbox, "cat /file")[0] == "content\nmore\n"
    with pytest.raises(ImageBuildError, match="returned a non-zero code: 3"):
        service.create(image=image.run_commands("exit 3"))
    assert service.create(image=modal.Image.debian_slim()).poll() is None


def test_limits_volumes_and_network(service: Service) -> None:
    import modal

    volume = modal.Volume.from_name("data", create_if_missing=True, client=service.client)
    wanted: dict[str, Any] = {"memory": 64, "cpu": 0.5, "block_network": True, "volumes": {"/data": volume}}
    sandbox = service.create(**wanted)
    script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; ls /sys/class/net; echo 1 > /data/x"
    assert service.run(sandbox, script)[0].split() == [str(64 << 20), "lo"]
    assert service.run(service.create(volumes={"/data": volume}), "cat /data/x")[0] == "1\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays(
    number: signal.Signals, engine: docker.DockerClient, busybox_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import modal
    from modal.exception import ImageBuildError

    with emulator_apart("--mode", "docker") as (process, said):
        for name, value in said["environment"].items():
            monkeypatch.setenv(name, value)
        with connect() as client:
            app = modal.App.lookup("tests", create_if_missing=True, client=client)
            service = Service(Control(Path(said["control"])), client, app)
            volume = modal.Volume.from_name("data", create_if_missing=True, client=client)
            sandbox = service.create(volumes={"/data": volume})
            image = modal.Image.from_registry(busybox_image).run_commands("echo 1 > /file")
            for commands in (["echo 2 > /file"], ["echo 3 > /file", "exit 3"]):
                with suppress(ImageBuildError):
                    image.dockerfile_commands(*(f"RUN {each}" for each in commands)).build(app)
        traces = Traces(engine, sandbox)
        assert len(traces.find()) > 6
        process.send_signal(number)
        process.wait(30)
    wait_until(lambda: not traces.find(), "the removal of all that was made on the Engine")

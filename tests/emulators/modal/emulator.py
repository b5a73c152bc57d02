"""An emulator: two servers, as the service has, with all that stands behind them; in a thread here, or on its own."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from google.protobuf.message import Message
from modal_proto.api_grpc import ModalClientBase
from modal_proto.task_command_router_grpc import TaskCommandRouterBase

from tests.emulators import undertaker
from tests.emulators.control import ControlServer
from tests.emulators.events import EventLog
from tests.emulators.faults import FaultPlan
from tests.emulators.modal.apps import CONTROL_PLANE, Apps
from tests.emulators.modal.calls import Desk
from tests.emulators.modal.control import Control, Requests
from tests.emulators.modal.faults import Fault
from tests.emulators.modal.hosts import Host
from tests.emulators.modal.images import Images
from tests.emulators.modal.lies import Lies
from tests.emulators.modal.mounts import Mounts
from tests.emulators.modal.process_host import ProcessHost
from tests.emulators.modal.router import Router
from tests.emulators.modal.sandboxes import Sandboxes
from tests.emulators.modal.secrets_and_volumes import Secrets, Volumes
from tests.emulators.modal.serving import Port
from tests.emulators.modal.tokens import TOKEN_ID, TOKEN_SECRET, Tokens

LABEL = "pytest-sandboxes.modal-emulator"
"""The label of all that emulators make on a Docker Engine."""
_UNDERTAKER = Path(undertaker.__file__)
_START, _END = 30, 90
"""Seconds for an emulator to start, and to end with all of its sandboxes."""
_THREADS = 32
"""Calls of the Engine at once."""


@dataclass(frozen=True)
class Options:
    """How an emulator is to be."""

    mode: Literal["process", "docker"] = "process"
    """What sandboxes are."""
    host: str = "127.0.0.1"
    """The address to listen on. Clients of another than 127.0.0.1 insist on TLS for the command router, and verify it."""
    certificates: Path | None = None
    """A directory with cert.pem and key.pem, for TLS; None for none."""
    log: Path | None = None
    """A file of JSON lines for events."""
    token_lifetime: float = 900
    """Seconds for which the short-lived tokens are good."""
    debian_slim: str = "pytest-sandboxes/python"
    """Containers: the Engine's image that stands for what `Image.debian_slim` builds."""


class Emulator:
    """The servers and their state, on the loop that starts it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.events = EventLog(options.log)
        self.faults: FaultPlan[Fault] = FaultPlan()
        self.tokens = Tokens(options.token_lifetime)
        self._directory = Path(tempfile.mkdtemp(prefix="modal-emulator-"))
        label = f"{LABEL}={secrets.token_hex(6)}"
        arguments = [str(self._directory), *([label] if options.mode == "docker" else [])]
        self._undertaker = subprocess.Popen(
            [sys.executable, "-I", str(_UNDERTAKER), *arguments],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self.host = self._make_host(label)
        except BaseException:
            self._undertaker.communicate(undertaker.FAREWELL)
            raise
        apps, mounts, named_secrets, volumes = Apps(self.tokens), Mounts(), Secrets(), Volumes()
        self._images = Images(self.host, mounts, self.events)
        lies = Lies(self.faults, self.events)
        self.sandboxes = Sandboxes(
            host=self.host,
            events=self.events,
            tokens=self.tokens,
            apps=apps,
            images=self._images,
            named_secrets=named_secrets,
            volumes=volumes,
            lies=lies,
        )
        about = self.sandboxes.about
        control_plane = Desk(self._guard_control_plane, self.events, self.faults, about)
        router = Desk(self._guard_router, self.events, self.faults, about)
        parts = (apps, mounts, named_secrets, volumes, self._images, self.sandboxes)
        services = {
            "control_plane": control_plane.service(ModalClientBase, parts),
            "router": router.service(TaskCommandRouterBase, [Router(self.sandboxes, named_secrets, lies)]),
        }
        self.ports = {
            name: Port(service, options.host, options.certificates) for name, service in services.items()
        }
        self._control_server = ControlServer(Requests(self))
        self.control_path = self._directory / "control"

    @property
    def environment(self) -> Mapping[str, str]:
        """What the client needs to come here, with a good token, and not to look for a user's settings."""
        return {
            "MODAL_SERVER_URL": self.ports["control_plane"].url,
            "MODAL_TOKEN_ID": TOKEN_ID,
            "MODAL_TOKEN_SECRET": TOKEN_SECRET,
            "MODAL_CONFIG_PATH": str(self._directory / "no-config"),
            "MODAL_DISABLE_API_PROXY": "1",
        }

    async def start(self) -> None:
        """Listen."""
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
        for port in self.ports.values():
            await port.open()
        self.sandboxes.router_url = self.ports["router"].url
        await self._control_server.open(self.control_path)

    async def close(self) -> None:
        """End all sandboxes, then everything else."""
        await self._control_server.close()
        await self.sandboxes.end_all("the emulator has ended")
        await self._images.close()
        for port in self.ports.values():
            await port.close()
        self.host.close()
        self.events.record("emulator_ended")
        self.events.close()
        await asyncio.to_thread(self._undertaker.communicate, undertaker.FAREWELL, _END)

    def _make_host(self, label: str) -> Host:
        if self._options.mode == "process":
            return ProcessHost(self._directory)
        from tests.emulators.modal.docker_host import DockerHost

        return DockerHost(label, self._options.debian_slim)

    def _guard_control_plane(self, method: str, request: Message, metadata: Any) -> None:
        self.tokens.check_account(
            metadata.get("x-modal-token-id", ""), metadata.get("x-modal-token-secret", "")
        )
        if method.endswith("V2"):  # modal/sandbox/_impl_v2.py, `auth_metadata`
            self.tokens.check(metadata.get("x-modal-auth-token", ""), CONTROL_PLANE)

    def _guard_router(self, method: str, request: Message, metadata: Any) -> None:
        start: Any = getattr(
            request, "start", request
        )  # of a stream, the first request says what it is about
        token = metadata.get("authorization", "").removeprefix("Bearer ")
        self.tokens.check(token, start.task_id)


async def run(options: Options, started: Future[Emulator], stop: asyncio.Event) -> None:
    """Be an emulator until `stop` is set."""
    emulator = Emulator(options)
    try:
        await emulator.start()
        started.set_result(emulator)
        await stop.wait()
    finally:
        await emulator.close()


@contextmanager
def running(options: Options | None = None) -> Iterator[tuple[Mapping[str, str], Control]]:
    """An emulator in a thread of this process: the environment of its clients, and a control of it."""
    started: Future[Emulator] = Future()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    def serve() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            try:
                runner.run(run(options or Options(), started, stop))
            except BaseException as error:
                if started.done():
                    raise
                started.set_exception(error)

    thread = threading.Thread(target=serve, name="modal-emulator")
    thread.start()
    try:
        emulator = started.result(_START)
        try:
            yield emulator.environment, Control(emulator.control_path)
        finally:
            loop.call_soon_threadsafe(stop.set)
    finally:
        thread.join(_END)
    if thread.is_alive():
        raise TimeoutError(f"an emulator has not ended within {_END} s")

"""Containers: how they are made, hardened, and ended."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from typing import TYPE_CHECKING, Any

from pytest_sandboxes.agent.wire import ProtocolError
from pytest_sandboxes.backends import seccomp
from pytest_sandboxes.backends.base import AgentSetup, Launched
from pytest_sandboxes.backends.bubblewrap import DEFAULT_DISK_MEGABYTES
from pytest_sandboxes.backends.docker.attached import Demultiplexer, attach
from pytest_sandboxes.backends.docker.engine import Engine
from pytest_sandboxes.backends.docker.images import Image
from pytest_sandboxes.errors import SandboxStartError
from pytest_sandboxes.payload import bootstrap, payload
from pytest_sandboxes.profiles import Profile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import docker

HOME = "/home/sandbox"
_SHARED = ("/tmp", "/var/tmp", "/home", "/dev/shm", "/dev/mqueue")  # noqa: S108 - the container's own
_TMPFS = ("/tmp", "/var/tmp", "/home")  # noqa: S108 - the container's own
# What the agent needs as root to act for its slots. Code gets none of them.
_AGENT_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETPCAP", "SETUID")
# What images expect of their root: Docker's default without raw sockets, devices, chroot and file capabilities.
_IMAGE_CAPABILITIES = (*_AGENT_CAPABILITIES, "FSETID", "NET_BIND_SERVICE")
_PROCESS_LIMIT = 256  # of a slot; a brake on fork bombs
_AGENTS_OWN_PROCESSES = 64  # beside those of code: the agent, its workers and supervisors
# Neither root nor anybody whom an image has. Limits on processes count per user across containers, so it is drawn.
_UIDS = range(20_000, 60_000)
_GREETING_TIMEOUT = 30.0
_END_TIMEOUT = 10.0  # seconds that a container may take to be gone
_LOOK_AGAIN = 0.02
_RECENT = 5  # seconds before a sandbox's end in which it was the memory limit that ended it


class Container(Launched):
    """A container with an agent as its first process, attached to the stream that is its life line."""

    def __init__(
        self, engine: Engine, container: str, stream: socket.socket, setup: AgentSetup, image: Image
    ) -> None:
        self.stream = stream
        self.setup = setup
        self.payload = payload(same_interpreter=False)
        self._engine = engine
        self._id = container
        self._image = image
        self._outputs = Demultiplexer()

    def unwrap(self, data: memoryview) -> Iterable[bytes | memoryview]:
        return self._outputs.feed(data)

    def last_words(self) -> str:
        return bytes(self._outputs.complaint).decode(errors="replace")

    def end(self) -> None:
        remove(self._engine.api(), self._id)

    def ended_at_memory_limit(self) -> bool:
        if not self.setup.counts_oom_kills:
            return False
        with (
            contextlib.suppress(SandboxStartError),
            self._engine.errors_as_start_errors("cannot ask for events"),
        ):
            now = int(time.time())
            said = self._engine.api().events(
                since=now - _RECENT, until=now + 1, filters={"container": self._id, "event": "oom"}
            )
            with contextlib.closing(said):
                return next(said, None) is not None
        return False

    def keep(self) -> tuple[str, str]:
        short = self._id[:12]
        with self._engine.errors_as_start_errors(f"cannot keep container {short}"):
            self._engine.api().rename(self._id, f"kept-{short}")  # a name that no later run sweeps
        user = "" if self.setup.user is None else f"--user {self.setup.user[0]} "
        return f"docker exec -it {user}--workdir {self.setup.workspace} {short} sh", f"docker rm -f {short}"


def start(engine: Engine, profile: Profile, image: Image, name: str, labels: Mapping[str, str]) -> Container:
    """Start a container called `name`. Raises `SandboxStartError` with the cause, nothing left behind."""
    api = engine.api()
    setup, config, host_config = _recipe(profile, image)
    with engine.errors_as_start_errors(f"cannot start a container of image {image.name}"):
        made = api.create_container(
            image.id,
            entrypoint=["python3", "-I", "-S", "-E", "-c", bootstrap(same_interpreter=False)],
            stdin_open=True,
            detach=False,  # else its input would stay open when we are gone
            name=name,
            labels=dict(labels),
            host_config=api.create_host_config(**host_config),
            **config,
        )["Id"]
        stream = None
        try:
            stream = attach(api, made)
            api.start(made)
        except BaseException as error:
            if stream is not None:
                stream.close()
            remove(api, made)
            if "executable file not found" in str(error):
                raise SandboxStartError(
                    f"image {image.name!r} has no python3 on its PATH, which a sandbox needs: use one that has"
                ) from None
            raise
    return Container(engine, made, stream, setup, image)


def greet(container: Container) -> str:
    """What an agent complains of instead of greeting; empty when all is well. The container is ended."""
    stream = container.stream
    try:
        stream.settimeout(_GREETING_TIMEOUT)
        stream.sendall(container.payload)
        while data := stream.recv(4096):
            if list(container.unwrap(memoryview(data))):
                return ""
        return container.last_words() or "it ended without a word"
    except (OSError, ProtocolError) as error:
        return container.last_words() or str(error)
    finally:
        stream.close()
        container.end()


def remove(api: docker.APIClient, container: str) -> None:
    """Kill and remove a container, and wait, a few seconds at most, until it is gone."""
    from docker.errors import APIError, NotFound
    from requests.exceptions import RequestException

    deadline = time.monotonic() + _END_TIMEOUT
    while time.monotonic() < deadline:
        try:
            api.remove_container(container, force=True, v=True)
        except NotFound:
            return
        except APIError:  # the Engine is removing it already, by itself
            time.sleep(_LOOK_AGAIN)
        except (RequestException, OSError):  # the Engine is gone; its next start finds the container ended
            return


def _recipe(profile: Profile, image: Image) -> tuple[AgentSetup, dict[str, Any], dict[str, Any]]:
    """What the agent is told, and what the Engine is told of the container and of its host's part."""
    process_limit = profile.pids or _PROCESS_LIMIT
    host_config: dict[str, Any] = {
        "auto_remove": True,
        "network_mode": "none",
        "ipc_mode": "private",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "log_config": {
            "Type": "none",
            "Config": {},
        },  # what the agent sends is not to be kept on the Engine's disk
        "pids_limit": process_limit + _AGENTS_OWN_PROCESSES if profile.pids is None else process_limit,
        "init": False,
        "sysctls": {"net.ipv4.tcp_max_tw_buckets": "0"},  # a port is free for the next lease at once
    }
    if profile.cpu is not None:
        host_config["nano_cpus"] = int(profile.cpu * 1_000_000_000)
    if profile.memory is not None:
        host_config["mem_limit"] = host_config["memswap_limit"] = profile.memory << 20
    host_config |= _devices(profile.gpu)
    memory = profile.memory is not None
    if profile.isolation == "sandbox":
        host_config["cap_add"] = list(_IMAGE_CAPABILITIES)
        setup = AgentSetup(
            image.workdir,
            {"LANG": "C.UTF-8", "HOSTNAME": None},
            filter=seccomp.program(image.architecture),
            sacrifice_children=memory,
            counts_oom_kills=memory,
        )
        return setup, {"user": profile.user or image.user or None, "working_dir": "/"}, host_config
    uid = random.SystemRandom().choice(_UIDS)
    megabytes = profile.disk or DEFAULT_DISK_MEGABYTES
    places = dict.fromkeys(_TMPFS, f"rw,exec,nosuid,nodev,size={megabytes}m,mode=1777")
    places[profile.workspace_base.rstrip("/")] = f"rw,exec,nosuid,nodev,size={megabytes}m,mode=0700"
    host_config |= {
        "cap_add": list(_AGENT_CAPABILITIES),
        "read_only": True,
        "tmpfs": places,
        "shm_size": megabytes << 20,
    }
    setup = AgentSetup(
        profile.workspace_base,
        {"HOME": HOME, "TMPDIR": "/tmp", "LANG": "C.UTF-8", "USER": "sandbox", "HOSTNAME": None},  # noqa: S108 - its own
        filter=seccomp.program(image.architecture),
        directories=(HOME,),
        process_limit=process_limit,
        user=(uid, uid),
        shared=_SHARED,
        sacrifice_children=memory,
        counts_oom_kills=memory,
    )
    return setup, {"user": "0:0", "working_dir": "/"}, host_config


def _devices(gpu: str | None) -> dict[str, Any]:
    """The request for GPUs of a profile's `gpu`, of which a Docker Engine knows the number only."""
    if gpu is None:
        return {}
    from docker.types import DeviceRequest

    _, colon, number = gpu.partition(":")
    return {"device_requests": [DeviceRequest(count=int(number) if colon else 1, capabilities=[["gpu"]])]}

"""Containers: how they are started, greeted, kept and ended."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_sandboxes.agent.wire import HELLO, FrameReader, ProtocolError
from pytest_sandboxes.backends.base import AgentSetup, KeptSlot, Launched, SlotSetup
from pytest_sandboxes.backends.docker.attached import Demultiplexer, start_attached
from pytest_sandboxes.backends.docker.description import OWN_PROCESSES, describe, read_only_volumes
from pytest_sandboxes.backends.docker.engine import Engine
from pytest_sandboxes.backends.docker.images import Image
from pytest_sandboxes.backends.docker.removal import remove, see_to_end
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import SandboxStartError
from pytest_sandboxes.payload import bootstrap, payload, trial
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.wording import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import docker

    from pytest_sandboxes.backends.docker.sources import MountedSource

_GREETING_TIMEOUT = 30.0
_RECENT = 5  # seconds before a sandbox's end in which it was the memory limit that ended it
_EVENT_DELAY = 1  # seconds after which the Engine has told of what the kernel has done
_EVENTS_TIMEOUT = 5.0  # seconds without a word of the Engine's, while nobody learns of the loss


class NoInterpreterError(SandboxStartError):
    """An image does not have the program that was to be started."""


@dataclass(frozen=True)
class Interpreter:
    """A Python that can be started in a container."""

    command: tuple[str, ...]
    """Starts it; its program follows."""
    is_ours: bool = False
    """It is the very one that runs here."""
    volume: str = ""
    """What a container has to have mounted for it, at `mounted_at`; empty where it is the image's own."""
    mounted_at: str = ""


IMAGES_OWN = Interpreter(("python3", "-I", "-S", "-E", "-c"))


class EngineContainer(Launched):
    """A container, as far as the Engine is concerned."""

    def __init__(self, engine: Engine, container: str, setup: AgentSetup) -> None:
        self.setup = setup
        self.container = container
        """Its id."""
        self._engine = engine

    def end(self) -> None:
        remove(self._engine.api(), self.container)

    def ended_at_memory_limit(self) -> bool:
        if not self.setup.counts_oom_kills:
            return False
        with (
            contextlib.suppress(SandboxStartError),
            self._engine.errors_as_start_errors("cannot ask for events"),
        ):
            now = self._engine.time(_EVENTS_TIMEOUT).timestamp()
            return self._engine.has_event(
                {"container": self.container, "event": "oom"},
                since=now - _RECENT,
                until=now + _EVENT_DELAY,
                timeout=_EVENTS_TIMEOUT,
            )
        return False

    def keep(self, slot: SlotSetup) -> KeptSlot:
        return self._keep("" if slot.user is None else f"{slot.user[0]}:{slot.user[1]}", slot.workspace)

    def _keep(self, user: str, workspace: str) -> KeptSlot:
        """As `keep`, for a shell of that user, empty for the container's own."""
        short = self.container[:12]
        with self._engine.errors_as_start_errors(f"cannot keep container {short}"):
            self._engine.api().rename(self.container, f"kept-{short}")  # a name that no later run sweeps
        option = user and f"--user {user} "
        enter = f"docker exec -it {option}--workdir {workspace} {short} sh"
        return KeptSlot(enter, f"docker rm -f {short}", self._end_kept)

    def _end_kept(self) -> None:
        with self._engine.errors_as_start_errors(f"cannot end container {self.container[:12]}"):
            see_to_end(self._engine.api(), self.container)


class Container(EngineContainer):
    """A container with an agent as its first process, attached to the stream that is its life line."""

    def __init__(
        self,
        engine: Engine,
        container: str,
        stream: socket.socket,
        setup: AgentSetup,
        interpreter: Interpreter,
    ) -> None:
        super().__init__(engine, container, setup)
        self.stream = stream
        self._interpreter = interpreter
        self.payload = payload(same_interpreter=interpreter.is_ours)
        self._outputs = Demultiplexer()

    def unwrap(self, data: memoryview) -> Iterable[bytes | memoryview]:
        return self._outputs.feed(data)

    def last_words(self) -> str:
        return bytes(self._outputs.complaint).decode(errors="replace")


def start(
    engine: Engine,
    profile: Profile,
    image: Image,
    interpreter: Interpreter,
    *,
    network: str | None,
    source: MountedSource | None,
    name: str,
    labels: Mapping[str, str],
    on_trial: bool = False,
    make: Callable[[Engine, str, socket.socket, AgentSetup, Interpreter], Container] | None = None,
) -> Container:
    """Start a container called `name`, on a network if it is to have one, with workspaces like `source`, if any.

    `make`: makes what is returned of a container whose input is to stay open; None has it end with its input.
    `on_trial`, its interpreter shows first whether it can do all that is needed. Raises `SandboxStartError` with the
    cause, nothing left behind; `NoInterpreterError` for an image without Python.
    """
    program = bootstrap(same_interpreter=interpreter.is_ours)
    setup, config, host_config = describe(profile, image, network)
    mounts = []
    if source is not None:
        setup = replace(setup, source=source.source)
        mounts += source.mounts(labels)
    if setup.slots[0].user is not None:  # it serves one lease after another
        mounts += read_only_volumes(image, host_config, name.rpartition("-")[0], labels)
    if interpreter.volume:
        mounts.append(_read_only(interpreter, labels))
    host_config["mounts"] = mounts
    if make is not None:  # the Engine starts processes of ours in it, whom code must not keep from coming
        host_config["pids_limit"] += OWN_PROCESSES
    with engine.errors_as_start_errors(f"cannot start a container of image {image.name}"):
        try:
            made, stream = start_attached(
                engine.api(),
                image.id,
                [*interpreter.command, trial() + program if on_trial else program],
                name=name,
                labels=labels,
                host_config=host_config,
                ends_with_input=make is None,
                **config,
            )
        except BaseException as error:
            if interpreter is IMAGES_OWN and _cannot_start(error, interpreter.command[0]):
                raise NoInterpreterError("it has no python3 on its PATH that can be started") from None
            explain(error, engine, profile, image)
            raise
    return (make or Container)(engine, made, stream, setup, interpreter)


def explain(error: BaseException, engine: Engine, profile: Profile, image: Image) -> None:
    """Raise `SandboxStartError` with the remedy where an Engine has no GPU to give, or an image not the user."""
    if profile.user is not None and re.search("unable to find (user|group)", str(error)):
        raise SandboxStartError(
            f"{profile.source('user')}: user of profile {profile.name!r} is {shown(profile.user)}, whom image "
            f"{one_line(image.name)} does not have: name one of its own, or a number"
        ) from None
    if "could not select device driver" in str(error):
        raise SandboxStartError(
            f"{profile.source('gpu')}: profile {profile.name!r} asks for gpu {profile.gpu!r}, and the Docker Engine at "
            f"{engine.host} has no runtime for GPUs: install the NVIDIA Container Toolkit on its host, or leave gpu out"
        ) from None


def _cannot_start(error: BaseException, program: str) -> bool:
    """Whether an Engine's error is about the program that a container was to start, which is quoted in various ways."""
    return bool(re.search(rf"""exec[^:]*:? ["'`]{program}["'`]""", str(error)))


def greet(container: Launched) -> str:
    """What an agent complains of instead of greeting; empty when all is well. The container is ended."""
    stream = container.stream
    reader = FrameReader()
    deadline = time.monotonic() + _GREETING_TIMEOUT
    try:
        stream.settimeout(_GREETING_TIMEOUT)
        with contextlib.suppress(OSError):  # it may have ended, and said why
            stream.sendall(container.payload)
        while (left := deadline - time.monotonic()) > 0:
            stream.settimeout(left)
            data = stream.recv(4096)
            if not data:
                return container.last_words() or "it ended without a word"
            for piece in container.unwrap(memoryview(data)):
                for kind, _, _ in reader.feed(piece):
                    return "" if kind == HELLO else "it does not greet"
    except (OSError, ProtocolError) as error:
        return container.last_words() or str(error)
    else:
        return f"it has not greeted within {_GREETING_TIMEOUT:.0f} s"
    finally:
        stream.close()
        container.end()


def _read_only(interpreter: Interpreter, labels: Mapping[str, str]) -> docker.types.Mount:
    """The mount that an interpreter needs. Should its volume be gone, the Engine makes an empty one with `labels`."""
    from docker.types import Mount

    return Mount(
        interpreter.mounted_at, interpreter.volume, read_only=True, no_copy=True, labels=dict(labels)
    )

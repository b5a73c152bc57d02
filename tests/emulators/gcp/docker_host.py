"""Runnables that are containers of a Docker Engine, which has to run on this machine."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import docker.errors

from tests.emulators.gcp.container_options import parse_options
from tests.emulators.gcp.machines import CannotStartError, Command, Host, Machine, Process

_ENGINE = 60
"""Seconds for one answer of the Engine."""
_AT_ONCE = 64
"""Containers that are waited for at a time."""
_SHARED = ("/var/run/docker.sock", "/run/docker.sock")
"""Paths of a VM that are this machine's: its Engine is a VM's."""


class DockerHost(Host):
    """Makes containers as `docker run` does."""

    def __init__(self, label: str, user: int | None) -> None:
        """All that is made has the label; `user` is whose directories are that containers share with their VM."""
        self._api = docker.from_env(timeout=_ENGINE).api
        self._waiting = docker.from_env(timeout=None).api
        self._watchers = ThreadPoolExecutor(_AT_ONCE, "gcp-emulator-containers")
        self._label = label
        self._user = user

    async def start(self, machine: Machine, command: Command) -> Process:
        """Create a container, with an image that is pulled if it is not here, and start it."""
        process = _Container(self, machine, command)
        machine.processes.add(process)
        try:
            await process.begin()
        except BaseException:
            await process.end()
            raise
        return process

    def close(self) -> None:
        """Close connections to the Engine."""
        self._api.close()
        self._waiting.close()
        self._watchers.shutdown()

    def create(self, machine: Machine, command: Command) -> tuple[str, Iterator[bytes]]:
        """Create and start; blocks. Returns the container's id, and its output."""
        wanted = command.runnable["container"]
        options = parse_options(wanted.get("options", ""))
        network = options.network or ("none" if wanted.get("blockExternalNetwork") else "host")
        binds = [self._bind(machine, volume) for volume in wanted.get("volumes", ())]
        environment = {**command.environment, **options.environment}
        config: dict[str, Any] = {
            "Image": wanted["imageUri"],
            "Cmd": list(wanted.get("commands", ())) or None,
            "Entrypoint": [wanted["entrypoint"]] if wanted.get("entrypoint") else None,
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "Labels": dict([self._label.split("=")]),
            "HostConfig": {"NetworkMode": network, "Binds": binds, **options.host_config},
            **options.config,
        }
        try:
            return self._create(config)
        except docker.errors.ImageNotFound:
            self._api.pull(*_split(wanted["imageUri"]))
            return self._create(config)

    def _create(self, config: dict[str, Any]) -> tuple[str, Iterator[bytes]]:
        container: str = self._api.create_container_from_config(config)["Id"]
        try:
            # before it starts: of one that has ended soon, the Engine's log may be read too early
            output: Iterator[bytes] = self._waiting.attach(container, stream=True)
            self._api.start(container)
        except BaseException:
            self.remove(container)
            raise
        return container, output

    async def watch(self, container: str, output: Iterator[bytes], log: Path) -> int:
        """Write its output down until its end. Returns its exit code."""
        loop = asyncio.get_running_loop()
        # threads of their own, so that there are always some for what ends the container
        return await loop.run_in_executor(self._watchers, self._watch, container, output, log)

    def _watch(self, container: str, output: Iterator[bytes], log: Path) -> int:
        with log.open("ab", buffering=0) as file:
            for piece in output:
                file.write(piece)
        code: int = self._waiting.wait(container)["StatusCode"]
        return code

    def remove(self, container: str) -> None:
        """Kill and remove it, if it is there; blocks."""
        try:
            self._api.remove_container(container, force=True, v=True)
        except docker.errors.NotFound:
            pass

    def _bind(self, machine: Machine, volume: str) -> str:
        there, _, rest = volume.partition(":")
        if there in _SHARED:
            return volume
        path = machine.disk.joinpath(there.lstrip("/")).resolve()
        if not path.is_relative_to(machine.disk.resolve()):
            raise CannotStartError(f"{there} is not on the VM's disk")
        if not path.exists():
            path.mkdir(parents=True)
            if self._user is not None:
                os.chown(path, self._user, self._user)
        return f"{path}:{rest}"


class _Container(Process):
    """A container that runs, or is about to."""

    def __init__(self, host: DockerHost, machine: Machine, command: Command) -> None:
        self._host = host
        self._machine = machine
        self._command = command
        self._creation: asyncio.Future[tuple[str, Iterator[bytes]]] | None = None
        self._removal: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """A thread cannot be given up: who is cancelled meanwhile has to end it."""
        self._creation = asyncio.ensure_future(
            asyncio.to_thread(self._host.create, self._machine, self._command)
        )
        try:
            await asyncio.shield(self._creation)
        except docker.errors.APIError as error:
            raise CannotStartError(error.explanation) from error

    async def wait(self) -> int:
        """As the Engine has it."""
        assert self._creation is not None
        container, output = await self._creation
        try:
            code: int = await self._host.watch(container, output, self._command.log)
        except docker.errors.NotFound:  # removed, and killed for that
            code = 128 + 9
        await self.end()
        return code

    async def end(self) -> None:
        """Kill and remove it."""
        if self._removal is None:
            self._removal = asyncio.create_task(self._remove())
        await asyncio.shield(self._removal)

    async def _remove(self) -> None:
        try:
            if self._creation is not None:
                container, _ = await self._creation
                await asyncio.to_thread(self._host.remove, container)
        except (docker.errors.APIError, CannotStartError):
            pass  # it was never there
        finally:
            self._machine.processes.discard(self)


def _split(image: str) -> tuple[str, str | None]:
    """Repository and tag, for the Engine's pull, which takes all tags where none is given."""
    found = re.fullmatch(r"(.+?)(?::([\w.-]+))?", image) if "@" not in image else None
    if found is None:
        return image, None
    return found[1], found[2] or "latest"

"""VMs: a directory that is their disk, what runs on them, and a metadata server of their own."""

from __future__ import annotations

import asyncio
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.emulators.undertaker import remove_tree


class CannotStartError(Exception):
    """A runnable did not start; says why."""


@dataclass(frozen=True)
class Command:
    """A runnable, as a VM gets it."""

    runnable: Mapping[str, Any]
    environment: Mapping[str, str]
    log: Path
    """Where its output goes."""


class Process(ABC):
    """A runnable that runs."""

    @abstractmethod
    async def wait(self) -> int:
        """Wait for its end, and for that of all it has started: its exit code, or 128 + N for signal N."""

    @abstractmethod
    async def end(self) -> None:
        """End it with all that it has started, and return when nothing of it runs. May be called again."""


class Host(ABC):
    """Runs what is a VM's."""

    @abstractmethod
    async def start(self, machine: Machine, command: Command) -> Process:
        """Start a runnable. Raises `CannotStartError`."""

    def close(self) -> None:
        """Let go of what it holds in this process."""
        return


@dataclass(eq=False)
class Machine:
    """A VM that is up, until it has ended or is lost."""

    job: str
    """The name of the job that it has been made for."""
    job_uid: str
    zone: str
    directory: Path
    """Its own, with `disk` in it."""
    name: str = field(default_factory=lambda: f"vm-{secrets.token_hex(4)}")
    number: int = field(default_factory=lambda: secrets.randbits(62))
    metadata: str = ""
    """Host and port of its metadata server."""
    lost: int | None = None
    """The exit code of all its tasks, once it is lost."""
    processes: set[Process] = field(default_factory=set)

    @property
    def disk(self) -> Path:
        """What is the root directory on it."""
        return self.directory / "disk"

    @property
    def instance(self) -> str:
        """What events call it."""
        return f"zones/{self.zone}/instances/{self.number}"

    async def lose(self, code: int) -> None:
        """End all that runs on it, at once; it does nothing more."""
        self.lost = code
        await asyncio.gather(*(process.end() for process in self.processes))


class Machines:
    """Those that are up. Belongs to the emulator's loop."""

    def __init__(
        self,
        directory: Path,
        user: int | None,
        *,
        open_metadata: Callable[[Machine], Awaitable[str]],
        close_metadata: Callable[[Machine], Awaitable[None]],
    ) -> None:
        """`directory` is made, `user` is whose disks are, None for the caller; metadata servers are opened with VMs."""
        directory.mkdir(mode=0o711)
        self._directory = directory
        self._user = user
        self._open_metadata = open_metadata
        self._close_metadata = close_metadata
        self.running: dict[str, Machine] = {}

    async def start(self, job: str, job_uid: str, zone: str) -> Machine:
        """One more, with an empty disk."""
        machine = Machine(job, job_uid, zone, self._directory / secrets.token_hex(6))
        self.running[machine.name] = machine
        try:
            self._make_disk(machine)
            machine.metadata = await self._open_metadata(machine)
        except BaseException:
            await to_the_end(self.end(machine))
            raise
        return machine

    def _make_disk(self, machine: Machine) -> None:
        machine.directory.mkdir(mode=0o711)
        machine.disk.mkdir()
        for name in ("tmp", "home"):
            (machine.disk / name).mkdir()
        (machine.disk / "tmp").chmod(0o1777)
        if self._user is not None:
            for path in (machine.disk, machine.disk / "home"):
                os.chown(path, self._user, self._user)

    async def end(self, machine: Machine) -> None:
        """End all that runs on it, and remove its disk."""
        try:
            await asyncio.gather(*(process.end() for process in machine.processes))
        finally:
            await self._close_metadata(machine)
            await asyncio.to_thread(remove_tree, machine.directory)
            self.running.pop(machine.name, None)


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait until it is done, even if cancelled meanwhile: what comes after relies on it."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise

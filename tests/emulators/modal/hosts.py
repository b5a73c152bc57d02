"""What a sandbox runs on: the interface that this machine's processes and a Docker Engine's containers share."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from modal_proto import api_pb2 as api


class CannotStartError(Exception):
    """A command or a sandbox did not start; says why."""


@dataclass(frozen=True)
class Command:
    """What is to be run in a sandbox."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    directory: str
    """Where it starts; empty for the image's own working directory."""


@dataclass(frozen=True)
class Volume:
    """A volume, and where a sandbox sees it."""

    volume_id: str
    path: str
    read_only: bool


@dataclass(frozen=True)
class Recipe:
    """What a sandbox is made of."""

    sandbox_id: str
    image_id: str
    main: Command
    volumes: Sequence[Volume]
    networked: bool
    memory_mb: int
    """0 for no limit."""
    milli_cpu: int
    """0 for no limit."""


class Child(ABC):
    """A command that runs in a sandbox, with its three streams."""

    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader

    def __init__(self, stdin: int) -> None:
        self._stdin: int | None = os.dup(stdin)
        os.set_blocking(self._stdin, False)

    async def write(self, data: memoryview) -> int:
        """Write to its standard input at least one byte; returns how many. Raises `BrokenPipeError` if nobody reads."""
        while True:
            if self._stdin is None:
                raise BrokenPipeError
            try:
                return os.write(self._stdin, data)
            except BlockingIOError:
                await _until_writable(self._stdin)

    def close_stdin(self) -> None:
        """Let it read the end of its input."""
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None

    @abstractmethod
    async def wait(self) -> int:
        """Wait for its end: its exit code, or -N for signal N."""

    @abstractmethod
    async def kill(self) -> None:
        """Kill it, and nothing else: what it has started lives on."""


class Guest(ABC):
    """A sandbox that runs."""

    main: Child

    @abstractmethod
    async def spawn(self, command: Command) -> Child:
        """Start one more command in it. Raises `CannotStartError`."""

    @abstractmethod
    async def end(self) -> None:
        """End all that runs in it, and return when nothing does."""


class Host(ABC):
    """Makes sandboxes, and the images and volumes that they need."""

    @abstractmethod
    async def start(self, recipe: Recipe) -> Guest:
        """Start a sandbox. Raises `CannotStartError`."""

    @abstractmethod
    def build(self, image_id: str, definition: api.Image, context: Mapping[str, bytes]) -> AsyncIterator[str]:
        """Build an image of a layer's definition and the files of its context: what it says meanwhile, by lines.

        Raises `CannotStartError` when the build fails.
        """

    def fail_builds(self, containing: str, log: str) -> None:
        """Fail the builds that have this text in a command, after they have said `log`."""
        raise NotImplementedError("these builds are real: they fail by themselves")

    def close(self) -> None:
        """Let go of what it holds in this process."""
        return


async def _until_writable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    # of the caller's own: a descriptor may be closed and used anew meanwhile, and another may wait for the same one
    watched = os.dup(descriptor)
    loop.add_writer(watched, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(watched)
        os.close(watched)

"""Sandboxes that are containers of a Docker Engine on this machine, and images that it builds."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import docker
import docker.errors
from modal_proto import api_pb2 as api

from tests.emulators.descriptors import until_readable
from tests.emulators.modal.hosts import CannotStartError, Child, Command, Guest, Host, Recipe

_ENGINE = 60
"""Seconds for one answer of the Engine."""
_RECORD = 60
"""Seconds from the start of a process until the Engine knows its id, and from its end until it knows its code."""
_NEVER_STARTED = (126, 127)
_DEBIAN_SLIM = re.compile(r"FROM python:[\d.]+-slim-\w+")
_STDOUT = 1


class DockerHost(Host):
    """Has the Engine's own images, and builds on them."""

    def __init__(self, label: str, debian_slim: str) -> None:
        """All that is made has the label; an image of the Engine stands for what `Image.debian_slim` builds."""
        self._api = docker.from_env(timeout=_ENGINE).api
        self._label = label
        self._debian_slim = debian_slim
        self._repository = label.replace("=", "-")

    async def start(self, recipe: Recipe) -> Guest:
        """Create a container, attach to it, and start it."""
        try:
            container, stream = await asyncio.to_thread(self._start, recipe)
        except docker.errors.APIError as error:
            raise CannotStartError(error.explanation) from error
        guest = DockerGuest(self._api, container)
        try:
            guest.main = await _child(stream, lambda: self._state(container), guest.kill)
        except BaseException:
            await guest.end()
            raise
        return guest

    async def build(
        self, image_id: str, definition: api.Image, context: Mapping[str, bytes]
    ) -> AsyncIterator[str]:
        """Have the Engine build the layer, without its cache's steps of others."""
        commands = list(definition.dockerfile_commands)
        for base in definition.base_images:
            name = re.escape(base.docker_tag)
            commands = [
                re.sub(rf"^FROM {name}$", f"FROM {self._name(base.image_id)}", line) for line in commands
            ]
        if _DEBIAN_SLIM.match(
            commands[0]
        ):  # the client's own recipe, which takes a registry and Debian's mirrors
            commands = [f"FROM {self._debian_slim}", 'CMD ["sleep", "172800"]']
        # first of all, so that the steps of a build that fails have it too
        commands = [f"{line}\nLABEL {self._label}" if line.startswith("FROM ") else line for line in commands]
        archive = _archive({**context, "Dockerfile": "\n".join(commands).encode()})
        said = self._api.build(
            fileobj=archive,
            custom_context=True,
            tag=self._name(image_id),
            buildargs=dict(definition.build_args),
            rm=True,
            forcerm=True,
            decode=True,
        )
        while (message := await asyncio.to_thread(next, said, None)) is not None:
            if line := message.get("stream") or message.get("error"):
                yield line
            if "error" in message:
                raise CannotStartError(message["error"])

    def close(self) -> None:
        """Close connections to the Engine."""
        self._api.close()

    def _name(self, image_id: str) -> str:
        return f"{self._repository}:{image_id}"

    def _start(self, recipe: Recipe) -> tuple[str, Any]:
        labels = dict([self._label.split("=")])
        binds = {}
        for volume in recipe.volumes:
            name = f"{self._repository}-{volume.volume_id}"
            self._api.create_volume(name, labels=labels)
            binds[name] = {"bind": volume.path, "mode": "ro" if volume.read_only else "rw"}
        host_config = self._api.create_host_config(
            network_mode="bridge" if recipe.networked else "none",
            mem_limit=recipe.memory_mb << 20 or None,
            nano_cpus=recipe.milli_cpu * 1_000_000 or None,
            binds=binds,
        )
        container: str = self._api.create_container(
            self._name(recipe.image_id),
            list(recipe.main.argv) or None,
            environment={"MODAL_SANDBOX_ID": recipe.sandbox_id, **recipe.main.environment},
            working_dir=recipe.main.directory or None,
            stdin_open=True,
            labels=labels,
            host_config=host_config,
        )["Id"]
        try:
            everything = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            stream = self._api.attach_socket(container, params=everything)
            self._api.start(container)
        except BaseException:
            self._api.remove_container(container, force=True)
            raise
        return container, stream

    def _state(self, container: str) -> tuple[int, int | None]:
        state = self._api.inspect_container(container)["State"]
        return state["Pid"], None if state["Running"] else state["ExitCode"]


class DockerGuest(Guest):
    """A container that runs."""

    def __init__(self, client: docker.APIClient, container: str) -> None:
        self._api = client
        self._container = container

    async def spawn(self, command: Command) -> Child:
        """Have the Engine run one more command in it."""
        try:
            exec_id, stream = await asyncio.to_thread(self._spawn, command)
            child = await _child(stream, lambda: self._state(exec_id), self.kill)
        except docker.errors.APIError as error:
            raise CannotStartError(error.explanation) from error
        if not child.pid and await child.wait() in _NEVER_STARTED:
            raise CannotStartError((await child.stdout.read()).decode(errors="replace").strip())
        return child

    def kill(self, pid: int) -> None:
        """Kill a process of this container, which this user may do or the container's own root."""
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except PermissionError:
            with open(f"/proc/{pid}/status") as status:
                there = next(line.split()[-1] for line in status if line.startswith("NSpid:"))
            killing = self._api.exec_create(self._container, ["kill", "-9", there], user="0")
            self._api.exec_start(killing["Id"])

    async def end(self) -> None:
        """Have the Engine kill and remove it."""
        try:
            await asyncio.to_thread(self._api.remove_container, self._container, force=True, v=True)
        except docker.errors.NotFound:
            pass

    def _spawn(self, command: Command) -> tuple[str, Any]:
        exec_id: str = self._api.exec_create(
            self._container,
            list(command.argv),
            stdin=True,
            environment=dict(command.environment),
            workdir=command.directory or None,
        )["Id"]
        return exec_id, self._api.exec_start(exec_id, socket=True)

    def _state(self, exec_id: str) -> tuple[int, int | None]:
        state = self._api.exec_inspect(exec_id)
        return state["Pid"], state["ExitCode"]


class DockerChild(Child):
    """A process of a container, whose streams share a connection to the Engine."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        state: Callable[[], tuple[int, int | None]],
        kill: Callable[[int], None],
    ) -> None:
        super().__init__(writer.get_extra_info("socket").fileno())
        self._reader = reader
        self._writer = writer
        self._state = state
        self._kill = kill
        self._gates = _Gate(), _Gate()
        self.pid = 0
        """Of this machine; 0 if it never ran."""
        self.stdout, self.stderr = (asyncio.StreamReader() for _ in range(2))
        for output, gate in zip((self.stdout, self.stderr), self._gates, strict=True):
            output.set_transport(gate)
        self._sorting = asyncio.create_task(self._sort())

    def close_stdin(self) -> None:
        """By the connection's half."""
        if self._stdin is not None and self._writer.can_write_eof() and not self._writer.is_closing():
            self._writer.write_eof()
        super().close_stdin()

    async def begin(self) -> None:
        """Wait until the Engine has started it, or failed to."""
        await self._until(lambda pid, code: bool(pid) or code is not None)

    async def wait(self) -> int:
        """By a descriptor of the process: streams end later, with the last process that has them."""
        if self.pid:
            try:
                process = os.pidfd_open(self.pid)
            except ProcessLookupError:
                pass
            else:
                try:
                    await until_readable(process)
                finally:
                    os.close(process)
        code = await self._until(lambda _, code: code is not None)
        assert code is not None
        return code

    async def kill(self) -> None:
        """With the pid that the Engine knows."""
        _, code = await self._look()
        if code is None and self.pid:
            await asyncio.to_thread(self._kill, self.pid)

    async def _until(self, holds: Callable[[int, int | None], bool]) -> int | None:
        async with asyncio.timeout(_RECORD):
            while True:
                pid, code = await self._look()
                self.pid = self.pid or pid
                if holds(self.pid, code):
                    return code
                await asyncio.sleep(0.01)  # the Engine has no call that waits for an exec

    async def _look(self) -> tuple[int, int | None]:
        try:
            return await asyncio.to_thread(self._state)
        except docker.errors.NotFound:  # removed, and killed for that
            return 0, 128 + signal.SIGKILL

    async def _sort(self) -> None:
        """Take the two outputs apart; both wait where one is not read."""
        try:
            while True:
                header = await self._reader.readexactly(8)
                data = await self._reader.readexactly(int.from_bytes(header[4:]))
                number = 0 if header[0] == _STDOUT else 1
                (self.stdout, self.stderr)[number].feed_data(data)
                await self._gates[number].opened.wait()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.stdout.feed_eof()
            self.stderr.feed_eof()
            self._writer.close()


class _Gate(asyncio.ReadTransport):
    """What a full `StreamReader` shuts, and opens when it has been read."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = asyncio.Event()
        self.opened.set()

    def pause_reading(self) -> None:
        self.opened.clear()

    def resume_reading(self) -> None:
        self.opened.set()


async def _child(
    stream: Any, state: Callable[[], tuple[int, int | None]], kill: Callable[[int], None]
) -> DockerChild:
    """The process at the other end of a connection that the SDK has handed over."""
    shared = stream._sock
    shared.settimeout(0)
    ours = shared.dup()
    early = b""
    if buffered := getattr(stream._response.raw, "_fp", None):  # what has come with the headers is in there
        early = buffered.fp.peek()
    reader, writer = await asyncio.open_connection(sock=ours)
    reader.feed_data(early)
    stream._response.close()
    stream.close()
    shared.close()
    child = DockerChild(reader, writer, state, kill)
    await child.begin()
    return child


def _archive(files: Mapping[str, bytes]) -> io.BytesIO:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            entry.mode = 0o755
            tar.addfile(entry, io.BytesIO(content))
    archive.seek(0)
    return archive

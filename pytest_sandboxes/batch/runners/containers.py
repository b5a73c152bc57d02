"""Runner `local` with an image: each shard is a container of its own, at the Docker Engine that `docker` would use."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import selectors
import socket
import tarfile
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pytest_sandboxes.agent.wire import ProtocolError
from pytest_sandboxes.backends.base import Progress
from pytest_sandboxes.backends.docker import endpoint, janitor
from pytest_sandboxes.backends.docker.attached import Demultiplexer, start_attached
from pytest_sandboxes.backends.docker.engine import Engine
from pytest_sandboxes.backends.docker.images import Image, Images
from pytest_sandboxes.backends.docker.names import Names
from pytest_sandboxes.backends.docker.removal import remove
from pytest_sandboxes.batch import bootstrap
from pytest_sandboxes.batch.runners import handover
from pytest_sandboxes.batch.runners.base import Arrived, Begun, Ended, Happened, Order, Runner
from pytest_sandboxes.batch.runners.handover import Project
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import BackendUnavailableError, SandboxStartError

_PLACE = "/tmp/pytest-sandboxes-shard"  # noqa: S108 - in a container of the shard's own
_SOCKET = "/var/run/docker.sock"
_CHUNK = 1 << 20
_OUTPUT_KEPT = 16_384
_SEND_TIMEOUT = 60.0
_END_TIMEOUT = 35.0  # longer than a shard gives itself
_STATUS = re.compile(rb"\npytest-sandboxes: exit status (\d{1,3})\n\Z")
# Events are the standard output of the container. What is printed goes where its errors go, and at last the status:
# the Engine forgets that of a container which it removes by itself.
_PROGRAM = f"""\
import os, subprocess, sys
events = os.dup(1)
os.dup2(2, 1)
command = [sys.executable, "-I", "-S", "{_PLACE}/bootstrap.py"]
status = subprocess.call(command, pass_fds=(events,))
os.write(2, b"\\npytest-sandboxes: exit status %d\\n" % (status if status >= 0 else 128 - status))
"""
_EVENTS = 3  # which `os.dup` gives, because nothing else is open


@dataclass
class Place:
    """The Engine, and the image of which containers will be."""

    engine: Engine
    image: Image

    @classmethod
    def find(cls, name: str, source: str, progress: Progress) -> Place:
        """The Engine that answers and an image, pulled where it is not there.

        `source` says who asks for it. Raises `ConfigurationError`.
        """
        engine = Engine()
        try:
            return cls(engine, Images(engine).get(name, progress))
        except (BackendUnavailableError, SandboxStartError) as error:
            engine.close()
            raise BackendUnavailableError(f"{source} is {name!r}: {error}") from None
        except BaseException:
            engine.close()
            raise

    def close(self) -> None:
        """Close the connections to the Engine."""
        self.engine.close()

    def socket(self) -> str | None:
        """The path of the Engine's socket on its machine; None where it is reached otherwise."""
        scheme, _, path = endpoint.find().address.partition("://")
        return path if scheme == "unix" else None


@dataclass
class _Shard:
    container: str
    stream: socket.socket
    outputs: Demultiplexer = field(default_factory=Demultiplexer)
    output: bytearray = field(default_factory=bytearray)
    deadline: float | None = None
    """By when it has to have ended, of one that was told to."""


class ContainerRunner(Runner):
    """Shards in containers, which end with this process: nobody else holds the other end of their input.

    Methods raise `BackendUnavailableError` where no container of the image can ever be started.
    """

    name = "local"
    seconds_worthwhile = 10.0

    def __init__(self, place: Place, project: Project, width: int, socket_path: str | None) -> None:
        """`width`: shards at once. `socket_path`: the Engine's, which they are given; None gives them none."""
        self._place = place
        self._project = project
        self._width = width
        self._socket = socket_path
        self._run = secrets.token_hex(6)
        self._names = Names(f"{janitor.PREFIX}{self._run}-shard")
        self._shards: dict[str, _Shard] = {}
        self._begun: list[Happened] = []
        self._selector = selectors.DefaultSelector()
        self._is_closed = False
        with contextlib.suppress(SandboxStartError):  # the next run sweeps as well
            janitor.sweep(place.engine)

    @property
    def width(self) -> int:
        """See `Runner.width`."""
        return self._width

    def start(self, order: Order) -> None:
        """See `Runner.start`."""
        engine, image = self._place.engine, self._place.image.name
        try:
            with (
                engine.errors_as_start_errors(f"no container of image {image!r} for a shard"),
                self._names.take(engine) as name,
            ):
                container, stream = self._start(name)
        except SandboxStartError as error:
            if "python3" in str(error):
                raise BackendUnavailableError(
                    f"{one_line(str(error), 500)}; batch mode needs an image with the Python that runs pytest"
                ) from None
            raise OSError(str(error)) from None
        # before anything can interrupt what is sent
        self._shards[order.name] = _Shard(container, stream)
        self._selector.register(stream, selectors.EVENT_READ, order.name)
        self._begun.append(Begun(order.name))
        with contextlib.suppress(OSError):  # it has ended; `wait` says so
            stream.settimeout(_SEND_TIMEOUT)
            stream.sendall(json.dumps(self._job(order)).encode() + b"\n")
        stream.setblocking(False)  # noqa: FBT003 - socket has it so

    def _start(self, name: str) -> tuple[str, socket.socket]:
        binds = [] if self._socket is None else [f"{self._socket}:{_SOCKET}"]
        return start_attached(
            self._place.engine.api(),
            self._place.image.id,
            ["python3", "-I", "-S", "-c", _PROGRAM],
            name=name,
            labels=janitor.labels(self._run),
            host_config={"auto_remove": True, "binds": binds},
            before_start=self._fill,
        )

    def _fill(self, container: str) -> None:
        """Put what all shards share into a container."""
        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w") as tar:
                folder = tarfile.TarInfo(Path(_PLACE).name)
                folder.type, folder.mode = tarfile.DIRTYPE, 0o777  # the image's own user may be anybody
                tar.addfile(folder)
                for name, path in self._files():
                    with path.open("rb") as file:
                        _add(tar, f"{folder.name}/{name}", file)
            archive.seek(0)
            self._place.engine.api().put_archive(container, str(Path(_PLACE).parent), archive)

    def _files(self) -> Iterable[tuple[str, Path]]:
        yield "bootstrap.py", Path(bootstrap.__file__)
        yield "project.tar", self._project.archive.path
        yield "environment.tar", self._project.environment.path

    def _job(self, order: Order) -> Mapping[str, object]:
        variables = {**handover.variables(), **handover.chosen((), ("MODAL_TOKEN_",))}
        if self._socket is not None:
            variables["DOCKER_HOST"] = f"unix://{_SOCKET}"
        job = self._project.job(
            order,
            project=f"{_PLACE}/project.tar",
            environment=f"{_PLACE}/environment.tar",
            variables=variables,
        )
        return {**job, "work": _PLACE, "place": "shard", "events": _EVENTS}

    def wait(self, timeout: float) -> list[Happened]:
        """See `Runner.wait`."""
        found, self._begun = self._begun, []
        for key, _ in self._selector.select(0 if found else timeout):
            found += self._read(key.data)
        now = time.monotonic()
        for name, shard in list(self._shards.items()):
            if shard.deadline is not None and now > shard.deadline:
                found.append(self._finish(name))
        return found

    def _read(self, name: str) -> list[Happened]:
        shard = self._shards[name]
        try:
            data = shard.stream.recv(_CHUNK)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            return [self._finish(name)]
        found: list[Happened] = []
        try:
            for is_error, piece in shard.outputs.split(memoryview(data)):
                if not is_error:
                    found.append(Arrived(name, bytes(piece)))
                else:
                    shard.output += piece
                    del shard.output[:-_OUTPUT_KEPT]
        except ProtocolError:
            found.append(self._finish(name))
        return found

    def _finish(self, name: str) -> Ended:
        """See to it that a container is gone."""
        shard = self._shards.pop(name)
        with contextlib.suppress(KeyError):
            self._selector.unregister(shard.stream)
        shard.stream.close()
        with (
            contextlib.suppress(SandboxStartError),
            self._place.engine.errors_as_start_errors("cannot remove a shard's container"),
        ):
            remove(self._place.engine.api(), shard.container)
        said = _STATUS.search(shard.output)
        output = bytes(shard.output if said is None else shard.output[: said.start()])
        status = None if said is None or int(said[1]) > 255 else int(said[1])
        return Ended(name, status, output.decode("utf-8", "replace"))

    def stop(self, name: str) -> None:
        """See `Runner.stop`."""
        shard = self._shards.get(name)
        if shard is not None and shard.deadline is None:
            shard.deadline = time.monotonic() + _END_TIMEOUT
            with contextlib.suppress(OSError):
                shard.stream.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """See `Runner.close`."""
        if self._is_closed:
            return
        for name in list(self._shards):
            self.stop(name)
        while self._shards:  # each has a deadline
            self.wait(1.0)
        self._is_closed = True
        self._selector.close()
        janitor.remove_rest(self._place.engine, self._run)


def _add(tar: tarfile.TarFile, name: str, file: IO[bytes]) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = os.fstat(file.fileno()).st_size, 0o644
    tar.addfile(info, file)

"""Runner `local`: each shard is a process on this machine, with a directory and a Python environment made for it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_sandboxes.batch import bootstrap
from pytest_sandboxes.batch.runners import handover
from pytest_sandboxes.batch.runners.base import Arrived, Begun, Ended, Happened, Order, Runner
from pytest_sandboxes.batch.runners.handover import Project

_CHUNK = 1 << 20
MOST_LEFT = 8 << 20
"""Bytes of a pipe that are read once its shard has ended."""
_OUTPUT_KEPT = 16_384
_END_TIMEOUT = 35.0  # longer than a shard gives itself
_LET_THROUGH = ("USER", "LOGNAME", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK")
_LET_THROUGH_PREFIXES = ("DOCKER_", "MODAL_")
_OUTPUT, _EVENTS, _END = "output", "events", "end"


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    events: int
    end: int | None
    """A pidfd, readable once the process has ended."""
    output: bytearray = field(default_factory=bytearray)


class LocalRunner(Runner):
    """Shards of this machine. They end with this process, because they hold the other end of a pipe of its own."""

    name = "local"
    seconds_worthwhile = 10.0

    def __init__(self, work: Path, project: Project, width: int) -> None:
        """`work`: of a `Workplace`. `width`: shards at once."""
        self._width = width
        self._project = project
        self._children: dict[str, _Child] = {}
        self._begun: list[Happened] = []
        self._selector = selectors.DefaultSelector()
        self._work = work
        self._is_closed = False

    @property
    def width(self) -> int:
        """See `Runner.width`."""
        return self._width

    def start(self, order: Order) -> None:
        """See `Runner.start`."""
        reads, writes = os.pipe()
        try:
            process = subprocess.Popen(
                [_bare_python(), "-I", "-S", bootstrap.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(writes,),
                cwd="/",
                env=_environment(),
                start_new_session=True,
            )
        except OSError:
            os.close(reads)
            raise
        finally:
            os.close(writes)
        child = self._children[order.name] = _Child(process, reads, _pidfd(process.pid))
        self._begun.append(Begun(order.name))
        assert process.stdin is not None
        assert process.stdout is not None
        for descriptor, kind in (
            (process.stdout.fileno(), _OUTPUT),
            (reads, _EVENTS),
            (child.end, _END),
        ):
            if descriptor is not None:
                os.set_blocking(descriptor, False)
                self._selector.register(descriptor, selectors.EVENT_READ, (order.name, kind))
        with contextlib.suppress(BrokenPipeError):  # it has ended; `wait` says so
            process.stdin.write(json.dumps(self._job(order, writes)).encode() + b"\n")
            process.stdin.flush()

    def _job(self, order: Order, events: int) -> dict[str, Any]:
        job = self._project.job(
            order,
            project=str(self._project.archive.path),
            environment=str(self._project.environment.path),
            variables=_environment(),
        )
        return {**job, "work": str(self._work), "place": order.name.replace(" ", "-"), "events": events}

    def wait(self, timeout: float) -> list[Happened]:
        """See `Runner.wait`."""
        found, self._begun = self._begun, []
        ended = set()
        for key, _ in self._selector.select(0 if found else timeout):
            name, kind = key.data
            if kind == _END:
                ended.add(name)
            else:
                found += self._read(name, kind, key.fd)
        ended |= {
            name
            for name, child in self._children.items()
            if child.end is None and child.process.poll() is not None
        }
        for name in ended:
            found += self._finish(name)
        return found

    def _read(self, name: str, kind: str, descriptor: int) -> list[Happened]:
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return []
        if not data:
            self._selector.unregister(descriptor)
        elif kind == _EVENTS:
            return [Arrived(name, data)]
        else:
            output = self._children[name].output
            output += data
            del output[:-_OUTPUT_KEPT]
        return []

    def _finish(self, name: str) -> list[Happened]:
        """Read what is left of a process that has ended; whoever holds its pipes besides is not waited for."""
        child = self._children.pop(name)
        process = child.process
        assert process.stdin is not None
        assert process.stdout is not None
        found: list[Happened] = []
        status = process.wait()
        found += [Arrived(name, data) for data in left_in(child.events)]
        child.output += b"".join(left_in(process.stdout.fileno()))
        for each in (child.events, process.stdout.fileno(), child.end):
            if each is not None:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(each)
        os.close(child.events)
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        if child.end is not None:
            os.close(child.end)
        output = bytes(child.output[-_OUTPUT_KEPT:]).decode("utf-8", "replace")
        return [*found, Ended(name, status if status >= 0 else 128 - status, output)]

    def stop(self, name: str) -> None:
        """See `Runner.stop`."""
        child = self._children.get(name)
        if child is not None and child.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                child.process.stdin.close()

    def close(self) -> None:
        """See `Runner.close`."""
        if self._is_closed:
            return
        for name in list(self._children):
            self.stop(name)
        deadline = time.monotonic() + _END_TIMEOUT
        while self._children and time.monotonic() < deadline:
            self.wait(min(1.0, deadline - time.monotonic()))
        for child in self._children.values():
            child.process.kill()
        for name in list(self._children):
            self._finish(name)
        self._is_closed = True
        self._selector.close()


def left_in(pipe: int) -> Iterator[bytes]:
    """What is in a pipe whose shard has ended; no more than one holds, because somebody may go on to fill it."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(MOST_LEFT // _CHUNK):
            data = os.read(pipe, _CHUNK)
            if not data:
                break
            yield data


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):  # an old kernel, or another system
        return None


def _bare_python() -> str:
    """The Python that this environment was made of."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def _environment() -> dict[str, str]:
    """What shards may know of this process's environment: how to print, how to reach a backend, pytest's settings."""
    found = {**handover.variables(), **handover.chosen(_LET_THROUGH, _LET_THROUGH_PREFIXES)}
    own = Path(sys.prefix)
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    is_venv = sys.prefix != sys.base_prefix
    found["PATH"] = os.pathsep.join(
        each for each in folders if not (is_venv and Path(each).is_relative_to(own))
    )
    # a shard's home directory is another
    for name, login in (("DOCKER_CONFIG", ".docker"), ("MODAL_CONFIG_PATH", ".modal.toml")):
        if name not in found and (Path.home() / login).exists():
            found[name] = str(Path.home() / login)
    return found

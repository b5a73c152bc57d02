"""Ports for operations: one with a real connection to whatever agent there is, and one that answers by itself."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

from pytest_sandboxes.connection import Connection
from pytest_sandboxes.errors import SandboxLostError
from pytest_sandboxes.io_thread import IOThread
from pytest_sandboxes.request import Request
from pytest_sandboxes.streams import Sink


class FakePort:
    """What a slot sees of a sandbox, without a sandbox."""

    name = "fake-1"
    backend = "fake"
    workspace = "/workspace"

    def __init__(self, stream: socket.socket, io: IOThread) -> None:
        self.io = io
        self.losses: list[str] = []
        """Reasons for which it was lost."""
        self.on_lost: Callable[[], object] = lambda: None
        """Called at a loss, before anybody else learns of it."""
        self.killed_by_kernel = 0
        self.connection = Connection(stream, io, self._lost)

    def _lost(self, reason: str) -> Exception:
        self.losses.append(reason)
        self.on_lost()
        return SandboxLostError(f"it was lost: {reason}")

    def request(
        self,
        operation: str,
        arguments: Mapping[str, object],
        *,
        timeout: float | None,
        input: bytes | None = None,
        sinks: tuple[Sink, Sink] | None = None,
    ) -> Request:
        """See `Port`."""
        return self.connection.request(operation, arguments, timeout=timeout, input=input, sinks=sinks)

    def lose(self, reason: str) -> None:
        """See `Port`."""
        self.connection.lose(reason)

    def oom_kills(self) -> int:
        """See `Port`."""
        return self.killed_by_kernel


class AnsweringPort:
    """A sandbox that answers each request at once, with whatever it is given."""

    name = "fake-1"

    def __init__(self, answer: Mapping[str, object] | Exception, output: bytes = b"") -> None:
        self.answer = answer
        self.output = output
        self.losses: list[str] = []
        self.oom: list[int] = []
        self.killed = 0
        self.asked: dict[str, Any] = {}

    def request(
        self,
        operation: str,
        arguments: Mapping[str, object],
        *,
        timeout: float | None,
        input: bytes | None = None,
        sinks: tuple[Sink, Sink] | None = None,
    ) -> Request:
        """See `Port`."""
        self.asked = {"op": operation, "timeout": timeout, "input": input, **arguments}
        if sinks is not None and self.output:
            sinks[0].feed(self.output)
        future: Future[Any] = Future()
        if isinstance(self.answer, Exception):
            future.set_exception(self.answer)
        else:
            future.set_result(dict(self.answer))
        return cast("Request", SimpleNamespace(future=future, kill=self._kill))

    def _kill(self) -> None:
        self.killed += 1

    def lose(self, reason: str) -> None:
        """See `Port`."""
        self.losses.append(reason)

    def oom_kills(self) -> int:
        """See `Port`."""
        return self.oom.pop(0) if self.oom else 0

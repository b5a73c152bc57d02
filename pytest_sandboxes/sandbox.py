"""One running sandbox: what a backend has launched, and the connection to the agent in it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from pytest_sandboxes.backends.base import Backend, Launched
from pytest_sandboxes.connection import HEARTBEAT_DEADLINE, Connection
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import (
    MemoryLimitExceededError,
    SandboxesError,
    SandboxLostError,
    SandboxStartError,
)
from pytest_sandboxes.io_thread import IOThread
from pytest_sandboxes.profiles import Profile
from pytest_sandboxes.request import Request
from pytest_sandboxes.streams import Sink

__tracebackhide__ = True  # a failing test shows its own line, not ours

START_TIMEOUT = 30.0
"""Seconds from launch to an agent that has answered."""

RESET_TIMEOUT = 30.0
"""Seconds that a reset in place may take."""

_numbers = itertools.count(1)


class Sandbox:
    """A sandbox with a living agent. `start` makes one; whoever has it calls `close`.

    `lost` is called once when it ends otherwise, before any of its requests learns of it, with the error that they
    raise: `MemoryLimitExceededError` when it went down at its own memory limit, else `SandboxLostError`.
    """

    def __init__(self, backend: Backend, profile: Profile, launched: Launched, io: IOThread) -> None:
        self.name = f"{backend.name}-{next(_numbers)}"
        self.backend = backend.name
        self.profile = profile
        self.workspace = launched.setup.workspace
        self.started = time.monotonic()
        self.lost: Callable[[Exception], None] = lambda _: None
        self._launched = launched
        self._closing = threading.Lock()
        self._survived_oom_kills = 0
        self._connection = Connection(launched.stream, io, self._connection_lost, launched.unwrap)

    @classmethod
    def start(cls, backend: Backend, profile: Profile, io: IOThread) -> Sandbox:
        """Start a sandbox and wait for its agent.

        Raises `SandboxStartError` with the cause, `IsolationUnavailableError` when this machine cannot isolate.
        """
        sandbox = cls(backend, profile, backend.launch(profile), io)
        try:
            sandbox._greet()
        except BaseException:
            sandbox.close()
            raise
        return sandbox

    def _greet(self) -> None:
        setup = self._launched.setup
        self._connection.send(self._launched.payload)
        try:
            self._connection.hello.result(START_TIMEOUT)
            environment = {**setup.environment, **self.profile.env_vars}
            answer = self.request(
                "configure",
                {
                    "workspace": setup.workspace.encode(),
                    "environment": [
                        [name.encode(), value and value.encode()] for name, value in environment.items()
                    ],
                    "directories": [path.encode() for path in setup.directories],
                    "heartbeat_deadline": HEARTBEAT_DEADLINE,
                    "process_limit": setup.process_limit,
                    "sacrifice_children": setup.sacrifice_children,
                    "user": setup.user and list(setup.user),
                    "shared": [path.encode() for path in setup.shared],
                    "counts_oom_kills": setup.counts_oom_kills,
                    "filter": setup.filter,
                },
                timeout=START_TIMEOUT,
            ).future.result(START_TIMEOUT)
        except (SandboxLostError, FutureTimeoutError) as error:
            reason = str(error) or f"its agent did not answer within {START_TIMEOUT:.0f} s"
            words = self._launched.last_words()
            raise SandboxStartError(
                f"{self.name} did not start: {reason}{words and ': '}{one_line(words, 500)}"
            ) from None
        if "error" in answer:
            raise SandboxStartError(
                f"{self.name} could not be set up: {one_line(str(answer.get('message')))}"
            )
        if self.can_reset:  # which makes its directories, and shows early whether it will do after a lease
            try:
                self.reset()
            except SandboxLostError as error:
                raise SandboxStartError(f"{self.name} could not be set up: {error}") from None

    @property
    def can_reset(self) -> bool:
        """It can be made as new in place; otherwise it has to be replaced after a lease."""
        return self._launched.setup.user is not None

    def reset(self) -> None:
        """End all that runs in it and remove all that has been left, with proof.

        Raises `SandboxLostError`, and gives it up, when there is none within `RESET_TIMEOUT` seconds.
        """
        self._connection.abandon_requests(
            SandboxLostError(f"{self.name} has been reset: its processes have ended")
        )
        answer = self.request("reset", {}, timeout=RESET_TIMEOUT).future
        try:
            said = answer.result(RESET_TIMEOUT + HEARTBEAT_DEADLINE)
        except FutureTimeoutError:
            said = {"error": "Timeout", "message": "no answer"}
        if "error" in said or "status" in said:
            reason = f"it could not be reset: {one_line(str(said.get('message', 'its worker was killed')))}"
            self.lose(reason)
            raise SandboxLostError(f"{self.name} was lost: {reason}")
        self._connection.forget_abandoned()

    @property
    def alive(self) -> bool:
        """Neither lost nor closed."""
        return self._connection.alive

    def request(
        self,
        operation: str,
        arguments: Mapping[str, object],
        *,
        timeout: float | None,
        input: bytes | None = None,
        sinks: tuple[Sink, Sink] | None = None,
    ) -> Request:
        """See `Connection.request`."""
        return self._connection.request(operation, arguments, timeout=timeout, input=input, sinks=sinks)

    def lose(self, reason: str) -> None:
        """Give it up: what it says cannot be relied on."""
        self._connection.lose(reason)

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed at its memory limit so far.

        Asked for when its agent has just answered, so a later loss needs a later kill to be put down to memory.
        """
        kills = self._launched.oom_kills()
        if self.alive:
            self._survived_oom_kills = kills
        return kills

    def pause(self) -> None:
        """Stop the clocks of what runs in it."""
        self._connection.pause()

    def resume(self) -> None:
        """Let the clocks go on."""
        self._connection.resume()

    def keep(self, seconds: float) -> tuple[str, str]:
        """Let it live on for `seconds` after this process; return the commands that enter and that end it.

        Raises `SandboxLostError` when it is gone already, NotImplementedError where its backend cannot.
        """
        answer: Future[dict[str, object]] = self.request(
            "keep", {"seconds": float(seconds)}, timeout=10
        ).future
        if "error" in answer.result(10):
            raise SandboxesError(f"{self.name} cannot be kept")
        commands = self._launched.keep()
        self._connection.close()
        return commands

    def close(self) -> None:
        """End it and all that runs in it, and wait a few seconds at most until it is gone. May be called twice."""
        self._connection.close()
        with self._closing:
            self._launched.end()

    def _connection_lost(self, reason: str) -> Exception:
        error: Exception = SandboxLostError(f"{self.name} was lost: {reason}")
        killed_since = self._launched.oom_kills() > self._survived_oom_kills
        if killed_since or self._launched.ended_at_memory_limit():
            error = MemoryLimitExceededError(
                f"{self.name} went down at its memory limit of {self.profile.memory} MB"
            )
        self.lost(error)
        return error

    def __repr__(self) -> str:
        return f"<Sandbox {self.name}: {'alive' if self.alive else 'ended'}>"

"""One running sandbox: what a backend has launched, and the connection to the agent in it."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from pytest_sandboxes.backends.base import Backend, KeptSlot, Launched, SlotSetup
from pytest_sandboxes.connection import HEARTBEAT_DEADLINE, Connection
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import (
    MemoryLimitExceededError,
    SandboxesError,
    SandboxLostError,
    SandboxStartError,
)
from pytest_sandboxes.io_thread import IOThread
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.request import Request
from pytest_sandboxes.setting_up import run_setup
from pytest_sandboxes.streams import Sink

__tracebackhide__ = True  # a failing test shows its own line, not ours

START_TIMEOUT = 30.0
"""Seconds from launch to an agent that has answered."""

RESET_TIMEOUT = 30.0
"""Seconds that a reset in place may take."""
FILL_TIMEOUT = 300.0
"""Seconds that it may take where workspaces are filled, or that the first filling may take."""

_ANSWER_TIMEOUT = 10.0  # seconds for what takes an agent no time

_numbers = itertools.count(1)


class SandboxSlot:
    """A slot of a sandbox: what the pool leases, and what `Slot` speaks to."""

    def __init__(self, sandbox: Sandbox, index: int, setup: SlotSetup) -> None:
        self.sandbox = sandbox
        self.index = index
        self.setup = setup
        self.name = sandbox.name
        self.backend = sandbox.backend
        self.workspace = setup.workspace

    @property
    def is_shared(self) -> bool:
        """See `Sandbox.is_shared`."""
        return self.sandbox.is_shared

    @property
    def alive(self) -> bool:
        """See `Sandbox.alive`."""
        return self.sandbox.alive

    def request(
        self,
        operation: str,
        arguments: Mapping[str, object],
        *,
        timeout: float | None,
        input: bytes | None = None,
        sinks: tuple[Sink, Sink] | None = None,
    ) -> Request:
        """See `Connection.request`. Secrets are added here, on the way to the agent, and are nowhere else."""
        secrets = self.sandbox.secrets
        given = arguments.get("env")
        if secrets and isinstance(given, list):  # it is a command
            arguments = {**arguments, "env": [*secrets, *given]}
        return self.sandbox.request(
            operation, arguments, timeout=timeout, input=input, sinks=sinks, slot=self.index
        )

    def lose(self, reason: str) -> None:
        """See `Sandbox.lose`."""
        self.sandbox.lose(reason)

    def oom_kills(self) -> int:
        """See `Sandbox.oom_kills`."""
        return self.sandbox.oom_kills()

    def reset(self) -> None:
        """End all that runs in it and remove all that it has left, with proof.

        Raises `SandboxLostError` when there is none within `RESET_TIMEOUT` seconds: then nobody may have it again.
        """
        self.sandbox.reset([self.index])

    def __repr__(self) -> str:
        return f"<SandboxSlot {self.index} of {self.name}>"


class Sandbox:
    """A sandbox with a living agent. `start` makes one; whoever has it calls `close`.

    `lost` is called once when it ends otherwise, before any of its requests learns of it, with the error that they
    raise: `MemoryLimitExceededError` when it went down at its own memory limit under its only lease, else
    `SandboxLostError`.
    """

    def __init__(self, backend: Backend, profile: Profile, launched: Launched, io: IOThread) -> None:
        self.name = f"{backend.name}-{next(_numbers)}"
        self.backend = backend.name
        self.profile = profile
        self.slots = tuple(
            SandboxSlot(self, index, setup) for index, setup in enumerate(launched.setup.slots)
        )
        self.secrets = [
            [name.encode(), os.fsencode(value)] for name, value in backend.secrets(profile).items()
        ]
        """Variables for each command, as a request has them."""
        self.is_shared = False
        """More than one lease may have slots of it now: what one does to it is not to be held against another."""
        self.age_before = launched.age_before
        """Seconds for which it had lived when it came to this run."""
        self.uses = launched.uses_before
        """Leases that it has had, those of earlier runs included; whoever leases it counts them."""
        self.lost: Callable[[Exception], None] = lambda _: None
        self._launched = launched
        self._closing = threading.Lock()
        self._survived_oom_kills = 0
        self._answered_oom_kills = 0
        """Those that some answer has told of."""
        self._connection = Connection(launched.stream, io, self._connection_lost, launched.unwrap)

    @classmethod
    def start(cls, backend: Backend, profile: Profile, io: IOThread) -> Sandbox:
        """Start a sandbox and wait for its agent.

        One that an earlier run has parked, and that can still be proven to be clean, is as good as a new one.

        Raises `SandboxStartError` with the cause, `IsolationUnavailableError` when this machine cannot isolate.
        """
        while (parked := backend.take_over(profile)) is not None:
            sandbox = cls(backend, profile, parked, io)
            try:
                if parked.is_set_up:
                    sandbox.reset(range(len(sandbox.slots)))
                else:
                    sandbox._greet()  # which resets them as well
            except (SandboxLostError, SandboxStartError):
                sandbox.close()  # and the next one, or a new one
            except BaseException:
                sandbox.close()
                raise
            else:
                return sandbox
        return cls.of(backend, profile, backend.launch(profile), io)

    @classmethod
    def of(cls, backend: Backend, profile: Profile, launched: Launched, io: IOThread) -> Sandbox:
        """As `start`, of what has just been launched."""
        sandbox = cls(backend, profile, launched, io)
        try:
            sandbox._greet()
            if launched.setup.runs_setup:
                run_setup(sandbox, profile, profile.acquire_timeout_s, is_over=io.over.is_set)
        except BaseException:
            sandbox.close()
            raise
        return sandbox

    def _greet(self) -> None:
        setup = self._launched.setup
        self._connection.send_bare(self._launched.payload)
        try:
            self._connection.hello.result(START_TIMEOUT)
            environment = {**setup.environment, **self.profile.env_vars}
            answer = self.request(
                "configure",
                {
                    "slots": [
                        [
                            slot.workspace.encode(),
                            _variables(slot.environment),
                            [path.encode() for path in slot.directories],
                            slot.user and list(slot.user),
                        ]
                        for slot in setup.slots
                    ],
                    "environment": _variables(environment),
                    "heartbeat_deadline": HEARTBEAT_DEADLINE,
                    "process_limit": setup.process_limit,
                    "sacrifice_children": setup.sacrifice_children,
                    "source": b"" if setup.source is None else setup.source.directory.encode(),
                    "shared": [path.encode() for path in setup.shared],
                    "counts_oom_kills": setup.counts_oom_kills,
                    "filter": setup.filter,
                    "internet_only": setup.internet_only,
                    "comes_first": setup.comes_first,
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
        try:
            if self.can_reset:
                # which makes its directories, and shows early whether it will do after a lease
                self.reset(range(len(self.slots)))
            elif setup.source is not None:
                self._check_done(
                    "filled", self.request("fill", {}, timeout=FILL_TIMEOUT).future, FILL_TIMEOUT
                )
        except SandboxLostError as error:
            raise SandboxStartError(f"{self.name} could not be set up: {error}") from None

    @property
    def can_reset(self) -> bool:
        """It can be made as new in place; otherwise it has to be replaced after a lease."""
        return self._launched.setup.slots[0].user is not None

    def reset(self, slots: Iterable[int]) -> None:
        """Make these slots as new, all at once; see `SandboxSlot.reset`."""
        ended = SandboxLostError(f"{self.name} has been reset: its processes have ended")
        timeout = RESET_TIMEOUT if self._launched.setup.source is None else FILL_TIMEOUT
        under_way = []
        for slot in slots:
            self._connection.abandon_requests(slot, ended)
            under_way.append((slot, self.request("reset", {}, timeout=timeout, slot=slot).future))
        for slot, answer in under_way:
            self._check_done("reset", answer, timeout)
            self._connection.forget_abandoned(slot)

    def _check_done(self, what: str, answer: Future[dict[str, object]], timeout: float) -> None:
        """Wait for what makes a slot as new. Raises `SandboxLostError` when there is no proof that it did."""
        try:
            said = answer.result(timeout + HEARTBEAT_DEADLINE)
        except FutureTimeoutError:
            said = {"message": "no answer"}
        source = self._launched.setup.source
        problem = ""
        if said.get("done") is not True:
            problem = one_line(str(said.get("message", "its worker was killed")))
            if source is not None and "No space left" in problem:
                problem += f"; raise disk of profile {self.profile.name!r} for its workspace_source"
        elif source is not None and source.content not in (None, (said.get("files"), said.get("size"))):
            problem = f"its workspace has {said.get('files')} files of {source.content and source.content[0]}"
        if problem:
            raise SandboxLostError(f"{self.name} could not be {what}: {problem}")

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
        slot: int = 0,
    ) -> Request:
        """See `Connection.request`."""
        return self._connection.request(
            operation,
            arguments,
            timeout=timeout,
            input=input,
            sinks=sinks,
            slot=slot,
            objection=self._object_to_oom_kill if len(self.slots) > 1 else None,
        )

    def _object_to_oom_kill(self, answer: Mapping[str, object]) -> str | None:
        """Whose the processes were does not matter: those of one slot may have been killed for another's."""
        kills = answer.get("oom_kills")
        if not isinstance(kills, int) or kills <= self._answered_oom_kills:
            return None
        self._answered_oom_kills = kills
        if self.is_shared:
            return "the kernel killed processes at its memory limit, perhaps not those of whoever used it up"
        return None

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

    def keep(self, seconds: float, slots: Iterable[SandboxSlot]) -> list[KeptSlot]:
        """Let it live on for `seconds` after this process; return how to enter each slot, and how to end it.

        Raises `SandboxLostError` when it is gone already, NotImplementedError where its backend cannot.
        """
        answer: Future[dict[str, object]] = self.request(
            "keep", {"seconds": float(seconds)}, timeout=10
        ).future
        if "error" in answer.result(10):
            raise SandboxesError(f"{self.name} cannot be kept")
        kept = [self._launched.keep(slot.setup) for slot in slots]
        self._connection.close()
        return kept

    @property
    def is_taken_over(self) -> bool:
        """See `Launched.is_taken_over`."""
        return self._launched.is_taken_over

    def tie(self) -> None:
        """See `Launched.tie`; where that fails, it ends with this process by its heartbeat."""
        with contextlib.suppress(
            SandboxesError, TimeoutError
        ):  # of one that is closed meanwhile, among others
            self._launched.tie(self._tell)

    def park(self) -> None:
        """Let it wait for the next run, all its slots having been reset; from now on it is nobody's here.

        Raises what `Launched.park` does: then it is still to be closed.
        """
        self._launched.park(self._tell, self.uses)
        self._connection.close()

    def _tell(self, operation: str, arguments: Mapping[str, object]) -> None:
        answer = self.request(operation, arguments, timeout=_ANSWER_TIMEOUT).future.result(_ANSWER_TIMEOUT)
        if "error" in answer:
            raise SandboxLostError(
                f"{self.name} refuses to {operation}: {one_line(str(answer.get('message')))}"
            )

    def close(self) -> None:
        """End it and all that runs in it, and wait a few seconds at most until it is gone. May be called twice."""
        self._connection.close()
        with self._closing:
            self._launched.end()

    def _connection_lost(self, reason: str) -> Exception:
        reason = one_line(self._launched.reason_lost(), 500) or reason
        error: Exception = SandboxLostError(f"{self.name} was lost: {reason}")
        killed_since = self._launched.oom_kills() > self._survived_oom_kills
        if not self.is_shared and (killed_since or self._launched.ended_at_memory_limit()):
            error = MemoryLimitExceededError(
                f"{self.name} went down at its memory limit of {self.profile.memory} MB"
            )
        self.lost(error)
        return error

    def __repr__(self) -> str:
        return f"<Sandbox {self.name}: {'alive' if self.alive else 'ended'}>"


def _variables(environment: Mapping[str, str | None]) -> list[list[bytes | None]]:
    return [[name.encode(), None if value is None else value.encode()] for name, value in environment.items()]

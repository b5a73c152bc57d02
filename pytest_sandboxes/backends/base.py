"""What a backend is: a way to start a sandbox and hand over a byte stream to a new agent in it. All else is shared."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytest_sandboxes.profiles import Profile


@dataclass(frozen=True)
class AgentSetup:
    """What an agent is told before anything else."""

    workspace: str
    """Absolute directory in which commands start and from which relative paths count."""
    environment: Mapping[str, str | None]
    """Environment of every command, over the agent's own and under what the profile and each call add; None takes a
    variable away."""
    directories: tuple[str, ...] = ()
    """Directories to make first."""
    process_limit: int = 0
    """Most processes and threads, 0 for no limit of the agent's own."""
    sacrifice_children: bool = False
    """When memory runs out, commands are to be killed before the agent."""
    user: tuple[int, int] | None = None
    """User and group id of commands, under an agent that is root. Such a sandbox can be reset in place."""
    shared: tuple[str, ...] = ()
    """Directories beside the workspace that commands can write to, which a reset in place has to empty."""
    filter: bytes = b""
    """System call filter that the agent puts on itself and all that it starts; empty where its launcher has done so."""
    counts_oom_kills: bool = False
    """The agent can see how often the kernel has killed at the memory limit; otherwise ask `Launched.oom_kills`."""


class Launched(ABC):
    """A sandbox that has just been started, its agent's program not yet sent."""

    stream: socket.socket
    """The byte stream to the interpreter in the sandbox; whoever takes it closes it."""
    payload: bytes
    """What that interpreter expects first."""
    setup: AgentSetup

    def unwrap(self, data: memoryview) -> Iterable[bytes | memoryview]:
        """What the agent has said, out of what came in on the stream.

        Raises `ProtocolError` for what cannot have come from whoever carries it.
        """
        return (data,)

    @abstractmethod
    def end(self) -> None:
        """Kill everything in the sandbox and wait, a few seconds at most, until it is gone. May be called twice."""

    @abstractmethod
    def last_words(self) -> str:
        """What the launcher had to say about its end, empty if nothing."""

    def oom_kills(self) -> int:
        """How many of the sandbox's processes the kernel has killed at its memory limit so far."""
        return 0

    def ended_at_memory_limit(self) -> bool:
        """Whether the kernel has ended the sandbox as a whole at its memory limit; may take a second to find out."""
        return False

    def keep(self) -> tuple[str, str]:
        """Let the sandbox outlive this process; return the commands that enter and that end it.

        Raises NotImplementedError where a backend cannot.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a backend says of a profile that it accepts."""

    unused: tuple[str, ...] = ()
    """Recipes that were set and do not apply on this backend; no promise is broken."""
    dropped: tuple[str, ...] = ()
    """Promises that were asked for and are not kept, with enforcement `best-effort` only."""
    isolated: bool = True
    """Code is kept away from the machine, and from other leases."""


class Backend(ABC):
    """A place where sandboxes run. Its methods may be called from any thread, `launch` from several at once."""

    name: str

    @abstractmethod
    def check(self, profile: Profile) -> Checked:
        """Check that what `profile` asks for can be kept; return what is not, for the header.

        Raises `UnsupportedError` naming profile, field, source, and who can; `ConfigurationError` for a value that can
        never work here.
        """

    @abstractmethod
    def check_machine(self, profile: Profile) -> None:
        """Check that sandboxes of `profile` start here at all; raises `IsolationUnavailableError` with the remedies."""

    @abstractmethod
    def launch(self, profile: Profile) -> Launched:
        """Start a sandbox; returns as soon as there is a stream. Raises `SandboxStartError` with the cause."""

    @abstractmethod
    def close(self) -> None:
        """Let go of whatever the backend itself holds; its sandboxes have been ended before."""


@dataclass(frozen=True)
class BackendOptions:
    """What a backend is made with."""

    isolation: str | None = None
    """`none` gives up isolation for trusted code; otherwise the profile decides."""
    best_effort: bool = False
    """Promises that cannot be kept are dropped, and reported in `Checked.dropped`, instead of refused."""
    escape: str = "; --sandbox-enforcement best-effort goes without"
    """End of the sentence that refuses a promise: how to do without. Empty where there is no such way."""

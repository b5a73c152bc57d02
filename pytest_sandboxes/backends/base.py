"""What a backend is: a way to start a sandbox and hand over a byte stream to a new agent in it. All else is shared."""

from __future__ import annotations

import math
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.secret_values import Secrets

DEFAULT_DISK_MEGABYTES = 512
"""Limit of a slot whose profile sets none, where what it writes is kept in memory."""


@dataclass(frozen=True)
class SlotSetup:
    """What an agent is told of a slot."""

    workspace: str
    """Absolute directory in which commands start and from which relative paths count. Where there are several slots, it
    is in a directory of the slot's own, as are all that code may write to."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Over the sandbox's."""
    directories: tuple[str, ...] = ()
    """Directories to make first."""
    user: tuple[int, int] | None = None
    """User and group id of commands, nobody else's, under an agent that is root. Such a slot can be reset in place."""


@dataclass(frozen=True)
class Source:
    """What is in each fresh workspace."""

    directory: str
    """Absolute, in the sandbox, where code cannot change it."""
    content: tuple[int, int] | None = None
    """How many files and links it has, and their bytes; None for what is known of the image alone."""


@dataclass(frozen=True)
class AgentSetup:
    """What an agent is told before anything else."""

    slots: tuple[SlotSetup, ...]
    """At least one; where there are several, each has a user."""
    environment: Mapping[str, str | None]
    """Environment of every command, over the agent's own and under what the profile and each call add; None takes a
    variable away."""
    process_limit: int = 0
    """Most processes and threads of each slot, 0 for no limit of the agent's own."""
    sacrifice_children: bool = False
    """When memory runs out, commands are to be killed before the agent."""
    shared: tuple[str, ...] = ()
    """Directories beside the workspaces that commands can write to, which a reset in place has to clean."""
    filter: bytes = b""
    """System call filter that the agent puts on itself and all that it starts; empty where its launcher has done so."""
    counts_oom_kills: bool = False
    """The agent can see how often the kernel has killed at the memory limit; otherwise ask `Launched.oom_kills`."""
    internet_only: bool = False
    """There is a network, of which code is to reach the Internet and nothing near; needs CAP_NET_ADMIN, which the agent
    gives up for all."""
    source: Source | None = None
    """None for workspaces that are empty."""
    runs_setup: bool = False
    """The commands of the profile's `setup` are to be run in the only slot, before it is leased."""
    comes_first: bool = False
    """The agent is to have its turns before commands, however many of them compete. With CAP_SYS_NICE, which it gives
    up for all, it goes first; without, commands that have a supervisor go last."""


@dataclass(frozen=True)
class KeptSlot:
    """A slot whose sandbox outlives this process."""

    enter: str
    """Command that enters it."""
    end_by_hand: str
    """Command that ends its sandbox."""
    end: Callable[[], None]
    """Does so from here, within a minute or so; it may have been done before.

    Raises `SandboxesError` or OSError when it may live on.
    """


Tell = Callable[[str, Mapping[str, object]], None]
"""Sends an agent a request, given by operation and arguments, and waits until it has done that.

Raises `SandboxesError` or TimeoutError when it has not.
"""


class Launched(ABC):
    """A sandbox that has just been started, its agent's program not yet sent, or one that has been taken over."""

    stream: socket.socket
    """The byte stream to the interpreter in the sandbox; whoever takes it closes it."""
    payload: bytes
    """What that interpreter expects first."""
    setup: AgentSetup
    is_taken_over = False
    """An earlier run has parked it."""
    is_set_up = False
    """Its agent runs already, as an earlier run has set it up: it is neither sent nor set up again."""
    age_before = 0.0
    """Seconds for which it had lived when it was taken over."""
    uses_before = 0
    """Leases that it had had by then."""
    started: float
    """When it was started, by `time.time`; of those that can be parked."""

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

    def reason_lost(self) -> str:
        """Why the stream has ended, where whoever carries it knows more than that it has; else empty."""
        return ""

    def oom_kills(self) -> int:
        """How many of the sandbox's processes the kernel has killed at its memory limit so far."""
        return 0

    def ended_at_memory_limit(self) -> bool:
        """Whether the kernel has ended the sandbox as a whole at its memory limit; may take a second to find out."""
        return False

    def keep(self, slot: SlotSetup) -> KeptSlot:
        """Let the sandbox outlive this process; return how to enter a slot of it, and how to end it.

        Raises NotImplementedError where a backend cannot.
        """
        raise NotImplementedError

    def tie(self, tell: Tell) -> None:  # noqa: B027 - most have nothing to do
        """See to what is missing for the sandbox to end with this process, in the background, once it can be used.

        That is the fastest of several ways, and never the agent's heartbeat. Raises what `tell` does, and
        `SandboxStartError`.
        """

    def go_on_from(self, started: float, uses: int) -> None:
        """It was started then by an earlier run, which has parked it after so many leases, and is this run's now."""
        self.is_taken_over = True
        self.started = started
        self.age_before = max(0.0, time.time() - started)
        self.uses_before = uses

    def park(self, tell: Tell, uses: int) -> None:
        """Let the sandbox, in which nothing runs and nothing is left, wait for `Backend.take_over` in the next run.

        `uses`: leases that it has had. It ends by itself after `BackendOptions.park_seconds`, or earlier at the age
        that it may have. The stream is closed afterwards. Raises what `tell` does, `SandboxStartError`,
        `ConfigurationError`, and NotImplementedError where a backend cannot.
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


@dataclass(frozen=True)
class StartRate:
    """How fast a backend may be asked for sandboxes, by all pools of a run together."""

    per_second: float
    """Starts that it takes for as long as one likes."""
    burst: int
    """Starts that it takes at once after it has been left alone for a while."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.per_second) and self.per_second > 0 and self.burst >= 1):
            raise ValueError(f"no sandbox would ever be started at {self}")


class Backend(ABC):
    """A place where sandboxes run. Its methods may be called from any thread, `launch` from several at once."""

    name: str

    start_rate: StartRate | None = None
    """The pool calls `launch` no faster than this; None is as fast as it likes. A `RateLimitedError` of `launch` slows
    it down further, whatever stands here."""

    at_once = 6
    """Sandboxes that the pool starts at the same time, and as many that it resets or ends, each on a thread: few where
    that takes this machine's cores, more where it is another that works."""

    @abstractmethod
    def check(self, profile: Profile) -> Checked:
        """Check that what `profile` asks for can be kept; return what is not, for the header.

        Raises `UnsupportedError` naming profile, field, source, and who can; `ConfigurationError` for a value that can
        never work here.
        """

    @abstractmethod
    def check_machine(self, profile: Profile) -> None:
        """Check that sandboxes of `profile` start here at all; raises `IsolationUnavailableError` with the remedies."""

    def slots_per_sandbox(self, profile: Profile) -> int:  # noqa: ARG002 - it is for those that have several
        """How many leases a sandbox of `profile` serves at a time."""
        return 1

    @abstractmethod
    def launch(self, profile: Profile) -> Launched:
        """Start a sandbox; returns as soon as there is a stream.

        Raises `SandboxStartError` with the cause; `RateLimitedError` when there were too many starts of late, which the
        pool makes up for later. Whether something was made may be unknown by then, as when the answer to a request
        got lost. So a backend chooses the name of what it makes before it asks for it, and the next launch
        looks that name up first, and removes or takes over what has it.
        """

    def secrets(self, profile: Profile) -> Mapping[str, str]:  # noqa: ARG002 - not all have secrets of this kind
        """Variables that each command of such a sandbox gets in its own frame: in nothing that anybody can inspect."""
        return {}

    def why_not_parked(self, profile: Profile) -> str:  # noqa: ARG002 - it is for those that can
        """Why sandboxes of `profile` are not parked when a run ends; empty where they are."""
        return f"backend {self.name} has no way to"

    def take_over(self, profile: Profile) -> Launched | None:  # noqa: ARG002 - most have none
        """A sandbox of just this recipe that an earlier run has parked, proven to be that one; None if there is none.

        From now on it is this run's alone, whatever others try. Raises `ConfigurationError` for records that cannot be
        trusted.
        """
        return None

    def remove_parked(self) -> list[str]:
        """Remove all that this user's runs have parked, or left when they were killed; return a line for each.

        Raises `ConfigurationError` and `SandboxStartError`.
        """
        return []

    def notes(self, profile: Profile) -> tuple[str, ...]:  # noqa: ARG002 - most have none
        """What people should know of how sandboxes of `profile` run, after `check_machine`; each said once a run."""
        return ()

    def stop_waiting(self) -> None:  # noqa: B027 - most have nothing to do
        """The run is over: a `launch` that waits for something gives up. Nothing to do for one that never does."""

    @abstractmethod
    def close(self) -> None:
        """Let go of whatever the backend itself holds; its sandboxes have been ended before."""


Progress = Callable[[str], AbstractContextManager[Callable[[str], None]]]
"""Tells whoever waits of something that may take minutes: called with what it is (`pulling image x`), and within the
block with how far it is (`3 of 7 layers`), as often as that changes. Both are one line that a terminal may show."""


@contextmanager
def untold(what: str) -> Iterator[Callable[[str], None]]:  # noqa: ARG001 - see `Progress`
    """The `Progress` of what nobody watches."""
    yield lambda _: None


@dataclass(frozen=True)
class BackendOptions:
    """What a backend is made with."""

    isolation: str | None = None
    """`none` gives up isolation for trusted code; otherwise the profile decides."""
    best_effort: bool = False
    """Promises that cannot be kept are dropped, and reported in `Checked.dropped`, instead of refused."""
    escape: str = "; --sandbox-enforcement best-effort goes without"
    """End of the sentence that refuses a promise: how to do without. Empty where there is no such way."""
    directory: Path = Path()
    """Relative paths in profiles count from here: where the profiles file is, or else the rootdir."""
    root: Path = Path()
    """The rootdir, from which a `workspace_source` counts."""
    secrets: Secrets = field(default_factory=Secrets)
    """Values of secrets by the names that profiles have."""
    park_seconds: float | None = None
    """How long sandboxes wait for the next run when this one ends; None parks none and takes over none."""
    progress: Progress = untold
    """For what `check_machine` does; other methods may run beside tests, and tell nobody."""

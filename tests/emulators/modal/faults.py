"""Faults that a test asks for: which calls they hit, how often, and what they do to them; and lies of the router."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

Kind = Literal[
    "unavailable", "throttled", "expired_token", "lost_request", "lost_reply", "late_reply", "slow"
]
LieAboutOutput = Literal[
    "repeated", "swapped", "skipped", "cut", "giant", "flood", "silent", "trickle", "ended", "restarted"
]
Lie = LieAboutOutput | Literal["swallowed", "elsewhere", "others_token", "over"]
OUTPUT, INPUT, START, STATUS, ACCESS = "output", "input", "start", "status", "access"
"""What there are lies about, in place of a method. Of an output, each piece of standard output counts as a call."""
KINDS = (*get_args(Kind), *(kind for some in get_args(Lie) for kind in get_args(some)))


@dataclass
class Fault:
    """What is to happen to calls."""

    method: str
    """Which of them: a name, or a pattern of names such as `Task*`."""
    kind: Kind | Lie
    """What happens to them.

    `unavailable`, `throttled` and `expired_token` are answers instead of the one asked for, and nothing is done.
    `lost_request` resets the stream before anything is done, `lost_reply` after all is done: the client cannot tell
    them apart. `late_reply` is done at once and answered after `delay` seconds, `slow` is done after them.

    The others are lies: for those about `OUTPUT` see `tests.emulators.modal.lies`. Input that is `swallowed` is taken,
    and reaches nobody. A start that is `elsewhere` is one in another sandbox. Access with `others_token` is to another
    sandbox. A status that is `over` is that of a command which has succeeded.
    """
    times: int | None = 1
    """How many calls are hit; None for all from now on."""
    skip: int = 0
    """How many calls pass before the first that is hit."""
    delay: float = 0.0
    """Seconds that a call waits, before anything else happens to it but for a `late_reply`."""
    retry_after: float | None = None
    """Seconds after which a throttled client is told to come back; None tells it nothing, and it gives up."""
    sandbox: str = ""
    """The id of the sandbox that a call has to be about; empty for any call."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault is called {self.kind!r}; there are {', '.join(KINDS)}")

    def fits(self, method: str, about: str) -> bool:
        """Whether it is meant for calls of this method, about this sandbox."""
        return fnmatchcase(method, self.method) and self.sandbox in {"", about}

"""Faults that a test asks for: which calls they hit, how often, and what they do to them."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

Kind = Literal[
    "unavailable",
    "throttled",
    "expired_token",
    "permission_denied",
    "api_disabled",
    "lost_request",
    "lost_reply",
    "unavailable_reply",
    "slow",
]


@dataclass
class Fault:
    """What is to happen to calls."""

    method: str
    """Which of them: a name such as `batch.jobs.create`, or a pattern of names such as `storage.*`."""
    kind: Kind
    """What happens to them.

    `unavailable` (503), `throttled` (429), `expired_token` (401), `permission_denied` and `api_disabled` (403) are answers
    instead of the one asked for, and nothing is done. `lost_request` cuts the connection before anything is done,
    `lost_reply` after all is done: the client cannot tell them apart. `unavailable_reply` is a 503 after all is done.
    `slow` is answered as ever, after `delay` seconds.
    """
    times: int | None = 1
    """How many calls are hit; None for all from now on."""
    skip: int = 0
    """How many calls pass before the first that is hit."""
    delay: float = 0.0
    """Seconds that a call waits before anything else happens to it."""
    retry_after: float | None = None
    """Seconds after which a throttled client is told to come back."""
    resource: str = "*"
    """A pattern of what the call is about: a job's or task's name, or `bucket/object`."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"no fault is called {self.kind!r}; there are {', '.join(get_args(Kind))}")

    def fits(self, method: str, about: str) -> bool:
        """Whether it is meant for calls of this method, about this resource."""
        return fnmatchcase(method, self.method) and fnmatchcase(about, self.resource)

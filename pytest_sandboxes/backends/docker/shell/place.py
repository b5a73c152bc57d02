"""What jobs need of the container that they run in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pytest_sandboxes.backends.docker.shell.execs import Exec
    from pytest_sandboxes.backends.docker.shell.jobs import Job


ENDED = "its container ended"
"""What a sandbox was lost by."""


class LossError(Exception):
    """The sandbox cannot go on; says why."""


class Place(Protocol):
    """The container that jobs run in."""

    def send(self, kind: int, number: int, payload: bytes = b"") -> None:
        """Tell the connection something."""

    def start_exec(self, argv: list[bytes], environment: Mapping[bytes, bytes], *, stdin: bool) -> Exec:
        """Start an exec as the slot's user."""

    def end_tree(self, job: Job) -> None:
        """End all that a job has started. Raises `LossError` when that cannot be shown to be done."""

    def oom_kills(self) -> int:
        """The kernel's kills at the memory limit so far, 0 if there is none. Raises `LossError` without an answer."""

    def now(self) -> float:
        """Seconds by the clock of deadlines, which stands still while somebody debugs the test."""

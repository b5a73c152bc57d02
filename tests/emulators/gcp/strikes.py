"""What a test wants to happen to tasks while they run."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from tests.emulators.gcp.states import PREEMPTED


@dataclass(frozen=True)
class Strike:
    """Ends an attempt at a task."""

    index: int | None = None
    """Which task; None for any."""
    attempt: int = 0
    """Which attempt at it, from 0."""
    code: int = PREEMPTED
    """The exit code that the service gives: one of `states.CAUSES`."""
    after: float = 0.0
    """Seconds that it runs before."""
    job: str = "*"
    """A pattern of the job's id."""
    takes_machine: bool = True
    """Whether all else on its VM ends with it, as by a preemption."""


class Strikes:
    """Those that are still to come. Belongs to the emulator's loop."""

    def __init__(self) -> None:
        self._planned: list[Strike] = []

    def add(self, strike: Strike) -> None:
        """Plan one more; each strikes once."""
        self._planned.append(strike)

    def take(self, job_id: str, index: int, attempt: int) -> Strike | None:
        """The one that is meant for this attempt."""
        for strike in self._planned:
            if (
                strike.index in {None, index}
                and strike.attempt == attempt
                and fnmatchcase(job_id, strike.job)
            ):
                self._planned.remove(strike)
                return strike
        return None

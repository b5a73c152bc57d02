"""Attempts at a test, and the rule that keeps infrastructure failures and wrong answers apart.

An attempt in which a sandbox was lost counts for nothing, whatever the test made of it: the lease has recorded the
loss, out of the test's reach. The test is tried again on a fresh slot where that is safe. When it is not, or no tries
are left, the test is an error. But code that has lost its sandbox twice, with nobody else in it, has failed: bringing
the sandbox down must never score better than failing. Where several slots share a sandbox, its loss is one for each
lease on it and held against none; those tests are tried again alone, each in a sandbox of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum

from pytest_sandboxes.errors import InfrastructureError
from pytest_sandboxes.lease import Lease, Loss

_GUILTY_LOSSES = 2


class Attempt:
    """What one attempt at a test has leased, used and lost so far."""

    def __init__(self, test: str, *, alone: bool = False) -> None:
        self.test = test
        """Its node id; empty before the first test."""
        self.alone = alone
        """It leases sandboxes that it shares with nobody: an attempt before has lost one."""
        self.failures: list[InfrastructureError] = []
        """Leases that could not be had, and losses of which nothing but an exception tells."""
        self._made: set[Lease] = set()
        self._used: dict[Lease, _Past] = {}

    def made(self, lease: Lease) -> None:
        """A lease has been made."""
        self._made.add(lease)
        self.uses(lease)

    def uses(self, lease: Lease) -> None:
        """A lease, of whichever age, is about to be used."""
        past = self._used.get(lease)
        if past is None:
            past = self._used[lease] = _Past(lease.losses)
        if past.losses:
            present = {port.name for port in lease.ports}
            past.overcome.update(loss for loss in past.losses if loss.sandbox not in present)

    @property
    def leases(self) -> Collection[Lease]:
        """All that were made or used."""
        return self._used.keys()

    @property
    def losses(self) -> list[Loss]:
        """What was lost, or had been lost before and was still missing."""
        return [
            loss for lease, past in self._used.items() for loss in lease.losses if loss not in past.overcome
        ]

    @property
    def has_lost(self) -> bool:
        """The attempt cannot count."""
        return bool(self.failures or self.losses)

    @property
    def is_suspect(self) -> bool:
        """Code of this test, and of no other, had run in a sandbox that was then lost."""
        return any(loss.suspect for lease in self._made for loss in lease.losses)

    @property
    def is_repeatable(self) -> bool:
        """Another attempt would get all its slots afresh.

        It would not where a fixture of wider scope holds the lease: that slot would be as dead as before, or lack what
        others have left in it. Nor is there a point in asking once more for a lease that the pool has failed to get,
        because the pool has tried several times already.
        """
        return not self.failures and all(lease in self._made and lease.released for lease in self._used)


@dataclass
class _Past:
    """What had happened to a lease before an attempt used it first."""

    losses: tuple[Loss, ...]
    overcome: set[Loss] = field(default_factory=set)
    """Those of the losses whose sandbox has been replaced since, by a reset."""


class Verdict(Enum):
    """What an attempt came to."""

    COUNTS = "counts"
    """Nothing was lost: the test's own outcome stands."""
    RETRY = "retry"
    """Something was lost, and the test is to be tried again."""
    ERROR = "error"
    """Something was lost, and that is the end of it."""
    FAILED = "failed"
    """The code has brought down its sandbox once too often."""


@dataclass
class History:
    """All attempts at one test so far."""

    attempts: int = 0
    guilty: int = 0
    """Attempts in which a sandbox was lost that had run nothing but this test's code."""
    records: list[str] = field(default_factory=list)
    """What was lost, one sentence per attempt that lost something."""

    @property
    def has_lost(self) -> bool:
        """Some attempt has lost something."""
        return bool(self.records)


def judge(history: History, attempt: Attempt, *, retries: int, retry_safe: bool | None) -> Verdict:
    """Judge the attempt that has just ended, and add it to `history`.

    `retries` is how often a test may be repeated, `retry_safe` what its marker says about that.
    """
    history.attempts += 1
    if not attempt.has_lost:
        return Verdict.COUNTS
    reasons = [loss.reason for loss in attempt.losses] + [str(failure) for failure in attempt.failures]
    history.records.append(f"attempt {history.attempts}: {'; '.join(reasons)}")
    if attempt.is_suspect:
        history.guilty += 1
        if history.guilty >= _GUILTY_LOSSES:
            return Verdict.FAILED
    repeatable = attempt.is_repeatable and retry_safe is not False
    return Verdict.RETRY if repeatable and history.attempts <= retries else Verdict.ERROR


def explain(history: History, verdict: Verdict) -> str:
    """What a report says of a test that ended in `ERROR` or `FAILED`."""
    if verdict is Verdict.FAILED:
        head = "the code under evaluation brought down its sandbox twice, alone in it, which counts as its failure"
    else:
        head = "infrastructure failed, which says nothing about the code under evaluation"
    return "\n".join([head, *(f"  {record}" for record in history.records)])

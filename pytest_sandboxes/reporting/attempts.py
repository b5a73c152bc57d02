"""Attempts at a test, and the rule that keeps infrastructure failures and wrong answers apart.

An attempt in which a sandbox was lost counts for nothing, whatever the test made of it: the lease has recorded the loss,
out of the test's reach. The test is tried again on a fresh slot where that is safe. When it is not, or no tries are left,
the test is an error. But code that has lost its sandbox twice, with nobody else in it, has failed: bringing the sandbox
down must never score better than failing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum

from pytest_sandboxes.errors import InfrastructureError
from pytest_sandboxes.lease import Lease

_GUILTY_LOSSES = 2


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


def judge(
    history: History,
    touched: Collection[Lease],
    made: Collection[Lease],
    failures: Collection[InfrastructureError],
    *,
    retries: int,
    retry_safe: bool | None,
) -> Verdict:
    """Judge the attempt that has just ended, and add it to `history`.

    `touched` are the leases that the attempt used, `made` those of them that it made; `failures` are leases that it could
    not get. `retries` is how often a test may be repeated. A test that shares a lease with others, by a fixture of wider
    scope, is never repeated: the slot would be as dead as before, or lack what the others left in it.
    """
    history.attempts += 1
    losses = [loss for lease in touched for loss in lease.losses]
    if not losses and not failures:
        return Verdict.COUNTS
    reasons = [loss.reason for loss in losses] + [str(failure) for failure in failures]
    history.records.append(f"attempt {history.attempts}: {'; '.join(reasons)}")
    if any(loss.suspect for loss in losses):
        history.guilty += 1
        if history.guilty >= _GUILTY_LOSSES:
            return Verdict.FAILED
    # a lease that could not be had has been tried again within the pool already
    own = all(lease in made and lease.released for lease in touched)
    repeatable = own and not failures and retry_safe is not False
    return Verdict.RETRY if repeatable and history.attempts <= retries else Verdict.ERROR


def explain(history: History, verdict: Verdict) -> str:
    """What a report says of a test that ended in `ERROR` or `FAILED`."""
    if verdict is Verdict.FAILED:
        head = "the code under evaluation brought down its sandbox twice, alone in it, which counts as its failure"
    else:
        head = "infrastructure failed, which says nothing about the code under evaluation"
    return "\n".join([head, *(f"  {record}" for record in history.records)])

"""The rule of `reporting.attempts`, by table and by property, on leases that are told what has happened to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes.errors import AcquireTimeoutError, SandboxStartError
from pytest_sandboxes.lease import Loss
from pytest_sandboxes.reporting.attempts import Attempt, History, Verdict, explain, judge

if TYPE_CHECKING:
    from pytest_sandboxes.lease import Lease


@dataclass(eq=False)
class FakeLease:
    """What the rule looks at of a lease."""

    names: list[str] = field(default_factory=lambda: ["s1"])
    losses: tuple[Loss, ...] = ()
    released: bool = True

    @property
    def ports(self) -> tuple[SimpleNamespace, ...]:
        return tuple(SimpleNamespace(name=name) for name in self.names)

    def lose(self, *, suspect: bool = False) -> FakeLease:
        self.losses += (Loss(self.names[-1], f"{self.names[-1]} was lost", suspect),)
        return self

    def reset(self) -> None:
        self.names = [f"{self.names[-1]}'"]


def lease(fake: FakeLease) -> Lease:
    return cast("Lease", fake)


def attempt_with(
    *, made: tuple[FakeLease, ...] = (), used: tuple[FakeLease, ...] = (), failed: bool = False
) -> Attempt:
    attempt = Attempt("test_x.py::test_y")
    for each in made:
        attempt.made(lease(each))
    for each in used:
        attempt.uses(lease(each))
    if failed:
        attempt.failures.append(AcquireTimeoutError("nothing was free"))
    return attempt


def lost(*, suspect: bool = False) -> Attempt:
    return attempt_with(made=(FakeLease().lose(suspect=suspect),))


TABLE = {
    "nothing leased": (attempt_with(), Verdict.COUNTS),
    "nothing lost": (attempt_with(made=(FakeLease(),)), Verdict.COUNTS),
    "lost before code ran": (lost(), Verdict.RETRY),
    "lost after code ran": (lost(suspect=True), Verdict.RETRY),
    "one of two lost": (attempt_with(made=(FakeLease(), FakeLease().lose())), Verdict.RETRY),
    "lost, but somebody else's": (attempt_with(used=(FakeLease().lose(),)), Verdict.ERROR),
    "own lost, beside a lease of somebody else": (
        attempt_with(made=(FakeLease().lose(),), used=(FakeLease(),)),
        Verdict.ERROR,
    ),
    "lost, and not given back": (attempt_with(made=(FakeLease(released=False).lose(),)), Verdict.ERROR),
    "no lease to be had": (attempt_with(failed=True), Verdict.ERROR),
    "one lease lost, another not to be had": (
        attempt_with(made=(FakeLease().lose(),), failed=True),
        Verdict.ERROR,
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_first_attempt(case: str) -> None:
    attempt, expected = TABLE[case]
    history = History()
    assert judge(history, attempt, retries=2, retry_safe=None) is expected
    assert history.attempts == 1
    assert bool(history.records) == (expected is not Verdict.COUNTS)


@pytest.mark.parametrize(
    ("retries", "suspects", "verdicts"),
    [
        (2, "ccc", "retry retry error"),
        (2, "gg", "retry failed"),
        (2, "gcg", "retry retry failed"),
        (2, "cgc", "retry retry error"),
        (2, "cgg", "retry retry failed"),
        (1, "gg", "retry failed"),
        (1, "cg", "retry error"),
        (0, "g", "error"),
        (0, "c", "error"),
        (3, "cccc", "retry retry retry error"),
    ],
)
def test_losses_in_a_row(retries: int, suspects: str, verdicts: str) -> None:
    """`g` is a loss that code may be guilty of, `c` one that it is clear of."""
    history = History()
    found = [
        judge(history, lost(suspect=suspect == "g"), retries=retries, retry_safe=None).value
        for suspect in suspects
    ]
    assert found == verdicts.split()
    assert [record.partition(":")[0] for record in history.records] == [
        f"attempt {number + 1}" for number in range(len(suspects))
    ]


@pytest.mark.parametrize(
    ("retry_safe", "expected"), [(None, Verdict.RETRY), (True, Verdict.RETRY), (False, Verdict.ERROR)]
)
def test_retry_safe(retry_safe: bool | None, expected: Verdict) -> None:
    assert judge(History(), lost(), retries=2, retry_safe=retry_safe) is expected


def test_a_test_that_is_not_retry_safe_is_still_found_guilty_when_others_repeat_it() -> None:
    history = History()
    verdicts = [judge(history, lost(suspect=True), retries=0, retry_safe=False) for _ in range(2)]
    assert verdicts == [Verdict.ERROR, Verdict.FAILED]


def test_one_loss_of_a_shared_lease_is_not_two() -> None:
    """However often a test meets it, and whoever's code had run there."""
    history, shared = History(), FakeLease(released=False).lose(suspect=True)
    for _ in range(5):
        verdict = judge(history, attempt_with(used=(shared,)), retries=2, retry_safe=None)
        assert verdict is Verdict.ERROR
    assert history.guilty == 0


def test_a_loss_that_a_reset_has_made_good_is_over() -> None:
    shared = FakeLease(released=False).lose()
    attempt = attempt_with(used=(shared,))
    assert attempt.has_lost
    shared.reset()
    attempt.uses(lease(shared))
    assert not attempt.has_lost
    shared.lose()
    assert [loss.sandbox for loss in attempt.losses] == ["s1'"]


def test_a_loss_in_the_attempt_is_not_made_good_by_a_reset() -> None:
    own = FakeLease()
    attempt = attempt_with(made=(own,))
    own.lose()
    own.reset()
    attempt.uses(lease(own))
    assert attempt.has_lost


def test_a_lease_that_dies_unused_concerns_nobody() -> None:
    shared = FakeLease(released=False)
    attempt = attempt_with(made=(FakeLease(),))
    shared.lose()
    assert judge(History(), attempt, retries=2, retry_safe=None) is Verdict.COUNTS


def test_explanation() -> None:
    history = History()
    judge(history, lost(suspect=True), retries=2, retry_safe=None)
    attempt = attempt_with(made=(FakeLease().lose(suspect=True),))
    attempt.failures.append(SandboxStartError("no room"))
    verdict = judge(history, attempt, retries=2, retry_safe=None)
    assert explain(history, verdict).splitlines() == [
        "the code under evaluation brought down its sandbox twice, alone in it, which counts as its failure",
        "  attempt 1: s1 was lost",
        "  attempt 2: s1 was lost; no room",
    ]
    assert explain(History(), Verdict.ERROR).startswith(
        "infrastructure failed, which says nothing about the code"
    )


leases = st.builds(
    lambda lost, suspect, released: (
        FakeLease(released=released).lose(suspect=suspect) if lost else FakeLease(released=released)
    ),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
attempts = st.builds(
    lambda made, used, failed: attempt_with(made=tuple(made), used=tuple(used), failed=failed),
    st.lists(leases, max_size=2),
    st.lists(leases, max_size=2),
    st.booleans(),
)


@given(st.lists(attempts, min_size=1, max_size=12), st.integers(0, 10), st.sampled_from([None, True, False]))
def test_the_rule(course: list[Attempt], retries: int, retry_safe: bool | None) -> None:
    """A lost attempt never counts, one that lost nothing always does, and there is an end to repetitions."""
    history = History()
    guilty = 0
    for number, attempt in enumerate(course):
        verdict = judge(history, attempt, retries=retries, retry_safe=retry_safe)
        assert history.attempts == number + 1
        assert (verdict is Verdict.COUNTS) == (not attempt.has_lost)
        guilty += attempt.is_suspect
        assert (verdict is Verdict.FAILED) == (attempt.has_lost and attempt.is_suspect and guilty >= 2)
        if verdict is Verdict.RETRY:
            assert number < retries
            assert retry_safe is not False
            assert not attempt.failures
    assert len(history.records) == sum(attempt.has_lost for attempt in course)

from __future__ import annotations

from typing import Any, cast

import pytest

from pytest_sandboxes.errors import (
    AcquireTimeoutError,
    LeaseClosedError,
    MemoryLimitExceededError,
    SandboxLostError,
    SandboxStartError,
)
from pytest_sandboxes.lease import Lease, Loss
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.results import ExecResult
from tests.unit.fake_pool import FakeSandbox


class FakeOwner:
    """Takes leases back, and replaces as it is told to."""

    def __init__(self) -> None:
        self.released: list[Lease] = []
        self.failure: Exception | None = None

    def release(self, lease: Lease) -> None:
        self.released.append(lease)
        lease.unbind()

    def replace(self, lease: Lease, index: int) -> None:
        if self.failure is not None:
            raise self.failure
        lease.rebind(index, port())


def port() -> Any:
    return FakeSandbox(Profile()).slots[0]


def lease(slots: int = 1) -> tuple[Lease, FakeOwner]:
    owner = FakeOwner()
    made = Lease(owner, "test_it", Profile(), 0.25)
    made.bind([port() for _ in range(slots)])
    return made, owner


def test_each_slot_has_a_sandbox_of_its_own() -> None:
    made, _ = lease(3)
    assert [made.behind(index) for index in range(3)] == list(made.ports)
    assert made.count == 3
    assert made.backend == "fake"
    assert made.names == tuple(each.name for each in made.ports)


def test_it_says_what_it_is() -> None:
    made, _ = lease(2)
    names = ", ".join(made.names)
    assert repr(made) == f"<Lease of 2 slots on fake for test_it: {names}>"
    made.release()
    assert repr(made) == f"<Lease of 2 slots on fake for test_it: {names}, given back>"
    assert repr(lease()[0]).startswith("<Lease of 1 slot on fake for test_it: ")


def test_a_slot_of_a_released_lease_says_why_it_is_of_no_use() -> None:
    made, owner = lease()
    with made:
        made.behind(0)
    assert made.released
    assert owner.released == [made]
    with pytest.raises(LeaseClosedError, match="the slot leased by test_it has been given back"):
        made.behind(0)
    with pytest.raises(LeaseClosedError):
        made.reset(0)
    assert (made.ports, made.count) == ((), 1)


def test_sandboxes_are_taken_away_once() -> None:
    made, _ = lease(2)
    sandboxes = list(made.ports)
    assert made.unbind() == sandboxes
    assert made.unbind() == []
    assert made.rebind(0, port()) is None


def test_nothing_is_asked_of_what_the_lease_has_no_more() -> None:
    made, _ = lease()
    asked: list[str] = []
    slot = made.behind(0)
    slot.request = lambda operation, *_, **__: asked.append(operation)  # type: ignore[assignment, method-assign]
    early = made.port(0)
    early.request("exec", {}, timeout=None)
    made.reset(0)
    with pytest.raises(LeaseClosedError, match="the slot leased by test_it has been given back"):
        early.request("exec", {}, timeout=None)
    late = made.port(0)
    made.release()
    with pytest.raises(LeaseClosedError, match="the slot leased by test_it has been given back"):
        late.request("exec", {}, timeout=None)
    assert asked == ["exec"]


def test_whoever_watches_is_told_of_each_use() -> None:
    made, _ = lease()
    uses: list[int] = []
    made.on_use = lambda: uses.append(1)
    made.port(0)
    made.reset(0)
    assert len(uses) == 2


def test_what_was_used() -> None:
    made, _ = lease(2)
    made.count_exec()
    made.count_exec()
    for peak in (5, 9, 7):
        made.count_result(ExecResult(("a",), 0, b"", b"", peak_memory=peak))
    made.reset(1)
    first = made.usage()
    assert (first.execs, first.queue_wait, first.peak_memory, first.resets) == (2, 0.25, 9, 1)
    assert made.usage().sandbox_seconds >= first.sandbox_seconds > 0
    made.release()
    assert made.usage() == made.usage(), "time goes on after the release"


def test_a_reset_puts_another_sandbox_behind_the_slot() -> None:
    made, _ = lease(2)
    first, second = made.ports
    made.reset(1)
    assert made.behind(0) is first
    assert made.behind(1) is not second
    assert made.names == (first.name, second.name, made.behind(1).name)


def test_a_loss_is_recorded_once() -> None:
    made, _ = lease(2)
    first, second = made.ports
    for each in (first, first, second):
        made.record_loss(each, SandboxLostError(f"{each.name} fell"))
    assert made.losses == tuple(
        Loss(each.name, f"{each.name} fell", suspect=False) for each in (first, second)
    )


def test_going_down_at_its_own_limits_is_no_loss() -> None:
    made, _ = lease()
    made.record_loss(made.behind(0), MemoryLimitExceededError("too much"))
    assert made.losses == ()


@pytest.mark.parametrize(
    ("error", "suspect"), [(SandboxLostError("fell"), True), (SandboxStartError("never stood"), False)]
)
def test_only_what_has_run_code_can_have_fallen_by_it(error: Exception, suspect: bool) -> None:
    made, _ = lease()
    made.count_exec()
    made.record_loss(made.behind(0), error)
    assert [loss.suspect for loss in made.losses] == [suspect]


def test_a_reset_that_gets_no_sandbox_is_a_loss_but_nobodys_fault() -> None:
    made, owner = lease()
    made.count_exec()
    owner.failure = AcquireTimeoutError("none left")
    with pytest.raises(AcquireTimeoutError):
        made.reset(0)
    assert made.losses == (Loss(cast("Any", made.behind(0)).name, "none left", suspect=False),)


def test_the_loss_of_a_shared_sandbox_is_held_against_nobody() -> None:
    for is_shared in (False, True):
        made, _ = lease()
        made.count_exec()
        made.behind(0).sandbox.is_shared = is_shared
        made.record_loss(made.behind(0), SandboxLostError("it fell"))
        assert [loss.suspect for loss in made.losses] == [not is_shared]

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_sandboxes.errors import (
    ConfigurationError,
    LeaseClosedError,
    SandboxesError,
    SandboxLostError,
    SandboxStartError,
)
from tests.unit.fake_pool import Clock, FakePool, FakeSandbox, fail, profile, sandboxes_of, waiting
from tests.waiting import DEADLINE, wait_until

# -- leases


def test_a_lease_has_sandboxes_of_its_own_and_uses_them_up(fake: FakePool) -> None:
    first, second = fake.lease("first", slots=2), fake.lease("second")
    assert len({*sandboxes_of(first), *sandboxes_of(second)}) == 3
    assert repr(fake.pool) == "<Pool: 3 leased, 0 idle, 0 starting, 0 waiting>"
    used = sandboxes_of(first)
    with first:
        pass
    assert not set(sandboxes_of(fake.lease("third"))) & {*used, *sandboxes_of(second)}
    wait_until(lambda: all(each.closed for each in used))


def test_nothing_is_started_before_it_is_needed_and_then_ahead_of_need(fake: FakePool) -> None:
    assert fake.starts == 0
    fake.pool.expect("fake", profile(buffer_sandboxes=2), 10)
    wait_until(lambda: fake.pool.statistics().idle == 2)
    warm = list(fake.sandboxes)
    with fake.lease(buffer_sandboxes=2) as lease:
        assert sandboxes_of(lease)[0] in warm
        wait_until(lambda: fake.pool.statistics().idle == 2)


@pytest.mark.parametrize("at_once", [2, 20])
def test_as_many_start_at_once_as_the_backend_can_use(at_once: int) -> None:
    """Where another machine does the work, the time that each takes is not to bound how many there are."""
    fake = FakePool(at_once=at_once)
    go = threading.Event()
    fake.before_start = lambda: go.wait(DEADLINE)
    fake.pool.expect("fake", profile(max_sandboxes=30, buffer_sandboxes=30), 30)
    wait_until(lambda: fake.starts >= at_once)
    assert fake.starts == at_once
    go.set()
    fake.pool.close()


def test_a_lease_at_once_is_what_is_there_or_nothing(fake: FakePool, threads: ThreadPoolExecutor) -> None:
    wish = profile(buffer_sandboxes=1, max_sandboxes=1)
    assert fake.pool.lease_at_once("fake", wish) is None
    assert fake.starts == 0, "something was started for nobody"
    fake.pool.expect("fake", wish, 1)
    wait_until(lambda: fake.pool.statistics().idle == 1)
    lease = fake.pool.lease_at_once("fake", wish, holder="quick")
    assert lease is not None
    assert (lease.holder, lease.count, fake.pool.statistics().leases) == ("quick", 1, 1)
    waits = threads.submit(fake.lease, buffer_sandboxes=1, max_sandboxes=1)
    wait_until(lambda: waiting(fake) == 1)
    lease.release()
    assert fake.pool.lease_at_once("fake", wish) is None, "somebody was overtaken"
    waits.result(DEADLINE).release()
    with pytest.raises(ConfigurationError, match="asks for 2 slots"):
        fake.pool.lease_at_once("fake", wish, slots=2)
    fake.pool.close()
    assert fake.pool.lease_at_once("fake", wish) is None


def test_profiles_that_differ_in_their_leases_only_share_sandboxes(fake: FakePool) -> None:
    fake.pool.expect("fake", profile(buffer_sandboxes=1), 1)
    wait_until(lambda: fake.pool.statistics().idle)
    with fake.lease(buffer_sandboxes=1, execution_timeout_s=5):
        assert fake.starts == 1
    with fake.lease(buffer_sandboxes=1, memory=100):
        assert fake.starts == 2


def test_release_returns_while_sandboxes_take_their_time_to_end(fake: FakePool) -> None:
    go = threading.Event()
    lease = fake.lease()
    sandboxes_of(lease)[0].on_close = lambda: go.wait(DEADLINE)
    lease.release()
    assert not fake.sandboxes[0].closed
    lease.release()
    go.set()


def test_a_lease_waits_for_another_and_that_is_counted(
    fake: FakePool, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    first = fake.lease(max_sandboxes=1)
    second = threads.submit(fake.lease, max_sandboxes=1)
    wait_until(lambda: waiting(fake) == 1)
    assert "1 waiting" in repr(fake.pool)
    clock.now += 5
    first.release()
    second.result(DEADLINE).release()
    statistics = fake.pool.statistics()
    assert (statistics.leases, statistics.sandboxes_started, statistics.waiting) == (2, 2, 0)
    assert (statistics.waits, statistics.wait_seconds) == (1, 5.0)


def test_more_slots_than_there_can_be_are_a_mistake(fake: FakePool) -> None:
    with pytest.raises(ConfigurationError, match=r"test_it asks for 3 slots at once.*max_sandboxes 2"):
        fake.lease("test_it", slots=3, max_sandboxes=2)
    assert fake.starts == 0


def test_leases_of_many_threads_never_share(fake: FakePool, threads: ThreadPoolExecutor) -> None:
    owners: dict[FakeSandbox, int] = {}
    lock = threading.Lock()

    def use(number: int) -> None:
        rolls = random.Random(number)
        for _ in range(20):
            with fake.lease(slots=rolls.randint(1, 3)) as lease:
                for sandbox in sandboxes_of(lease):
                    with lock:
                        assert owners.setdefault(sandbox, number) == number
                assert fake.pool.statistics().leased <= 4

    for done in [threads.submit(use, number) for number in range(16)]:
        done.result(DEADLINE)
    statistics = fake.pool.statistics()
    assert (statistics.leases, statistics.leased, statistics.waiting) == (16 * 20, 0, 0)
    assert len(owners) == statistics.sandboxes_started - statistics.idle


# -- losses


def test_a_loss_is_on_record_of_the_lease_that_had_it(fake: FakePool) -> None:
    first, second = fake.lease("first"), fake.lease("second")
    sandboxes_of(first)[0].die()
    assert [loss.sandbox for loss in first.losses] == [sandboxes_of(first)[0].name]
    assert second.losses == ()
    assert fake.pool.statistics().replacements == 1


def test_an_idle_sandbox_that_is_lost_is_replaced_and_nobody_hears_of_it(fake: FakePool) -> None:
    fake.pool.expect("fake", profile(buffer_sandboxes=1), 1)
    wait_until(lambda: fake.pool.statistics().idle)
    fake.sandboxes[0].die()
    with fake.lease(buffer_sandboxes=1) as lease:
        assert sandboxes_of(lease)[0] is fake.sandboxes[1]
        assert lease.losses == ()
    assert fake.pool.statistics().replacements == 1
    wait_until(lambda: fake.sandboxes[0].closed)


def test_a_sandbox_lost_before_there_was_a_lease_to_tell_is_on_its_record(fake: FakePool) -> None:
    fake.made = lambda sandbox: setattr(sandbox, "alive", False)
    with fake.lease() as lease:
        assert [loss.sandbox for loss in lease.losses] == [sandboxes_of(lease)[0].name]
        assert not lease.losses[0].suspect


def test_a_sandbox_lost_while_it_is_taken_in_counts_once(fake: FakePool) -> None:
    class DiesWhenAsked(FakeSandbox):
        """Is lost the moment that somebody looks, and tells so at once."""

        def __getattribute__(self, name: str) -> Any:
            if name == "alive" and vars(self).pop("alive", False):
                self.lost(SandboxLostError("just now"))
            return name != "alive" and super().__getattribute__(name)

    def turn(sandbox: FakeSandbox) -> None:
        sandbox.__class__ = DiesWhenAsked
        fake.made = lambda _: None

    fake.made = turn
    fake.pool.expect("fake", profile(buffer_sandboxes=1), 1)
    wait_until(lambda: len(fake.sandboxes) == 2 and fake.sandboxes[0].closed)
    assert fake.pool.statistics().replacements == 1


def test_a_lost_sandbox_leaves_its_room_while_a_wider_lease_still_holds_it(
    fake: FakePool, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    fields = {"max_sandboxes": 1, "slots_per_sandbox": 2}
    session, test = fake.lease("session", **fields), fake.lease("test_it", **fields)
    sandboxes_of(test)[0].die()
    test.release()
    retried, neighbour = (fake.lease(holder, **fields) for holder in ("test_it", "test_b"))
    statistics = fake.pool.statistics()
    assert (statistics.leased, statistics.replacements, statistics.sandboxes_started) == (2, 1, 2)
    assert len(session.losses) == 1
    with pytest.raises(SandboxesError, match="was lost"):
        fake.pool.keep(session, 60)
    wish = threads.submit(fake.lease, "test_c", **fields)
    wait_until(lambda: waiting(fake) == 1)
    clock.now += 301
    assert "(held by test_b, test_it)" in str(wish.exception(DEADLINE))
    neighbour.release()
    session.reset(0)
    assert sandboxes_of(session) == sandboxes_of(retried)
    session.release()
    retried.release()
    wait_until(lambda: fake.pool.statistics().idle == 2)


def test_a_poisoned_sandbox_that_is_lost_after_that_is_told_to_those_in_it(fake: FakePool) -> None:
    fields = {"max_sandboxes": 1, "slots_per_sandbox": 2}
    first, second = fake.lease("first", **fields), fake.lease("second", **fields)
    first.ports[0].on_reset = fail(SandboxLostError("not clean"))
    first.release()
    wait_until(lambda: fake.pool.statistics().replacements == 1)
    assert second.losses == ()
    sandboxes_of(second)[0].die()
    assert (len(second.losses), fake.pool.statistics().replacements) == (1, 1)


# -- resets


def test_a_reset_gives_the_slot_a_fresh_sandbox_and_uses_up_the_old(fake: FakePool) -> None:
    with fake.lease(slots=2) as lease:
        first, second = sandboxes_of(lease)
        lease.reset(1)
        assert sandboxes_of(lease)[0] is first
        assert sandboxes_of(lease)[1] not in {first, second}
        wait_until(lambda: second.closed)
        assert (first.closed, fake.pool.statistics().resets, fake.pool.statistics().leased) == (0, 1, 2)
        sandboxes_of(lease)[1].die()
        assert len(lease.losses) == 1


def test_a_reset_goes_before_those_who_wait_for_a_lease(fake: FakePool, threads: ThreadPoolExecutor) -> None:
    lease = fake.lease(max_sandboxes=1)
    next_one = threads.submit(fake.lease, max_sandboxes=1)
    wait_until(lambda: waiting(fake) == 1)
    for _ in range(3):
        lease.reset(0)
        assert not next_one.done()
    lease.release()
    next_one.result(DEADLINE).release()


def test_a_fresh_sandbox_that_is_dead_already_is_on_record(fake: FakePool) -> None:
    with fake.lease() as lease:
        fake.made = lambda sandbox: setattr(sandbox, "alive", False)
        lease.reset(0)
        assert [loss.sandbox for loss in lease.losses] == [sandboxes_of(lease)[0].name]


def test_a_reset_that_fails_leaves_nothing_behind(fake: FakePool) -> None:
    with fake.lease() as lease:
        fake.before_start = fail(SandboxStartError("no more"))
        with pytest.raises(SandboxStartError):
            lease.reset(0)
        assert fake.pool.statistics().leased == 0
        assert len(lease.losses) == 1
    assert fake.pool.statistics().waiting == 0


def test_a_lease_released_during_its_reset_gets_nothing(fake: FakePool, threads: ThreadPoolExecutor) -> None:
    go = threading.Event()
    lease = fake.lease()
    fake.before_start = lambda: go.wait(DEADLINE)
    reset = threads.submit(lease.reset, 0)
    wait_until(lambda: waiting(fake) == 1)
    lease.release()
    go.set()
    reset.result(DEADLINE)
    assert (fake.pool.statistics().leased, sandboxes_of(lease)) == (0, [])


def test_two_resets_of_one_slot_leave_it_one_sandbox(fake: FakePool, threads: ThreadPoolExecutor) -> None:
    lease = fake.lease()
    for done in [threads.submit(lease.reset, 0) for _ in range(8)]:
        done.result(DEADLINE)
    assert fake.pool.statistics().leased == 1
    wait_until(lambda: fake.open == sandboxes_of(lease))


def test_no_reset_after_the_lease(fake: FakePool) -> None:
    lease = fake.lease()
    lease.release()
    for reset in (lambda: lease.reset(0), lambda: fake.pool.replace(lease, 0)):
        with pytest.raises(LeaseClosedError):
            reset()

from __future__ import annotations

import itertools
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from pytest_sandboxes.errors import (
    AcquireTimeoutError,
    ConfigurationError,
    InfrastructureError,
    LeaseClosedError,
    SandboxStartError,
)
from pytest_sandboxes.pool import pool as pool_module
from tests.unit.fake_pool import Clock, FakePool, fail, profile, sandboxes_of, waiting
from tests.waiting import DEADLINE, wait_until

# -- starts that fail


def test_a_start_is_tried_again_before_anybody_hears_of_it(fake: FakePool) -> None:
    attempts = itertools.count(1)

    def start() -> None:
        if next(attempts) < 3:
            raise SandboxStartError("not yet")

    fake.before_start = start
    fake.lease().release()
    assert (fake.starts, fake.pool.statistics().start_failures) == (3, 2)


def test_the_last_failure_is_what_is_raised(fake: FakePool) -> None:
    fake.before_start = fail(
        SandboxStartError("first"), SandboxStartError("second"), SandboxStartError("third")
    )
    with pytest.raises(SandboxStartError, match="third"):
        fake.lease()
    assert (fake.starts, waiting(fake)) == (3, 0)


def test_a_mistake_in_the_configuration_is_not_tried_again(fake: FakePool) -> None:
    fake.before_start = fail(ConfigurationError("wrong"))
    with pytest.raises(ConfigurationError, match="wrong"):
        fake.lease()
    assert fake.starts == 1


def test_whatever_a_backend_raises_is_no_fault_of_the_test(fake: FakePool) -> None:
    fake.before_start = fail(ZeroDivisionError("oops"))
    with pytest.raises(SandboxStartError, match=r"backend fake failed: ZeroDivisionError\('oops'\)"):
        fake.lease()


def test_all_who_wait_hear_of_it(fake: FakePool, threads: ThreadPoolExecutor) -> None:
    go = threading.Event()

    def start() -> None:
        go.wait(DEADLINE)
        raise SandboxStartError("no")

    fake.before_start = start
    leases = [threads.submit(fake.lease) for _ in range(8)]
    wait_until(lambda: waiting(fake) == 8)
    go.set()
    assert all(isinstance(lease.exception(DEADLINE), SandboxStartError) for lease in leases)
    wait_until(
        lambda: fake.pool.statistics().starting == 0
    )  # or failures on their way would be told to the next one
    fake.before_start = lambda: None
    fake.lease().release()


def test_a_pool_that_nobody_waits_for_gives_up_warming_up(fake: FakePool) -> None:
    fake.before_start = fail(SandboxStartError("no"))
    fake.pool.expect("fake", profile(buffer_sandboxes=4), 100)
    wait_until(lambda: fake.pool.statistics().starting == 0)
    assert fake.starts < 20


# -- waiting too long


def test_only_time_without_progress_counts(
    fake: FakePool, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    fields = {"max_sandboxes": 2, "acquire_timeout_s": 300}
    first, other = fake.lease("test_a", **fields), fake.lease("test_b", **fields)
    wish = threads.submit(fake.lease, "test_c", slots=2, **fields)
    wait_until(lambda: waiting(fake) == 1)
    clock.now += 299
    clock.be_looked_at()
    first.release()  # progress: one of the two
    wait_until(lambda: fake.pool.statistics().idle == 1)
    clock.now += 299
    clock.be_looked_at()
    assert not wish.done()
    clock.now += 2
    error = wish.exception(DEADLINE)
    assert isinstance(error, AcquireTimeoutError)
    assert isinstance(error, InfrastructureError)
    assert not isinstance(error, TimeoutError), "a test that expects its own code to time out would pass"
    assert str(error) == (
        "test_c has waited for 2 slot(s) of profile 'default' on backend fake while nothing progressed for 301 s: "
        "1 of at most 2 sandboxes leased (held by test_b), 0 starting; raise max_sandboxes, or acquire_timeout_s"
    )
    assert (waiting(fake), other.losses) == (0, ())
    other.release()


def test_the_message_tells_what_kept_sandboxes_from_starting(
    fake: FakePool, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    go = threading.Event()
    starts = itertools.count(1)

    def start() -> None:
        if next(starts) == 1:
            raise SandboxStartError("the engine is busy")
        go.wait(DEADLINE)

    fake.before_start = start
    wish = threads.submit(fake.lease)
    wait_until(lambda: fake.pool.statistics().start_failures == 1)
    clock.now += 1  # after which it is tried again
    wait_until(lambda: fake.starts == 2)
    clock.now += 301
    with pytest.raises(
        AcquireTimeoutError, match=r"held by nobody.*1 starting; the last start failed: the engine is busy"
    ):
        wish.result(DEADLINE)
    go.set()
    wait_until(lambda: fake.pool.statistics().idle == 1)


def test_no_time_passes_while_somebody_debugs(
    fake: FakePool, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    lease = fake.lease(max_sandboxes=1)
    wish = threads.submit(fake.lease, max_sandboxes=1)
    wait_until(lambda: waiting(fake) == 1)
    fake.pool.pause()
    assert sandboxes_of(lease)[0].paused
    clock.now += 1000
    clock.be_looked_at()
    fake.pool.resume()
    clock.be_looked_at()
    assert not wish.done()
    assert not sandboxes_of(lease)[0].paused
    lease.release()
    wish.result(DEADLINE).release()


def test_what_is_granted_to_somebody_who_has_just_given_up_comes_back(
    fake: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Future[None]):
        """Ctrl-C between the grant and the lease."""

        def exception(self, timeout: float | None = None) -> BaseException | None:
            super().exception(timeout and DEADLINE)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pool_module, "Future", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            fake.lease(max_sandboxes=1)
    assert fake.pool.statistics().leased == 0
    fake.lease(max_sandboxes=1).release()


def test_starts_that_take_their_time_hold_up_no_lease_of_what_is_there(
    fake: FakePool, threads: ThreadPoolExecutor
) -> None:
    first = fake.lease(max_sandboxes=1, slots_per_sandbox=2)
    go = threading.Event()
    fake.before_start = lambda: go.wait(DEADLINE)
    waits = [threads.submit(fake.lease, max_sandboxes=20, memory=100) for _ in range(20)]
    try:
        wait_until(lambda: waiting(fake) == 20)
        for _ in range(3):
            kept, slot = sandboxes_of(first), first.ports[0]
            first.release()
            wait_until(lambda: slot.resets > 0)  # noqa: B023 - it ends within the round
            first = fake.lease(max_sandboxes=1, slots_per_sandbox=2)
            assert sandboxes_of(first) == kept
    finally:
        go.set()
    for each in waits:
        each.result(DEADLINE)


def test_whoever_gives_up_waiting_for_a_reset_has_the_slot_no_more(
    fake: FakePool, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    fields = {"max_sandboxes": 1, "slots_per_sandbox": 2}
    first, neighbour = fake.lease("hasty", **fields), fake.lease("neighbour", **fields)
    (slot,) = first.ports
    port = first.port(0)
    go = threading.Event()
    slot.on_reset = lambda: go.wait(DEADLINE)
    reset = threads.submit(first.reset, 0)
    wait_until(lambda: slot.resets == 1)
    clock.now += 301
    assert isinstance(reset.exception(DEADLINE), AcquireTimeoutError)
    with pytest.raises(LeaseClosedError, match="the slot leased by hasty has been given back"):
        port.request("exec", {}, timeout=None)
    slot.on_reset = lambda: None
    go.set()
    second = fake.lease("patient", **fields)
    assert second.ports == (slot,)
    first.release()
    assert (fake.pool.statistics().leased, slot.resets) == (2, 1)
    second.release()
    neighbour.release()

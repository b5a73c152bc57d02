from __future__ import annotations

import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_sandboxes.errors import (
    AcquireTimeoutError,
    ConfigurationError,
    PoolClosedError,
    SandboxLostError,
    SandboxStartError,
)
from pytest_sandboxes.io_thread import IOThread
from tests.unit.fake_pool import FakePool, profile, sandboxes_of, waiting
from tests.waiting import DEADLINE, wait_until


def test_those_who_wait_learn_of_the_end(fake: FakePool, threads: ThreadPoolExecutor) -> None:
    lease = fake.lease(max_sandboxes=1)
    wishes = [threads.submit(fake.lease, max_sandboxes=1) for _ in range(3)]
    wait_until(lambda: waiting(fake) == 3)
    fake.pool.close()
    for wish in wishes:
        assert isinstance(wish.exception(DEADLINE), PoolClosedError)
    assert not sandboxes_of(lease)[0].alive
    lease.release()
    fake.pool.close()
    with pytest.raises(PoolClosedError):
        fake.lease()
    fake.pool.expect("fake", profile(buffer_sandboxes=1), 5)
    assert fake.starts == 1
    assert repr(fake.pool) == "<Pool: 0 leased, 0 idle, 0 starting, 0 waiting>"


def test_an_end_that_is_interrupted_goes_on() -> None:
    """In the main thread, because only that is interrupted."""
    go = threading.Event()
    fake = FakePool()
    (sandbox,) = sandboxes_of(fake.lease())

    def interrupt() -> None:
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
        go.wait(DEADLINE)

    sandbox.on_close = interrupt
    with pytest.raises(KeyboardInterrupt):
        fake.pool.close()
    assert sandbox.alive
    opener = threading.Timer(0.05, go.set)
    opener.start()
    fake.pool.close()
    assert not sandbox.alive
    opener.join()


def test_a_reset_after_the_end(fake: FakePool) -> None:
    lease = fake.lease()
    fake.pool.close()
    with pytest.raises(PoolClosedError):
        lease.reset(0)


def test_what_is_just_starting_at_the_end_is_closed_and_what_is_in_the_queue_never_starts(
    fake: FakePool, threads: ThreadPoolExecutor
) -> None:
    go = threading.Event()
    fake.before_start = lambda: go.wait(DEADLINE)
    fake.pool.expect("fake", profile(min_sandboxes=20, max_sandboxes=20), 0)
    wait_until(lambda: fake.starts == 6)
    closing = threads.submit(fake.pool.close)
    wait_until(lambda: fake.pool._crew._closing)
    go.set()
    closing.result(DEADLINE)
    assert fake.starts == len(fake.sandboxes) == 6
    assert fake.open == []
    assert fake.pool.statistics().starting == 0


def test_a_sandbox_that_is_lost_at_the_very_end_is_closed_all_the_same(
    fake: FakePool, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.pool.expect("fake", profile(buffer_sandboxes=1), 1)
    wait_until(lambda: fake.pool.statistics().idle == 1)
    carry_out = fake.pool._carry_out
    decided, go = threading.Event(), threading.Event()

    def carry_out_late(*plan: Any) -> None:
        if threading.current_thread().name == "loser":
            decided.set()
            go.wait(DEADLINE)
        carry_out(*plan)

    monkeypatch.setattr(fake.pool, "_carry_out", carry_out_late)
    loser = threading.Thread(target=fake.sandboxes[0].die, name="loser")
    loser.start()
    assert decided.wait(DEADLINE)
    fake.pool.close()
    go.set()
    loser.join(DEADLINE)
    assert fake.open == []


def test_a_kept_sandbox_outlives_its_lease_and_the_pool(fake: FakePool) -> None:
    lease = fake.lease(slots=2)
    names = [each.name for each in sandboxes_of(lease)]
    assert [(each.enter, each.end_by_hand) for each in fake.pool.keep(lease, 60)] == [
        (f"enter {name} within 60 s", f"end {name}") for name in names
    ]
    lease.release()
    fake.lease(slots=4).release()  # they take no places
    fake.pool.close()
    kept = fake.sandboxes[:2]
    assert [each.closed for each in kept] == [0, 0]
    for each in kept:
        each.close()


def use_at_random(fake: FakePool, number: int) -> set[str]:
    """Lease, reset and give up until the pool is closed; return what happened."""
    rolls = random.Random(number)
    seen = set()
    while "PoolClosedError" not in seen:
        impatience = rolls.choice([300, 0.001])
        try:
            with fake.lease(slots=rolls.randint(1, 3), acquire_timeout_s=impatience) as lease:
                for _ in range(rolls.randint(0, 2)):
                    lease.reset(rolls.randrange(lease.count))
                closed = any(sandbox.closed and not sandbox.died for sandbox in sandboxes_of(lease))
                assert fake.pool._closed or not closed
            seen.add("leased")
        except (AcquireTimeoutError, PoolClosedError, SandboxLostError) as error:
            seen.add(type(error).__name__)
    return seen


def lose_at_random(fake: FakePool) -> None:
    """Have sandboxes end by themselves until the pool is closed."""
    rolls = random.Random(-1)
    while not fake.pool._closed:
        for each in fake.sandboxes[-6:]:
            if each.alive and rolls.random() < 0.2:
                each.die()
        threading.Event().wait(0.001)


def test_anything_may_happen_at_any_time(fake: FakePool, threads: ThreadPoolExecutor) -> None:
    fake.pool._stock._start_attempts = 1000
    rolls = random.Random(0)

    def start() -> None:
        if rolls.random() < 0.02:
            raise SandboxStartError("bad luck")

    fake.before_start = start
    losses = threads.submit(lose_at_random, fake)
    users = [threads.submit(use_at_random, fake, number) for number in range(12)]
    wait_until(lambda: fake.pool.statistics().leases > 500)
    fake.pool.close()
    losses.result(DEADLINE)
    assert set().union(*(user.result(DEADLINE) for user in users)) >= {"leased", "PoolClosedError"}
    assert fake.pool.statistics().replacements
    assert repr(fake.pool) == "<Pool: 0 leased, 0 idle, 0 starting, 0 waiting>"


def test_a_process_that_may_start_no_thread(fake: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refuse)
    with pytest.raises(ConfigurationError, match="cannot start a thread: .*ulimit"):
        fake.pool.expect("fake", profile(buffer_sandboxes=1), 1)
    monkeypatch.undo()


def test_an_io_thread_that_may_not_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    io = IOThread()
    with monkeypatch.context() as patched:
        patched.setattr("threading.Thread.start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            io.loop()
    assert not io.loop().is_closed()
    io.close()

"""A cap on the sandboxes of all profiles, with sandboxes that are not there."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_sandboxes.errors import AcquireTimeoutError, ConfigurationError, SandboxStartError
from tests.unit.fake_pool import Clock, FakePool, FakeSandbox, profile, waiting
from tests.waiting import DEADLINE, wait_until

NewFake = Callable[..., FakePool]


class Existing:
    """Counts sandboxes from the moment in which their start begins until they are gone."""

    def __init__(self, fake: FakePool) -> None:
        self._lock = threading.Lock()
        self.now = 0
        self.most = 0
        fake.before_start = self._begin
        fake.made = self._made

    def _begin(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def _made(self, sandbox: FakeSandbox) -> None:
        sandbox.on_close = self._end

    def _end(self) -> None:
        threading.Event().wait(0.001)  # it takes a while to be gone
        with self._lock:
            self.now -= 1


@pytest.mark.parametrize("slots", [1, 3])
def test_five_hundred_leases_of_fifty_profiles(new_fake: NewFake, slots: int) -> None:
    fake = new_fake(max_sandboxes=4)
    existing = Existing(fake)
    profiles = [
        profile(
            memory=100 + number,
            slots_per_sandbox=slots,
            buffer_sandboxes=number % 3,
            min_sandboxes=number % 2,
        )
        for number in range(50)
    ]
    for each in profiles:
        fake.pool.expect("fake", each, 10)
    owners: dict[Any, int] = {}
    lock = threading.Lock()

    def use(number: int) -> None:
        rolls = random.Random(number)
        with fake.pool.lease(
            "fake", profiles[number % 50], slots=rolls.randint(1, 3), holder=f"test_{number}"
        ) as lease:
            with lock:
                assert not [port for port in lease.ports if port in owners]
                owners.update(dict.fromkeys(lease.ports, number))
            if rolls.random() < 0.2:
                with lock:
                    owners.pop(lease.ports[0])
                lease.reset(0)
                with lock:
                    owners[lease.ports[0]] = number
            ports = lease.ports
            with lock:
                for port in ports:
                    assert owners.pop(port) == number

    with ThreadPoolExecutor(16) as threads:
        for done in [threads.submit(use, number) for number in range(500)]:
            done.result(DEADLINE)
    assert existing.most == 4
    assert fake.pool.statistics().leases == 500
    fake.pool.close()
    assert existing.now == 0


def test_more_sandboxes_than_the_cap_are_a_mistake(new_fake: NewFake) -> None:
    fake = new_fake(max_sandboxes=2)
    with pytest.raises(ConfigurationError) as caught:
        fake.lease("test_it", slots=3)
    assert str(caught.value) == (
        "--sandbox-max-sandboxes is 2, but test_it asks for 3 slots at once, which takes 3 sandboxes of profile "
        "'default': raise it"
    )
    fake.lease("test_it", slots=3, slots_per_sandbox=2).release()


def test_the_message_of_who_has_waited_for_long_names_whoever_holds_the_room(
    new_fake: NewFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = new_fake(max_sandboxes=1)
    clock = Clock(monkeypatch)
    lease = fake.lease("test_a")
    with ThreadPoolExecutor(1) as threads:
        wish = threads.submit(fake.lease, "test_b", memory=100)
        wait_until(lambda: waiting(fake) == 1)
        clock.now += 301
        error = wish.exception(DEADLINE)
    assert isinstance(error, AcquireTimeoutError)
    assert str(error) == (
        "test_b has waited for 1 slot(s) of profile 'default' on backend fake while nothing progressed for 301 s: 1 of "
        "at most 1 sandboxes of all profiles leased (held by test_a), 0 starting; raise max_sandboxes or "
        "--sandbox-max-sandboxes, or acquire_timeout_s"
    )
    lease.release()


def test_progress_elsewhere_is_progress(new_fake: NewFake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = new_fake(max_sandboxes=2)
    clock = Clock(monkeypatch)
    first, second = fake.lease("test_a"), fake.lease("test_b")
    with ThreadPoolExecutor(1) as threads:
        wish = threads.submit(fake.lease, "test_c", slots=2, memory=100)
        wait_until(lambda: waiting(fake) == 1)
        clock.now += 299
        first.release()
        wait_until(lambda: fake.sandboxes[0].closed)
        clock.now += 299
        clock.be_looked_at()
        assert not wish.done()
        second.release()
        wish.result(DEADLINE).release()


def test_a_start_that_fails_leaves_its_room_to_others(new_fake: NewFake) -> None:
    fake = new_fake(max_sandboxes=1, start_attempts=1)

    def start() -> None:
        if fake.starts == 1:
            raise SandboxStartError("no")

    fake.before_start = start
    with pytest.raises(SandboxStartError, match="no"):
        fake.lease()
    fake.lease(memory=100).release()


def test_an_end_that_fails_leaves_its_room_to_others(new_fake: NewFake) -> None:
    fake = new_fake(max_sandboxes=1)
    lease = fake.lease()
    sandbox = lease.ports[0].sandbox

    def fail() -> None:
        sandbox.on_close = lambda: None
        sandbox.closed += 1
        raise OSError("it does not end")

    sandbox.on_close = fail
    lease.release()
    fake.lease(memory=100).release()

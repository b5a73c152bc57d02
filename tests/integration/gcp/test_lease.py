"""The run's sign of life: it goes on where a connection does not, and comes to its end but once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any, cast

import pytest

from pytest_sandboxes.batch.runners.base import Order
from pytest_sandboxes.batch.runners.gcp import section
from pytest_sandboxes.batch.runners.gcp.lease import Lease
from pytest_sandboxes.batch.runners.gcp.naming import new_run
from pytest_sandboxes.batch.runners.gcp.objects import Objects
from pytest_sandboxes.batch.runners.gcp.runner import GcpRunner
from pytest_sandboxes.batch.runners.gcp.service import Service
from pytest_sandboxes.errors import BackendUnavailableError
from pytest_sandboxes.profiles.profile import Profile
from tests.integration.gcp.conftest import GcpProject
from tests.waiting import wait_until

TTL = 12.0
Begin = Callable[[], Lease]


@pytest.fixture
def service(here: GcpProject) -> Iterator[Service]:
    profile = Profile().override({"gcp": {"bucket": here.bucket, "controller_timeout": TTL}}, "test")
    with closing(Service(section.read(profile))) as found:
        yield found


@pytest.fixture
def begin(here: GcpProject, service: Service) -> Iterator[Begin]:
    """Begins a lease, which ends with the test."""
    with ExitStack() as stack:

        def one() -> Lease:
            lease = Lease(Objects(service, new_run()), TTL)
            lease.begin()
            stack.callback(lease.end)
            stack.callback(here.control.clear_faults)
            return lease

        yield one


def test_a_write_that_hangs_is_given_up_before_shards_miss_it(here: GcpProject, begin: Begin) -> None:
    lease = begin()
    first, begun = lease.now, time.monotonic()
    here.control.inject("storage.objects.insert", "slow", resource="*lease.json", delay=3 * TTL)
    wait_until(lambda: lease.now > first)
    assert time.monotonic() - begun < TTL
    assert len(here.hits()) == 1


def test_a_write_that_is_carried_out_and_not_answered_is_its_own(here: GcpProject, begin: Begin) -> None:
    here.control.inject("storage.objects.insert", "lost_reply", resource="*lease.json", times=2)
    lease = begin()
    first = lease.now
    lease.stop(0)
    wait_until(lambda: lease.now > first)
    assert len(here.hits()) == 2
    lease.check()


def test_what_was_removed_does_not_come_back(here: GcpProject, begin: Begin) -> None:
    lease = begin()
    here.remove(here.objects()[0])
    lease.stop(0)
    wait_until(lambda: lease._is_lost)
    with pytest.raises(
        BackendUnavailableError, match=r"/lease\.json is gone, and this process has not written it for"
    ):
        lease.check()
    lease.stop(1)
    assert here.objects() == []


def test_after_a_sleep_nothing_is_judged_before_it_is_written_again(
    here: GcpProject, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = GcpRunner(service, cast("Any", None), 1, print)
    lease = runner._lease
    lease.begin()
    here.control.inject("storage.objects.insert", "unavailable", resource="*lease.json", times=None)
    runner.start(Order("shard 1", (), {}, {}))
    before = time.time
    monkeypatch.setattr("time.time", lambda: before() + TTL)
    try:
        assert runner.wait(0) == []  # nor anything sent, of which there is nothing here
        assert lease.is_late
        here.control.clear_faults()
        wait_until(lambda: not lease.is_late)
        lease.check()
    finally:
        here.control.clear_faults()
        lease.end()

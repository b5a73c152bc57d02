"""A worker and the controller in one process, over a channel that is no pipe, to a real agent in a real sandbox."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_sandboxes import errors
from pytest_sandboxes.agent import wire
from pytest_sandboxes.backends.base import BackendOptions
from pytest_sandboxes.backends.local import LocalBackend
from pytest_sandboxes.lease import Lease
from pytest_sandboxes.profiles.catalog import Profiles
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.settings.settings import Settings
from pytest_sandboxes.sharing import messages
from pytest_sandboxes.sharing.desk import Desk
from pytest_sandboxes.sharing.office import Office
from pytest_sandboxes.sharing.shared_pool import SharedPool, SharedSupply
from pytest_sandboxes.slot import Slot
from pytest_sandboxes.supply import Supply, Wish
from tests.processes import carrying
from tests.unit.fake_channel import FakeChannel, channel
from tests.waiting import wait_until

SECONDS = f"{random.SystemRandom().randrange(10**6, 10**7)}"  # which marks a process
PROFILE = Profile().override({"buffer_sandboxes": 0, "max_sandboxes": 2, "isolation": "none"}, "test")


@dataclass
class Worker:
    """A worker and its desk."""

    supply: SharedSupply
    desk: Desk
    here: FakeChannel
    there: FakeChannel

    @property
    def pool(self) -> SharedPool:
        """Its view of the pool."""
        return self.supply.pool

    def lease(self, **arguments: Any) -> Slot:
        """A slot of a lease."""
        return Slot(self.pool.lease("local", PROFILE, **arguments))


class Controller:
    """An office and whoever has a desk there."""

    def __init__(self) -> None:
        options = BackendOptions(isolation="none")
        self.supply = Supply(
            {"local": LocalBackend(options)}, Settings(isolation="none"), Profiles(), Path.cwd()
        )
        self.office = Office(self.supply, everyone_runs_all=False, runs_after_crash=1)
        self.workers: list[Worker] = []

    def worker(self) -> Worker:
        """Another worker."""
        here, there = channel()
        desk = self.office.open_desk(f"gw{len(self.workers)}", there, None)
        there.setcallback(desk.received, None)
        worker = Worker(SharedSupply(here, Profiles()), desk, here, there)
        self.workers.append(worker)
        return worker

    @property
    def leased(self) -> int:
        """Slots leased now."""
        return self.supply.pool.statistics().leased

    def close(self) -> None:
        """End it all; no thread may be left."""
        for worker in self.workers:
            worker.supply.close()
        self.office.close()
        self.supply.close()
        self.office.join()
        for worker in self.workers:
            worker.here.join()
            worker.there.join()


@pytest.fixture
def controller() -> Iterator[Controller]:
    others = set(threading.enumerate())
    made = Controller()
    yield made
    made.close()
    left = [each for each in set(threading.enumerate()) - others if each.name.startswith("sandboxes-")]
    for each in left:  # an outbox ends a moment after it was told to
        each.join(60)
    assert not [each for each in left if each.is_alive()]


@pytest.fixture
def worker(controller: Controller) -> Worker:
    return controller.worker()


def test_a_slot_works_as_ever(worker: Worker, controller: Controller) -> None:
    slot = worker.lease(holder="me")
    slot.write_text("name", "x" * 1_000_000)
    assert slot.exec("cat", "name").stdout == "x" * 1_000_000
    assert slot.exec("cat", input="y" * 1_000_000).stdout == "y" * 1_000_000
    with slot.popen("cat") as process:
        process.write("one\n")
        assert process.stdout.readline(timeout=60) == "one\n"
        process.close_stdin()
        assert process.wait(60) == 0
    assert controller.leased == 1
    slot._lease.release()
    wait_until(lambda: not controller.leased)


def test_an_unread_stream_stops_its_process_and_nothing_is_piled_up(worker: Worker) -> None:
    slot = worker.lease()
    process = slot.popen("yes")
    assert slot.exec("echo", "still here").stdout == "still here\n"
    wait_until(lambda: _received(worker) >= wire.WINDOW)
    for _ in range(20):
        slot.exec("true")
    assert _received(worker) <= wire.WINDOW + 100_000
    process.kill()
    assert process.wait(60) == -9


def _received(worker: Worker) -> int:
    return sum(len(item) for item in worker.there.sent if isinstance(item, bytes))


def test_a_loss_is_on_record_before_its_error_comes(worker: Worker, controller: Controller) -> None:
    slot = worker.lease()
    slot.exec("true")
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(slot.sh, "sleep 1000")
        wait_until(lambda: _requests(worker))
        (sandbox,) = controller.supply.pool._stock.sandboxes
        sandbox.lose("a test wants it so")
        with pytest.raises(errors.SandboxLostError) as caught:
            running.result(60)
    (loss,) = slot._lease.losses
    assert loss.reason == str(caught.value) == f"{sandbox.name} was lost: a test wants it so"
    assert loss.suspect
    with pytest.raises(errors.SandboxLostError, match="a test wants it so"):
        slot.exec("true")


def _requests(worker: Worker) -> int:
    return len(worker.desk._relays)


def test_a_sandbox_given_up_by_the_worker_is_lost_at_once(worker: Worker) -> None:
    slot = worker.lease()
    slot._port.lose("it lied")
    (loss,) = slot._lease.losses
    assert loss.reason.endswith("was lost: it lied")
    assert not loss.suspect


def test_the_codes_own_memory_is_no_loss(worker: Worker, controller: Controller) -> None:
    slot = worker.lease()
    (sandbox,) = controller.supply.pool._stock.sandboxes
    sandbox._connection._on_lost = lambda _: errors.MemoryLimitExceededError("too much")
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(slot.sh, "sleep 1000")
        wait_until(lambda: _requests(worker))
        sandbox.lose("")
        with pytest.raises(errors.MemoryLimitExceededError, match="too much"):
            running.result(60)
    assert slot._lease.losses == ()


def test_kills_at_the_memory_limit_are_counted_for_the_command_that_saw_them(
    worker: Worker, controller: Controller
) -> None:
    slot = worker.lease()
    (sandbox,) = controller.supply.pool._stock.sandboxes
    counts = iter([3, 4, 4, 4])
    sandbox._launched.oom_kills = lambda: next(counts)  # type: ignore[method-assign]
    assert slot.exec("true").oom_killed
    assert not slot.exec("true").oom_killed


def test_never_more_than_there_may_be_for_all_together(controller: Controller) -> None:
    one, other = controller.worker(), controller.worker()
    held = [one.lease(), other.lease()]
    with ThreadPoolExecutor(1) as threads:
        third = threads.submit(one.lease)
        wait_until(lambda: controller.supply.pool.statistics().waiting == 1)
        assert controller.leased == 2
        held[1]._lease.release()
        assert third.result(60).exec("true").success
    assert controller.supply.pool.statistics().leased == 2


def test_the_end_of_a_channel_gives_back_all_that_was_leased(controller: Controller) -> None:
    one, other = controller.worker(), controller.worker()
    slot = one.lease(slots=2, holder="test_x")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(other.lease)
        wait_until(lambda: controller.supply.pool.statistics().waiting == 1)
        one.there.close()
        assert waiting.result(60).exec("true").success
    assert one.desk.holders_at_end == {"test_x"}
    wait_until(lambda: len(slot._lease.losses) == 2)  # the end of a channel comes on a thread of its own
    assert {loss.reason.partition(": ")[2] for loss in slot._lease.losses} == {
        "the controller has gone away, or cut this worker off"
    }
    with pytest.raises(errors.InfrastructureError):
        one.lease()


def test_a_lease_that_came_too_late_goes_back(controller: Controller) -> None:
    one, other = controller.worker(), controller.worker()
    held = other.lease(slots=2)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(one.lease)
        wait_until(lambda: controller.supply.pool.statistics().waiting == 1)
        one.here.close()
        with pytest.raises(errors.PoolClosedError):
            waiting.result(60)
    held._lease.release()
    wait_until(lambda: not controller.leased and not controller.supply.pool.statistics().waiting)


def test_reset(worker: Worker) -> None:
    slot = worker.lease()
    slot.write_text("file", "x")
    name = slot.name
    slot.reset()
    assert slot.name != name
    assert list(slot.list_files()) == []
    slot._lease.release()
    with pytest.raises(errors.LeaseClosedError):
        slot.reset()


def test_a_reset_that_a_release_overtakes_is_answered(
    worker: Worker, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = worker.lease()
    pool, behind = controller.supply.pool, Lease.behind
    replace = pool.replace

    def overtaken(lease: Lease, index: int) -> Any:
        found = behind(lease, index)
        slot._lease.release()
        wait_until(lambda: not controller.leased)
        return found

    def replace_then_overtake(lease: Lease, index: int) -> None:
        replace(lease, index)
        monkeypatch.setattr(lease, "behind", lambda index: overtaken(lease, index))

    monkeypatch.setattr(pool, "replace", replace_then_overtake)
    with pytest.raises(errors.LeaseClosedError):
        slot.reset()


@pytest.mark.parametrize(
    "item",
    [
        "text",
        b"short",
        wire.frame(99, 1),
        wire.frame(wire.REQUEST, 1, b"?"),
        messages.message(wire.REQUEST, 1, [1]),
        messages.message(messages.CALL, 1, {"what": "nonsense"}),
        messages.message(messages.CALL, 1, {"what": "lease", "backend": "none", "profile": 1}),
        messages.message(messages.CALL, 1, {"what": "lease", "backend": "local", "profile": 77}),
        messages.message(messages.TELL, 1, {"what": "profile", "number": 1, "profile": b"{}}"}),
        messages.message(messages.TELL, 1, {}),
    ],
)
def test_a_malformed_message_ends_that_worker_and_no_other(
    controller: Controller, caplog: pytest.LogCaptureFixture, item: object
) -> None:
    bad, good = controller.worker(), controller.worker()
    slot = bad.lease(slots=2)
    bad.here.send(item)
    if item == wire.frame(99, 1):  # of a request that has ended meanwhile, for all that can be known
        assert slot._lease.released is False
        return
    assert good.lease(slots=2) is not None
    wait_until(lambda: caplog.records)
    assert caplog.messages[0].startswith("worker gw0 gets no more sandboxes: it sent what it must not")


def test_more_credit_than_has_come_ends_the_worker(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    process = worker.lease().popen("cat")
    (number,) = worker.desk._relays
    worker.here.send(wire.frame(wire.CREDIT, number, bytes((wire.STDOUT,)) + (1).to_bytes(4, "big")))
    with pytest.raises(errors.SandboxLostError):
        process.wait(60)
    wait_until(lambda: "more output granted" in caplog.text)


def test_announcements_count_once_for_all(controller: Controller) -> None:
    expected: list[int] = []
    pool = controller.supply.pool
    pool.expect = lambda *arguments: expected.append(arguments[2])  # type: ignore[method-assign]
    for leases in (5, 5, 7):
        each = controller.worker()
        each.supply.prepare([Wish("local", PROFILE, leases)], {})
        wait_until(lambda each=each: each.desk.announcement.wishes)  # type: ignore[misc]
        controller.office.prepare(each.desk.announcement)
    assert expected == [5, 2]


def test_crashes_are_counted_against_who_held_a_lease(controller: Controller) -> None:
    office = controller.office
    for crashes in (1, 2):
        each = controller.worker()
        each.lease(holder="test_x")
        office.crashed(each.desk)
        assert office.count_crash(each.desk, "test_x")
        assert office.may_run_again("test_x") is (crashes == 1)
        assert not office.count_crash(each.desk, "test_y")
    with pytest.raises(errors.InfrastructureError, match="workers crashed 2 times while they ran test_x"):
        controller.worker().lease(holder="test_x")


def test_statistics_are_those_of_the_pool(worker: Worker, controller: Controller) -> None:
    worker.lease()
    assert worker.pool.statistics().leased == controller.leased == 1
    worker.pool.count_infra_retry()
    wait_until(lambda: controller.supply.pool.statistics().infra_retries == 1)


def test_kept_slots_are_the_controllers(worker: Worker, controller: Controller) -> None:
    slot = worker.lease()
    slot.popen("sleep", SECONDS)
    worker.supply.keep(slot._lease, "test_x\udcff")
    (said,) = controller.supply.kept
    name, enter, _ = said.splitlines()
    assert name == "test_x\\udcff"
    workspace = Path(enter.removeprefix("  enter: cd "))
    slot._lease.release()
    controller.supply.pool.close()
    assert workspace.is_dir()
    wait_until(lambda: carrying(SECONDS, "cmdline"))  # what has just become a program has no command line yet
    worker.supply.end_kept("test_x\udcff")
    assert controller.supply.kept == []
    assert not workspace.parent.exists()
    wait_until(lambda: not carrying(SECONDS, "cmdline"))

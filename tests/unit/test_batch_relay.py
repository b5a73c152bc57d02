"""Shards that are lost: each test is reported once, whatever becomes of its shards, and the run ends."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes.batch.events import BrokenEvent, Event, Finished, Hello, Record, Report, Started, encode
from pytest_sandboxes.batch.relay import Progress, Relay, status_words
from pytest_sandboxes.batch.runners.base import Arrived, Begun, Ended, Happened, Order, Runner

PASSED = [
    Report(when="setup", outcome="passed"),
    Report(when="call", outcome="passed"),
    Report(when="teardown", outcome="passed"),
]
FOREVER = 10**6


@dataclass(frozen=True)
class Item:
    """As much of a test as the relay looks at."""

    nodeid: str


@dataclass
class Told:
    """In place of pytest's hooks: what would have been reported."""

    passed: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)

    def test(self, item: Item, record: Record) -> None:
        if record.reports[1].longrepr == "unreadable":
            raise BrokenEvent("a report that pytest cannot read")
        self.passed.append(item.nodeid)

    def error(self, item: Item, reason: str) -> None:
        assert item.nodeid not in self.errors
        self.errors[item.nodeid] = reason


class Fate(Runner):
    """Runs nothing: what shards say comes from what each test does to its shard."""

    name = "fate"
    seconds_worthwhile = 1.0
    width = 2

    def __init__(self, crashes: dict[str, int], stillborn: int = 0, forgers: Sequence[str] = ()) -> None:
        """`crashes`: how often a test takes its shard down. `stillborn`: shards that do not come to any test."""
        self.crashes = Counter(crashes)
        self.stillborn = stillborn
        self.forgers = forgers
        self.started: list[list[str]] = []
        self.closed = 0
        self._happens: deque[Happened] = deque()

    def start(self, order: Order) -> None:
        nodeids = order.spec["nodeids"]
        self.started.append(nodeids)
        assert len(self.started) < 1000
        status = 0
        self._happens.append(Begun(order.name))
        for event in self._events(nodeids):
            if event is None:
                status = 137
            else:
                self._happens.append(Arrived(order.name, encode(event)))
        self._happens.append(Ended(order.name, status, "its last words\x1b"))

    def _events(self, nodeids: list[str]) -> Iterator[Event | None]:
        if self.stillborn:
            self.stillborn -= 1
            yield None
            return
        yield Hello(versions={}, digest="")
        for position, nodeid in enumerate(nodeids):
            yield Started(test=position)
            if self.crashes[nodeid]:
                self.crashes[nodeid] -= 1
                yield None
                return
            if nodeid in self.forgers:
                yield Record(test=len(nodeids), attempts=[PASSED])
            yield Record(test=position, attempts=[PASSED])
        if self.crashes["the end"]:
            yield None
            return
        yield Finished(stop=None, returncode=0)

    def wait(self, timeout: float) -> list[Happened]:
        assert self._happens, "the relay waits for nothing"
        return [self._happens.popleft()]

    def stop(self, name: str) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


def order(name: str, items: Sequence[Any]) -> Order:
    return Order(name, (), {}, {"nodeids": [item.nodeid for item in items]})


def run(runner: Fate, parts: Sequence[Sequence[str]], retries: int = 1) -> Told:
    told = Told()
    relay = Relay(
        runner,
        cast("Any", told),
        order,
        expected={},
        collected=[],
        retries=retries,
    )
    relay.run(cast("Any", [[Item(nodeid) for nodeid in part] for part in parts]))
    assert runner.closed
    return told


def test_nothing_is_lost_without_losses() -> None:
    runner = Fate({})
    assert run(runner, [["a", "b"], ["c"], ["d"]]).passed == ["a", "b", "c", "d"]
    assert len(runner.started) == 3


def test_how_far_a_run_is() -> None:
    begun, later = Progress(0, 2, 48, 0, 2000), Progress(1, 1, 0, 39, 40)
    assert str(begun) == "0 of 50 shards done, 2 under way; 0 of 2,000 tests"
    assert str(later) == "1 of 2 shards done, 1 under way; 39 of 40 tests"


def test_the_test_that_was_under_way_runs_again_alone_and_the_others_without_it() -> None:
    runner = Fate({"b": 1})
    assert sorted(run(runner, [["a", "b", "c", "d"]]).passed) == ["a", "b", "c", "d"]
    assert runner.started == [["a", "b", "c", "d"], ["c", "d"], ["b"]]


def test_a_test_that_takes_its_shard_down_again_is_an_error_that_names_everything() -> None:
    told = run(Fate({"b": FOREVER}), [["a", "b", "c"]])
    assert (sorted(told.passed), set(told.errors)) == (["a", "c"], {"b"})
    reason = told.errors["b"]
    assert "shard 3 on runner fate has ended before its last test with exit status 137 (SIGKILL)" in reason
    assert "and b was not reported; shards with it were lost 2 times" in reason
    assert "| its last words\\x1b" in reason


def test_a_shard_that_is_lost_after_its_last_test_is_named_and_nothing_runs_again() -> None:
    runner, told = Fate({"the end": 1}), Told()
    relay = Relay(runner, cast("Any", told), order, expected={}, collected=[], retries=1)
    relay.run(cast("Any", [[Item("a")]]))
    assert (told.passed, told.errors, len(runner.started)) == (["a"], {}, 1)
    assert relay.losses == [
        "shard 1 has ended in disorder, after its last test, with exit status 137 (SIGKILL)\n| its last words\\x1b"
    ]
    assert not relay.has_failed


class Ends(Fate):
    """Has a shard say all of this of its one test, and end so."""

    def __init__(self, ended: Ended, *events: Event, again: bool = False) -> None:
        super().__init__({})
        self._said = [Hello(versions={}, digest=""), Started(test=0), *events]
        self._ended, self._again = ended, again

    def start(self, order: Order) -> None:
        self._happens.append(Begun(order.name))
        self._happens += [Arrived(order.name, encode(each)) for each in self._said]
        if self._again:
            self._happens.append(Begun(order.name))
        self._happens.append(self._ended)


REPORTED = Record(test=0, attempts=[PASSED])
FAILED = Record(
    test=0, attempts=[[PASSED[0], Report(when="call", outcome="failed", longrepr="wrong"), PASSED[2]]]
)
DONE = Finished(stop=None, returncode=0)


@pytest.mark.parametrize(
    ("status", "said", "fails", "is_named"),
    [
        (0, [REPORTED, DONE], False, False),
        (1, [FAILED, DONE], False, False),
        (1, [REPORTED, DONE], True, True),
        (3, [FAILED, DONE], True, True),
        (42, [REPORTED, DONE], True, True),
        (2, [REPORTED, DONE], False, False),  # by a signal that tells it to end
        (139, [REPORTED, DONE], False, True),
        (0, [REPORTED], False, True),
        (1, [REPORTED], True, True),
        (7, [REPORTED], True, True),
        (137, [REPORTED], False, True),
        (None, [REPORTED], False, True),
        (137, [REPORTED, Started(test=0)], True, True),  # which nobody says of a test that it has reported
    ],
)
def test_a_shard_that_fails_by_itself_after_its_last_test_fails_the_run(
    status: int | None, said: list[Event], fails: bool, is_named: bool
) -> None:
    told = Told()
    runner = Ends(Ended("shard 1", status, "its last words"), *said)
    relay = Relay(runner, cast("Any", told), order, expected={}, collected=[], retries=1)
    relay.run(cast("Any", [[Item("a")]]))
    assert (told.passed, told.errors) == (["a"], {})
    assert (relay.has_failed, len(relay.losses)) == (fails, is_named)


@pytest.mark.parametrize(
    ("runner", "has_errors"),
    [
        (Ends(Ended("shard 1", 1, "the VM's program has failed", is_pytests=False), REPORTED), False),
        (Ends(Ended("shard 1", 1, "there is nothing to do"), REPORTED, again=True), False),
        (Ends(Ended("shard 1", 4, "the order is gone"), REPORTED, again=True), False),
        (Ends(Ended("shard 1", 1, "1 passed, 1 error"), REPORTED, DONE), True),
    ],
    ids=["machine", "again", "again without a greeting", "collection error"],
)
def test_what_has_another_reason_fails_no_run(runner: Ends, has_errors: bool) -> None:
    told = Told()
    relay = Relay(
        runner, cast("Any", told), order, expected={}, collected=[], retries=1, has_errors=has_errors
    )
    relay.run(cast("Any", [[Item("a")]]))
    assert (told.passed, told.errors, relay.has_failed) == (["a"], {}, False)


def test_without_retries_the_first_loss_is_an_error() -> None:
    runner = Fate({"b": FOREVER})
    assert set(run(runner, [["a", "b", "c"]], retries=0).errors) == {"b"}
    assert runner.started == [["a", "b", "c"], ["c"]]


def test_shards_that_never_start_are_tried_twice() -> None:
    once, ever = Fate({}, stillborn=1), Fate({}, stillborn=FOREVER)
    assert run(once, [["a", "b"]]).passed == ["a", "b"]
    assert set(run(ever, [["a", "b"]]).errors) == {"a", "b"}
    assert len(ever.started) == 2


def test_a_forged_record_is_an_error_of_its_shard_and_changes_no_other_verdict() -> None:
    told = run(Fate({}, forgers=["b"]), [["a", "b", "c"], ["d"]])
    assert (sorted(told.passed), set(told.errors)) == (["a", "c", "d"], {"b"})
    assert "has said what no shard may say: a record of a test that is not its own" in told.errors["b"]


class Exits(Fate):
    """A fate in which a test ends the run."""

    def __init__(self, returncode: int) -> None:
        super().__init__({})
        self._returncode = returncode

    def _events(self, nodeids: list[str]) -> Iterator[Event | None]:
        yield Hello(versions={}, digest="")
        yield Finished(stop="enough\nof it", returncode=self._returncode)


@pytest.mark.parametrize(("said", "returncode"), [(7, 7), (0, 2), (-1, 2), (256, 2)])
def test_a_test_may_end_the_run_and_never_well(said: int, returncode: int) -> None:
    runner = Exits(said)
    with pytest.raises(pytest.exit.Exception) as caught:
        run(runner, [["a"], ["b"]])
    assert (caught.value.msg, caught.value.returncode) == ("enough\\nof it", returncode)
    assert runner.closed


class Unreadable(Fate):
    """A fate in which reports are well-formed, and pytest makes nothing of them."""

    def _events(self, nodeids: list[str]) -> Iterator[Event | None]:
        for event in super()._events(nodeids):
            if isinstance(event, Record):
                call = Report(when="call", outcome="failed", longrepr="unreadable")
                yield Record(test=event.test, attempts=[[PASSED[0], call, PASSED[2]]])
            else:
                yield event


def test_a_record_that_cannot_be_replayed_is_no_silence() -> None:
    told = run(Unreadable({}), [["a", "b"]])
    assert (told.passed, set(told.errors)) == ([], {"a", "b"})
    assert "a report that pytest cannot read" in told.errors["a"]


@given(
    st.lists(st.lists(st.sampled_from("abcdefghijkl"), min_size=1, unique=True), min_size=1, max_size=4),
    st.dictionaries(st.sampled_from("abcdefghijkl"), st.sampled_from([1, 2, 3, FOREVER])),
    st.integers(0, 5),
    st.integers(0, 1),
    st.lists(st.sampled_from("abcdefghijkl"), unique=True, max_size=3),
)
def test_every_test_is_reported_once(
    parts: list[list[str]], crashes: dict[str, int], stillborn: int, retries: int, forgers: list[str]
) -> None:
    parts = [[f"{number}{nodeid}" for nodeid in part] for number, part in enumerate(parts)]
    everything = sorted(nodeid for part in parts for nodeid in part)
    told = run(
        Fate(
            {f"0{nodeid}": times for nodeid, times in crashes.items()},
            stillborn,
            [f"1{each}" for each in forgers],
        ),
        parts,
        retries,
    )
    assert sorted([*told.passed, *told.errors]) == everything
    if not stillborn:
        suspects = {f"0{nodeid}" for nodeid, times in crashes.items() if times > retries}
        assert set(told.errors) == (suspects | {f"1{each}" for each in forgers}) & set(everything)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, "no exit status"),
        (3, "exit status 3"),
        (137, "exit status 137 (SIGKILL)"),
        (255, "exit status 255"),
    ],
)
def test_status(status: int | None, words: str) -> None:
    assert status_words(status) == words

"""What one shard has said so far, and whether it may say that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pytest_sandboxes.batch import events
from pytest_sandboxes.batch.events import (
    BrokenEvent,
    Collected,
    Event,
    Finished,
    Hello,
    Record,
    Started,
    Warned,
)
from pytest_sandboxes.display import one_line
from pytest_sandboxes.wording import counted

_MOST_STARTS = 1000
"""Of one test: it may be started again."""
_SHOWN = 3


class IncompatibleError(Exception):
    """A shard is not what the controller takes it for; no shard will be."""


class Ledger:
    """Reads the events of one shard, whose bytes are hostile.

    Each test counts once, when it is whole; a second record of the same test is a broken event, as is everything
    before the greeting and after the farewell.
    """

    def __init__(
        self,
        nodeids: Sequence[str],
        expected: Mapping[str, str],
        collected: Sequence[str],
        *,
        one_by_one: bool = False,
    ) -> None:
        """`expected` are the versions here, `collected` all node ids of the controller.

        `one_by_one`: no test begins before the one before has been reported, so that none is told of by another.
        """
        self.nodeids = nodeids
        self.unreported = dict.fromkeys(range(len(nodeids)))
        """Positions of the tests of which there is no record yet, in order."""
        self.under_way: dict[int, None] = {}
        """Positions of those that have begun."""
        self.finished: Finished | None = None
        self.has_greeted = False
        self._has_begun = False
        self._expected = expected
        self._collected = collected
        self._one_by_one = one_by_one
        self._starts = 0
        self._warnings = self._warned_bytes = 0
        self._rest = bytearray()
        self._before: set[int] = set()

    @property
    def is_done(self) -> bool:
        """Nothing is missing: every test has been reported, or the session was ended on purpose."""
        return self.finished is not None and (self.finished.stop is not None or not self.unreported)

    @property
    def had_nothing_left(self) -> bool:
        """Whether all of its tests had been reported when its process began."""
        return len(self._before) == len(self.nodeids)

    def begin(self) -> None:
        """Its process is another one from now on, which greets anew.

        What the one before has reported stands, and is ignored if it comes once more: a report may get here after
        the new process has looked which tests are left. What was cut off counts as never begun.
        """
        self._rest.clear()
        self._before = set(range(len(self.nodeids))) - self.unreported.keys()
        self.under_way.clear()
        self.finished = None
        self.has_greeted = self._has_begun = False

    def feed(self, data: bytes) -> Iterator[Record | Warned]:
        """Take bytes, and yield what is to be replayed.

        Raises `BrokenEvent` for what no shard of ours says, and `IncompatibleError` when the run has to end.
        """
        self._rest += data
        while (end := self._rest.find(b"\n")) >= 0:
            line = bytes(self._rest[:end])
            del self._rest[: end + 1]
            event = events.decode(line)
            if isinstance(event, Warned):
                self._warned_bytes += len(line)
            if self._take(event) and isinstance(event, Record | Warned):
                yield event
        if self._rest and self.finished is not None:
            raise BrokenEvent("something after the last event")
        if len(self._rest) > events.MOST_BYTES:
            raise BrokenEvent(f"an event longer than {events.MOST_BYTES >> 20} MiB")

    def _take(self, event: Event) -> bool:
        """Whether an event is news."""
        if self.finished is not None:
            raise BrokenEvent("something after the last event")
        self._has_begun = self._has_begun or isinstance(event, Started)
        if isinstance(event, Hello):
            self._greet(event)
        elif not self.has_greeted:
            raise BrokenEvent("an event before the first one")
        elif isinstance(event, Started | Record):
            if event.test in self._before:
                return False
            self._follow(event)
        elif isinstance(event, Collected):
            if self._has_begun:
                raise BrokenEvent("what it has collected, after a test has begun")
            raise IncompatibleError(_difference(self._collected, event))
        elif isinstance(event, Warned):
            self._count(event)
        else:
            self.finished = event
        return True

    def _follow(self, event: Started | Record) -> None:
        """Take the beginning or the end of a test."""
        what = "the start" if isinstance(event, Started) else "a record"
        if event.test >= len(self.nodeids):
            raise BrokenEvent(f"{what} of a test that is not its own")
        if event.test not in self.unreported:
            raise BrokenEvent(
                f"{what} of {one_line(self.nodeids[event.test])}, which it has reported already"
            )
        if isinstance(event, Started):
            self._starts += 1
            if self._starts > _MOST_STARTS + 2 * len(self.nodeids):
                raise BrokenEvent("the start of a test, too often")
            if self._one_by_one and self.under_way.keys() - {event.test}:
                raise BrokenEvent("the start of a test while another is under way")
            self.under_way[event.test] = None
        elif event.test not in self.under_way:
            raise BrokenEvent("a record of a test that has not begun")
        else:
            del self.unreported[event.test], self.under_way[event.test]

    def _count(self, event: Warned) -> None:
        self._warnings += 1
        if self._warnings > events.MOST_WARNINGS or self._warned_bytes > events.MOST_WARNED_BYTES:
            raise BrokenEvent("more warnings than a shard sends")
        if event.test is not None and event.test >= len(self.nodeids):
            raise BrokenEvent("a warning of a test that is not its own")

    def take_back(self, record: Record) -> None:
        """A record that `feed` has yielded cannot be read after all: its test has not been reported."""
        self.unreported[record.test] = None
        self.under_way[record.test] = None

    def _greet(self, event: Hello) -> None:
        if self.has_greeted:
            raise BrokenEvent("a second greeting")
        for name, here in self._expected.items():
            there = event.versions.get(name, "nothing")
            if there != here:
                raise IncompatibleError(f"{name} is {one_line(there)} there and {here} here")
        self.has_greeted = True


def _difference(here: Sequence[str], there: Collected) -> str:
    """What a shard has collected that the controller has not, and the other way round."""
    found = set(there.nodeids)
    known = set(here)
    missing = [each for each in here if each not in found]
    more = [each for each in there.nodeids if each not in known]
    clauses = []
    if missing:
        clauses.append(f"missing there: {len(missing):,} of {counted(len(here), 'test')} ({_some(missing)})")
    if more:
        clauses.append(f"only there: {counted(len(more), 'test')} ({_some(more)})")
    if there.error is not None:
        clauses.append(f"its first error is: {one_line(there.error, 500)}")
    return "; ".join(clauses) or "its collection has another digest"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(one_line(name, 120) for name in names[:_SHOWN])
    return f"{shown}, …" if len(names) > _SHOWN else shown

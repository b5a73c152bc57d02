"""How often everything that shards have written is listed anew, and how much of it is read at a time."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Self, cast

import pytest

from pytest_sandboxes.batch.runners.gcp.inbox import Inbox
from pytest_sandboxes.errors import BackendUnavailableError
from tests.waiting import DEADLINE, wait_until


@pytest.mark.parametrize(("takes", "looks"), [(0.0, 6), (1.0, 6), (9.0, 2)])
def test_listings_of_everything_that_take_long_are_made_less_often(
    monkeypatch: pytest.MonkeyPatch, takes: float, looks: int
) -> None:
    now, starts = 1000.0, list[str]()

    class Slow:
        prefix = ""

        def cancelled_by(self, _: threading.Event) -> Slow:
            return self

        def list(self, _: str, start: str) -> list[Any]:
            nonlocal now
            now += 0 if start else takes
            starts.append(start)
            return []

    monkeypatch.setattr("time.monotonic", lambda: now)
    inbox = Inbox(cast("Any", Slow()))
    end = now + 119
    while now < end:
        inbox.look(set(), dt.datetime.now(dt.UTC))
        now += 1
    assert starts.count("") == looks


NOW = dt.datetime.fromtimestamp(1_700_000_000, dt.UTC)


class Parts:
    """Objects of so many bytes, as the listing says, of which the names of those that were asked for are kept."""

    prefix = ""

    def __init__(self, size: int, *names: str) -> None:
        self._size = size
        self._names = names
        self.got: list[str] = []
        self.cancelled = threading.Event()

    def cancelled_by(self, event: threading.Event) -> Self:
        self.cancelled = event
        return self

    def list(self, folder: str, _: str) -> list[Any]:
        return [
            SimpleNamespace(name=f"{folder}{1_700_000_000_000}-{name}", size=self._size, generation=1)
            for name in self._names
        ]

    def get(self, name: str, _: int) -> bytes:
        name = name.partition("-")[2]
        self.got.append(name)
        return self.content(name)

    def content(self, _: str) -> bytes:
        return bytes(self._size)


@contextmanager
def inbox_of(parts: Parts) -> Iterator[Inbox]:
    """All of them are listed, and none is read; checks that no thread is left."""
    inbox = Inbox(cast("Any", parts))
    inbox.look({1, 2, 3}, NOW)
    try:
        yield inbox
    finally:
        inbox.close(DEADLINE)
    wait_until(lambda: not any("gcp-inbox" in each.name for each in threading.enumerate()))


def test_no_more_is_read_at_a_time_than_fits_and_each_shard_has_its_turn() -> None:
    parts = Parts(8 << 20, *(f"{shard}-0-{number}.part" for shard in (1, 2, 3) for number in range(9)))
    read = []
    with inbox_of(parts) as inbox:
        for _ in range(5):
            heard = inbox.read((1, 2, 3))
            assert sum(len(content) for each in heard for *_, content in each.parts) <= 64 << 20
            read.append([(each.shard, len(each.parts), each.is_all) for each in heard])
            assert (inbox.pause() == 0) is not read[-1][-1][-1]
    assert read == [
        [(1, 8, False)],
        [(2, 8, False)],
        [(3, 8, False)],
        [(1, 1, True), (2, 1, True), (3, 1, True)],
        [(1, 0, True), (2, 0, True), (3, 0, True)],
    ]
    assert sorted(set(parts.got)) == sorted(parts.got)


def test_many_small_parts_are_not_read_at_once_either() -> None:
    with inbox_of(Parts(1, *(f"1-0-{number}.part" for number in range(3000)))) as inbox:
        assert [len(inbox.read([1])[0].parts) for _ in range(4)] == [1024, 1024, 952, 0]


def test_of_a_shard_that_is_stopped_nothing_is_read_but_its_end() -> None:
    parts = Parts(10, "1-0-0.part", "1-0-1.part", "1-0-2.end")
    with inbox_of(parts) as inbox:
        (heard,) = inbox.read([1], stopped={1})
    assert [len(content) for *_, content in heard.parts] == [0, 0, 10]
    assert parts.got == ["1-0-2.end"]


class Together(Parts):
    """Parts of which each is there when eight have been asked for."""

    barrier = threading.Barrier(8)

    def content(self, name: str) -> bytes:
        self.barrier.wait(DEADLINE)
        return name.encode()


def test_parts_are_got_beside_each_other_and_are_in_order() -> None:
    names = [f"{shard}-0-{number}.part" for shard in (1, 2) for number in range(12)]
    with inbox_of(Together(1, *names)) as inbox:
        heard = inbox.read((1, 2))
    assert [content.decode() for each in heard for *_, content in each.parts] == names


class Broken(Parts):
    """Parts of which the first cannot be got, and the others not for long."""

    def content(self, name: str) -> bytes:
        if name == "1-0-0.part":
            raise BackendUnavailableError("it is broken")
        assert self.cancelled.wait(DEADLINE)
        return b""


def test_what_is_under_way_when_one_cannot_be_got_ends_with_the_inbox() -> None:
    parts = Broken(1, *(f"1-0-{number}.part" for number in range(100)))
    with inbox_of(parts) as inbox, pytest.raises(BackendUnavailableError, match="it is broken"):
        inbox.read([1])
    assert len(parts.got) < 20

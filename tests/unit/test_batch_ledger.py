"""What one shard may say when: only of its own tests, of each once, and only between greeting and farewell."""

from __future__ import annotations

import pytest

from pytest_sandboxes.batch import events as events_module
from pytest_sandboxes.batch.events import (
    BrokenEvent,
    Collected,
    Event,
    Finished,
    Hello,
    Record,
    Report,
    Started,
    Warned,
    encode,
)
from pytest_sandboxes.batch.ledger import IncompatibleError, Ledger

VERSIONS = {"Python": "CPython 3", "bundle": "abc"}
HELLO = Hello(versions=VERSIONS, digest="")
PASSED = [
    Report(when="setup", outcome="passed"),
    Report(when="call", outcome="passed"),
    Report(when="teardown", outcome="passed"),
]
STARTED, RECORD = Started(test=0), Record(test=0, attempts=[PASSED])
FINISHED = Finished(stop=None, returncode=0)
COLLECTED = Collected(nodeids=["a"], error=None)
WARNED = Warned(category="A", base="Warning", message="m" * 1000, filename="", lineno=0, line="", test=0)


def ledger(*, one_by_one: bool = False) -> Ledger:
    return Ledger(["a", "b"], VERSIONS, ["a", "b", "c"], one_by_one=one_by_one)


def fed(*events: Event, one_by_one: bool = False) -> Ledger:
    found = ledger(one_by_one=one_by_one)
    for event in events:
        list(found.feed(encode(event)))
    return found


def test_a_test_counts_once_it_is_whole() -> None:
    begun = fed(HELLO, STARTED)
    assert (list(begun.under_way), list(begun.unreported)) == ([0], [0, 1])
    done = fed(HELLO, STARTED, STARTED, RECORD)
    assert (list(done.under_way), list(done.unreported)) == ([], [1])
    assert not fed(HELLO, STARTED, RECORD, FINISHED).is_done
    assert fed(HELLO, STARTED, RECORD, Started(test=1), Record(test=1, attempts=[PASSED]), FINISHED).is_done
    assert fed(HELLO, Finished(stop="enough", returncode=3)).is_done


def test_bytes_may_be_cut_anywhere() -> None:
    whole = b"".join(encode(event) for event in (HELLO, STARTED, RECORD))
    found = ledger()
    assert [event for byte in whole for event in found.feed(bytes([byte]))] == [RECORD]


@pytest.mark.parametrize(
    "events",
    [
        (STARTED,),
        (RECORD,),
        (HELLO, HELLO),
        (HELLO, RECORD),
        (HELLO, STARTED, RECORD, RECORD),
        (HELLO, STARTED, RECORD, STARTED),
        (HELLO, Started(test=2)),
        (HELLO, STARTED, Record(test=2, attempts=[PASSED])),
        (HELLO, FINISHED, FINISHED),
        (HELLO, FINISHED, STARTED),
        (HELLO, FINISHED, RECORD),
        (HELLO, STARTED, HELLO),
        (HELLO, STARTED, COLLECTED),
        (HELLO, STARTED, RECORD, Finished(stop="enough", returncode=0), COLLECTED),
        (HELLO, Record(test=1, attempts=[PASSED]), STARTED),
        (HELLO, *[STARTED] * 2000),
        (
            HELLO,
            Warned(category="A", base="Warning", message="", filename="", lineno=0, line="", test=2),
        ),
    ],
    ids=lambda events: " ".join(type(event).__name__ for event in events[:5]),
)
def test_anything_out_of_turn_is_refused(events: tuple[Event, ...]) -> None:
    with pytest.raises(BrokenEvent):
        fed(*events)


def test_where_tests_run_one_by_one_none_tells_of_another() -> None:
    other = encode(Started(test=1))
    with pytest.raises(BrokenEvent, match="the start of a test while another is under way"):
        list(fed(HELLO, STARTED, one_by_one=True).feed(other))
    assert list(fed(HELLO, STARTED, RECORD, one_by_one=True).feed(other)) == []
    assert list(fed(HELLO, STARTED, STARTED, one_by_one=True).under_way) == [0]
    assert list(fed(HELLO, STARTED, Started(test=1)).under_way) == [0, 1]  # with workers of pytest-xdist


def test_half_an_event_after_the_last_one_is_refused() -> None:
    found = fed(HELLO, STARTED)
    with pytest.raises(BrokenEvent, match="something after the last event"):
        list(found.feed(encode(FINISHED) + b"{"))


def test_half_an_event_is_waited_for_and_counts_as_nothing() -> None:
    found = fed(HELLO, STARTED)
    assert list(found.feed(encode(RECORD)[:-1])) == []
    assert (list(found.unreported), found.is_done) == ([0, 1], False)


def test_a_flood_of_warnings_is_refused_by_count_and_by_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "MOST_WARNINGS", 10)
    with pytest.raises(BrokenEvent, match="more warnings than a shard sends"):
        fed(HELLO, *[WARNED] * 11)
    fed(HELLO, *[WARNED] * 10)
    monkeypatch.setattr(events_module, "MOST_WARNED_BYTES", 5000)
    with pytest.raises(BrokenEvent, match="more warnings than a shard sends"):
        fed(HELLO, *[WARNED] * 6)


def test_a_line_without_end_is_refused() -> None:
    found = ledger()
    with pytest.raises(BrokenEvent, match="longer than 8 MiB"):
        for _ in range(9):
            list(found.feed(b"x" * (1 << 20)))


def test_other_versions_end_the_run_and_are_named() -> None:
    with pytest.raises(IncompatibleError, match="Python is CPython 2 there and CPython 3 here"):
        fed(Hello(versions={**VERSIONS, "Python": "CPython 2"}, digest=""))
    with pytest.raises(IncompatibleError, match="bundle is nothing there and abc here"):
        fed(Hello(versions={"Python": "CPython 3"}, digest=""))


def test_another_collection_ends_the_run_and_is_told() -> None:
    with pytest.raises(IncompatibleError) as caught:
        fed(
            HELLO,
            Collected(
                nodeids=["a", "d\x1b", "b"], error="test_c.py: ModuleNotFoundError: No module\nnamed 'c'"
            ),
        )
    assert str(caught.value) == (
        "missing there: 1 of 3 tests (c); only there: 1 test (d\\x1b); its first error is: "
        "test_c.py: ModuleNotFoundError: No module\\nnamed 'c'"
    )


def test_another_process_greets_anew_and_what_was_reported_before_stands() -> None:
    ledger = Ledger(["a", "b"], {}, [])
    first: list[Event] = [
        Hello(versions={}, digest=""),
        Started(test=0),
        Record(test=0, attempts=[PASSED]),
        Started(test=1),
    ]
    assert len(list(ledger.feed(b"".join(map(encode, first)) + b'{"event": "rec'))) == 1
    ledger.begin()
    with pytest.raises(BrokenEvent, match="before the first one"):
        list(ledger.feed(encode(Started(test=1))))
    second: list[Event] = [Hello(versions={}, digest=""), Started(test=0), Record(test=0, attempts=[PASSED])]
    assert list(ledger.feed(b"".join(map(encode, second)))) == []
    third: list[Event] = [
        Started(test=1),
        Record(test=1, attempts=[PASSED]),
        Finished(stop=None, returncode=0),
    ]
    assert [each.test for each in ledger.feed(b"".join(map(encode, third)))] == [1]
    assert ledger.is_done


def test_another_process_reports_nothing_twice_either() -> None:
    ledger = Ledger(["a"], {}, [])
    ledger.begin()
    once: list[Event] = [Hello(versions={}, digest=""), Started(test=0), Record(test=0, attempts=[PASSED])]
    assert len(list(ledger.feed(b"".join(map(encode, once))))) == 1
    with pytest.raises(BrokenEvent, match="which it has reported already"):
        list(ledger.feed(encode(Started(test=0))))

"""What a shard may say: all else is refused, whatever it is, and refused in one safe line."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes.batch import events
from pytest_sandboxes.batch.events import BrokenEvent, Record, Report, Warned, decode, encode, warning_class

WHOLE = [
    {"when": "setup", "outcome": "passed"},
    {"when": "call", "outcome": "failed", "longrepr": "\udcff no text"},
    {"when": "teardown", "outcome": "passed"},
]
WARNING = {
    "event": "warned",
    "category": "Careful",
    "base": "UserWarning",
    "message": "m",
    "filename": "/f",
    "lineno": 1,
    "line": "",
    "test": 0,
}


def a_record(**changes: Any) -> bytes:
    """A record whose call is changed."""
    reports = [dict(report) for report in WHOLE]
    reports[1] |= changes
    return json.dumps({"event": "record", "test": 0, "attempts": [reports]}).encode()


def test_a_record_survives() -> None:
    event = decode(a_record(extra={"plain": [1, {"a": None}]}, user_properties=[["a", True], ["b", 1.5]]))
    assert isinstance(event, Record)
    assert decode(encode(event)) == event
    assert event.reports[1].longrepr == "\udcff no text"


@pytest.mark.parametrize(
    "changes",
    [
        {"nodeid": "test_it.py::test_other"},
        {"location": ["/etc/passwd", 1, "x"]},
        {"when": "collect"},
        {"outcome": "error"},
        {"duration": "1"},
        {"duration": 1e400},
        {"duration": -1e300},
        {"duration": -0.001},
        {"duration": float("nan")},
        {"start": 1e11},
        {"stop": -5},
        {"sections": [["a", 1]]},
        {"longrepr": {"reprcrash": None}},
        {"longrepr": 1},
        {"longrepr": None},
        {"outcome": "skipped"},
        {"outcome": "skipped", "longrepr": None},
        {"outcome": "passed", "skip": ["path", 1, "reason"]},
        {"skip": ["path", 10**30, "reason"]},
        {"user_properties": [["a", {"b": 1}]]},
        {"user_properties": [["a"]]},
        {"user_properties": [["a", 10**30]]},
        {"user_properties": [["a", 1e400]]},
        {"user_properties": [[1, "a"]]},
        {"user_properties": {"a": 1}},
        {"keywords": [1]},
        {"keywords": ["x" * 1001]},
        {"fspath": "/etc/passwd"},
        {"keywords": {"a": 1}},
        {"subtest": {"msg": None, "kwargs": {"a": 1}}},
        {"extra": {"toterminal": 1}},
        {"extra": {"passed": True}},
        {"extra": {"_id": "x"}},
        {"extra": {"nodeid": "x"}},
        {"extra": {"__class__": 1}},
        {"extra": {"a b": 1}},
        {"extra": {"deep": [[[[[[[[[[1]]]]]]]]]]}},
        {"extra": {"huge": 10**30}},
    ],
    ids=str,
)
def test_a_report_with_anything_else_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BrokenEvent):
        decode(a_record(**changes))


def phases(words: str) -> list[dict[str, object]]:
    """Reports, of words such as `call`, `call:failed`, and `sub:failed` for a subtest."""
    found: list[dict[str, object]] = []
    for word in words.split():
        phase, _, outcome = word.partition(":")
        report: dict[str, object] = {"when": phase, "outcome": outcome or "passed"}
        if phase == "sub":
            report |= {"when": "call", "subtest": {"msg": None, "kwargs": {}}}
        if outcome == "failed":
            report["longrepr"] = "why"
        elif outcome == "skipped":
            report["skip"] = ["file", 1, "why"]
        found.append(report)
    return found


def decode_phases(words: str) -> Record:
    attempts = [phases(each) for each in words.split(" | ")]
    event = decode(json.dumps({"event": "record", "test": 0, "attempts": attempts}).encode())
    assert isinstance(event, Record)
    return event


@pytest.mark.parametrize(
    "words",
    [
        "call teardown",
        "setup call",
        "setup teardown",
        "teardown setup",
        "setup",
        "setup setup call teardown",
        "setup call call teardown",
        "setup:failed call teardown",
        "setup:skipped call teardown",
        "setup sub teardown",
        "setup:skipped sub:failed teardown",
        "setup call teardown setup",
        "setup call teardown setup call teardown",
        "setup call teardown call",
        "setup:failed setup call teardown",
        "setup:rerun teardown",
        "setup:rerun call teardown",
        "setup call:rerun teardown",
        "setup call teardown:rerun",
        "setup call:retried teardown",
        "setup call teardown | setup call teardown",
        "setup call:failed teardown | setup call teardown",
        "setup call:rerun teardown | setup call:rerun teardown",
        "setup call:rerun teardown | setup",
        "setup call:rerun call teardown | setup call teardown",
        "setup call:rerun teardown | ",
        " | setup call teardown",
        "setup call:error teardown",
        "???",
        "setup ???:failed",
        "???:failed teardown",
        "???:rerun",
        "setup call:warnings call teardown",
    ],
)
def test_a_test_that_is_not_whole_is_refused(words: str) -> None:
    with pytest.raises(BrokenEvent):
        decode_phases(words)


@pytest.mark.parametrize(
    "words",
    [
        "setup call teardown",
        "setup:failed teardown",
        "setup:skipped teardown:failed",
        "setup call:failed teardown:failed",
        "setup sub sub:failed call:failed teardown",
        "setup call sub teardown",
        "setup sub:failed teardown",  # the session ended within it
        "setup call:retried call teardown",
        "setup call:rerun teardown | setup call teardown",
        "setup:rerun teardown | setup:rerun | setup call:rerun teardown:rerun | setup call:failed teardown",
        "setup call teardown:rerun | setup call teardown",
        "teardown:rerun | setup call teardown",
        "???:failed",
        "???:rerun | ???:failed",
        "setup sub:failed call:rerun teardown | setup sub call teardown",
        "sub sub:failed setup call:rerun teardown | sub setup call teardown",
    ],
)
def test_a_test_that_is_whole_is_not(words: str) -> None:
    assert len(decode_phases(words).reports) == len(words.replace("|", "").split())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"hello"',
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"a": ' * 100_000,
        b'{"event": "started", "test": 0}\0',
        b'\0{"event": "started", "test": 0}',
        b'{"event": "started", "test": 0}{"event": "started", "test": 1}',
        b'{"event": "started", "test": 0',
        '{"event": "started", "test": 0}'.encode("utf-16"),
        json.dumps(
            {"event": "record", "test": 0, "attempts": [phases("setup call teardown") * 4000]}
        ).encode(),
        json.dumps({"event": "record", "test": 0, "attempts": [phases("call:rerun")] * 1001}).encode(),
        b'{"event": "record", "test": 0, "attempts": []}',
        b'{"event": "exec"}',
        b'{"event": "started", "test": -1}',
        b'{"event": "started", "test": 1e3}',
        b'{"event": "started", "test": true}',
        b'{"event": "started", "test": ' + b"9" * 5000 + b"}",
        b'{"event": "finished", "stop": null, "returncode": NaN}',
        b'{"event": "hello", "versions": {"Python": 3}, "digest": ""}',
        json.dumps({**WARNING, "base": "os.system"}).encode(),
        json.dumps({**WARNING, "base": "Exception"}).encode(),
        json.dumps({**WARNING, "category": "x" * 2000}).encode(),
        json.dumps({**WARNING, "path": "/etc/passwd"}).encode(),
        b'{"event": "started", "test": 1}' + b" " * events.MOST_BYTES,
    ],
    ids=lambda line: repr(line[:60]),
)
def test_what_is_no_event_is_refused_in_one_line(line: bytes) -> None:
    with pytest.raises(BrokenEvent) as caught:
        decode(line)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    ),
    st.sampled_from(sorted(Report.__struct_fields__)),
)
def test_whatever_a_field_holds_the_outcome_is_an_event_or_a_refusal(value: Any, field: str) -> None:
    try:
        event = decode(a_record(**{field: value}))
    except BrokenEvent:
        return
    assert isinstance(event, Record)
    assert msgspec.convert(msgspec.to_builtins(event), Record) == event


def test_a_warning_of_an_unknown_class_is_one_of_its_name_and_imported_from_nowhere() -> None:
    event = decode(json.dumps(WARNING).encode())
    assert isinstance(event, Warned)
    found = warning_class(event)
    assert (found.__name__, found.__mro__[1]) == ("Careful", UserWarning)


def test_a_class_of_a_name_is_made_once() -> None:
    again = [decode(json.dumps(WARNING).encode()) for _ in range(2)]
    first, second = [warning_class(event) for event in again if isinstance(event, Warned)]
    assert first is second


@pytest.mark.parametrize("category", ["os.system", "a\nb", "\x1b[31m", ""])
def test_a_warning_whose_class_has_no_name_of_one_is_its_base(category: str) -> None:
    event = decode(json.dumps({**WARNING, "category": category}).encode())
    assert isinstance(event, Warned)
    assert warning_class(event) is UserWarning

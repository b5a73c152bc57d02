"""What a shard may say: the types of its events, their bounds, and the codec. Shared by both ends.

Events are JSON, one object a line. The process that writes them runs tests beside hostile code, so that every line is
checked as if an enemy had written it: a type or field that is not here, a text that is too long, or a number out of
range is a `BrokenEvent`. A test is named by its position in the shard's own list, so that no event can be about
another's.
"""

from __future__ import annotations

import builtins
import json
import math
import re
from functools import lru_cache
from typing import Annotated, Any, Literal, NoReturn

import msgspec
import pytest
from msgspec import Meta, Struct

from pytest_sandboxes.batch.attempts import announces_another, what_is_wrong
from pytest_sandboxes.display import one_line

MOST_BYTES = 8 << 20
"""The longest line. A test's record is cut there until it fits, see `recording`."""
MOST_REPORTS = 10_000
"""The most reports of one attempt at a test: each subtest has one."""
MOST_ATTEMPTS = 1000
"""The most attempts at one test, for plugins that repeat those that fail."""
MOST_WARNINGS = 100_000
"""The most warnings of one shard."""
MOST_WARNED_BYTES = 64 << 20
"""The most bytes of all of them: pytest keeps them to the end of the run."""
MOST_SECONDS = 1e10
"""Of a duration, and of a time since 1970: what reporters make dates of must have one."""
_MOST_DEPTH = 8

Text = Annotated[str, Meta(max_length=MOST_BYTES)]
Name = Annotated[str, Meta(max_length=1000)]
Number = Annotated[int, Meta(ge=-(1 << 62), le=1 << 62)]
Position = Annotated[int, Meta(ge=0, le=10_000_000)]
Plain = str | bool | int | float | None
"""What a property may be: JUnit makes text of it."""


class BrokenEvent(Exception):  # noqa: N818 - a verdict on what a shard has said, in a sentence
    """A shard has said what none of ours says."""


class _Strict(Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class FileLocation(_Strict):
    """Where something was raised; for display only."""

    path: Text
    lineno: Number
    message: Text


class FuncArgs(_Strict):
    """Arguments of a function, as text."""

    args: list[tuple[Text, Text]]


class Lines(_Strict):
    """Lines of text."""

    lines: list[Text]


class EntryData(_Strict):
    """A frame of a traceback."""

    lines: list[Text]
    reprfuncargs: FuncArgs | None
    reprlocals: Lines | None
    reprfileloc: FileLocation | None
    style: Name


class Entry(_Strict, tag_field="type", tag="ReprEntry"):
    """A frame of a traceback, as pytest sends it."""

    data: EntryData


class NativeEntry(_Strict, tag_field="type", tag="ReprEntryNative"):
    """A frame in Python's own style, as pytest sends it."""

    data: Lines


class Traceback(_Strict):
    """Frames."""

    reprentries: list[Entry | NativeEntry]
    extraline: Text | None
    style: Name


class Failure(_Strict):
    """pytest's representation of an exception."""

    reprcrash: FileLocation | None
    reprtraceback: Traceback
    sections: list[tuple[Text, Text, Annotated[str, Meta(min_length=1, max_length=10)]]]
    chain: list[tuple[Traceback, FileLocation | None, Text | None]] | None


class Context(_Strict):
    """What tells a subtest from others of its test."""

    msg: Text | None
    kwargs: dict[Name, Text]


class Report(_Strict):
    """One report of a test. Its node id and location are the controller's own."""

    when: Literal["setup", "call", "teardown", "???"]
    """The last is what pytest-xdist has for the crash of a worker."""
    outcome: Literal["passed", "failed", "skipped", "rerun", "retried"]
    longrepr: Failure | Text | None = None
    skip: tuple[Text, Number, Text] | None = None
    """In place of `longrepr`: file, line and reason. msgspec crashes over a union of such a tuple and bounded text."""
    duration: float = 0.0
    start: float = 0.0
    stop: float = 0.0
    keywords: list[Name] = []
    user_properties: list[tuple[Text, Plain]] = []
    sections: list[tuple[Text, Text]] = []
    wasxfail: Text | None = None
    subtest: Context | None = None
    extra: dict[Name, Any] = {}
    """What plugins have put on the report, checked by `_check_extra`."""


class Hello(_Strict, tag_field="event", tag="hello"):
    """The first event: what is there."""

    versions: dict[Name, Name]
    digest: Name
    """Of the node ids of all tests that were collected there."""


class Collected(_Strict, tag_field="event", tag="collected"):
    """The last event of a shard that has collected other tests than it was told of."""

    nodeids: list[Text]
    error: Text | None
    """The first error of its collection."""


class Started(_Strict, tag_field="event", tag="started"):
    """A test has begun; it may do so again, when what has run of it does not count."""

    test: Position


class Record(_Strict, tag_field="event", tag="record"):
    """All that a test has reported, from its first setup to its last teardown."""

    test: Position
    attempts: Annotated[
        list[Annotated[list[Report], Meta(max_length=MOST_REPORTS)]],
        Meta(min_length=1, max_length=MOST_ATTEMPTS),
    ]

    @property
    def reports(self) -> list[Report]:
        """Those of all attempts."""
        return [report for each in self.attempts for report in each]


class Warned(_Strict, tag_field="event", tag="warned"):
    """A warning of a test."""

    category: Name
    """The name of its class, for display."""
    base: Name
    """The name of the nearest base that is in `CATEGORIES`."""
    message: Text
    filename: Text
    lineno: Number
    line: Text
    """The line of source there: nothing is read here that a shard names."""
    test: Position | None


class Finished(_Strict, tag_field="event", tag="finished"):
    """The last event: nothing more comes."""

    stop: Text | None
    """Why the session has ended before its last test; None where it has not."""
    returncode: Number


Event = Hello | Collected | Started | Record | Warned | Finished

CATEGORIES: dict[str, type[Warning]] = {
    name: value
    for names in (vars(builtins), vars(pytest))
    for name, value in names.items()
    if isinstance(value, type) and issubclass(value, Warning)
}
"""The classes of warnings that may be named. None is ever imported because a shard says so."""

_OF_REPORTS = frozenset(dir(pytest.TestReport)) | {
    "nodeid", "location", "keywords", "outcome", "longrepr", "when", "user_properties", "sections", "duration",
    "start", "stop", "wasxfail", "context", "node", "result", "worker_id", "testrun_uid", "item_index",
}  # fmt: skip


def encode(event: Event) -> bytes:
    """An event as a line. Raises `BrokenEvent` when it is too long."""
    line = json.dumps(msgspec.to_builtins(event), ensure_ascii=True, allow_nan=False).encode() + b"\n"
    if len(line) > MOST_BYTES:
        raise BrokenEvent("an event is too long")
    return line


def decode(line: bytes) -> Event:
    """The event of a line. Raises `BrokenEvent` with what is wrong, in a clause on one safe line."""
    if len(line) > MOST_BYTES:
        raise BrokenEvent(f"an event longer than {MOST_BYTES >> 20} MiB")
    try:
        # msgspec's own parser refuses the lone surrogates that tests are free to print
        data = json.loads(line.decode("ascii"), parse_constant=_refuse_constant)
        event: Event = msgspec.convert(data, Event)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise BrokenEvent(f"no event of ours: {one_line(str(error))}") from None
    if isinstance(event, Record):
        _check_whole(event.attempts)
        for report in event.reports:
            _check_report(report)
    elif isinstance(event, Warned) and event.base not in CATEGORIES:
        raise BrokenEvent(
            f"a warning of class {one_line(event.base, 80)}, which is not one that can be named"
        )
    return event


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"the number {name}")


def _check_whole(attempts: list[list[Report]]) -> None:
    """All attempts but the last announce another one, and the last one is whole."""
    wrong = what_is_wrong(attempts[-1])
    if wrong is not None:
        raise BrokenEvent(wrong)
    if not all(announces_another(each) for each in attempts[:-1]):
        raise BrokenEvent("a test that was repeated, and nobody said so")


def _check_report(report: Report) -> None:
    is_plain_skip = report.outcome == "skipped" and report.wasxfail is None
    if (report.skip is not None) is not is_plain_skip or (
        report.outcome == "failed" and report.longrepr is None
    ):
        raise BrokenEvent(f"a report that is {report.outcome} and does not say why as pytest does")
    for seconds in (report.duration, report.start, report.stop):
        if not 0 <= seconds <= MOST_SECONDS:  # which NaN is not, either
            raise BrokenEvent("a time that is none")
    for name, value in report.extra.items():
        if not is_extra(name) or not is_plain(value):
            raise BrokenEvent(f"a report with {one_line(name, 80)}, which it may not have")
    for _, value in report.user_properties:
        if not is_plain(value):
            raise BrokenEvent("a property that is no number")


def is_extra(name: str) -> bool:
    """Whether a plugin may have put an attribute of this name on a report."""
    return name.isidentifier() and not name.startswith("_") and name not in _OF_REPORTS


def is_plain(value: object, depth: int = 0) -> bool:
    """Whether a value is data that JSON keeps as it is, and not too deep."""
    if depth > _MOST_DEPTH:
        return False
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(each, depth + 1) for key, each in value.items())
    if type(value) is list:
        return all(is_plain(each, depth + 1) for each in value)
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is int:
        return abs(value) <= 1 << 62
    return value is None or type(value) in (str, bool)


_CLASS_NAME = re.compile(r"[^\W\d]\w{0,99}")


def warning_class(event: Warned) -> type[Warning]:
    """A class that shows as the one there did: a known one, or a new one of its name, imported from nowhere."""
    return _class_of(event.category, event.base)


@lru_cache(maxsize=1000)  # the same class for the same name, so that reporters can tell what is alike
def _class_of(name: str, base_name: str) -> type[Warning]:
    base = CATEGORIES[base_name]
    if name == base_name or not _CLASS_NAME.fullmatch(name):
        return base
    return type(name, (base,), {})

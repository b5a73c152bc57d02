"""What a shard's pytest reports, made into events: runs there."""

from __future__ import annotations

import linecache
import math
import warnings
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from pytest_sandboxes.batch import events
from pytest_sandboxes.batch.attempts import OUTCOMES
from pytest_sandboxes.batch.events import BrokenEvent, Context, Failure, Record, Report, Warned

_LEAST_KEPT = 1000  # characters of a text that is cut
_LEAST_REPORTS = 1000  # of a test, when nothing but their outcomes is sent
_DROPPED = frozenset({"nodeid", "location", "node", "item_index", "worker_id", "testrun_uid", "result"})


class Rewriting:
    """Replaces paths of this place by those that the controller knows, in all that people read."""

    def __init__(self, paths: Sequence[tuple[str, str]]) -> None:
        """`paths`: pairs of one here and one there; of two that begin alike, the longer one first."""
        self._paths = paths

    def __call__(self, value: Any) -> Any:
        """The same data with other paths in its texts, and tuples as lists."""
        if isinstance(value, str):
            for here, there in self._paths:
                if here in value:
                    value = value.replace(here, there)
            return value
        if isinstance(value, dict):
            return {self(key): self(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self(each) for each in value]
        return value


def record(test: int, attempts: Sequence[Sequence[Report]]) -> bytes:
    """The line for a test and what was reported at each attempt, cut until it fits."""
    kept = [*attempts[:-1][: events.MOST_ATTEMPTS - 1], attempts[-1]]
    event = Record(test=test, attempts=[_fewer(each, events.MOST_REPORTS) for each in kept])
    limit = events.MOST_BYTES
    while True:
        try:
            return events.encode(event)
        except BrokenEvent:
            limit //= 8
        data = msgspec.to_builtins(event)
        event = msgspec.convert(_cut(data, limit), Record)
        if limit < _LEAST_KEPT:  # nothing but masses of small things is left
            last = [_bare(each) for each in _fewer(attempts[-1], _LEAST_REPORTS)]
            event = Record(test=test, attempts=[last])


def report(config: pytest.Config, reported: pytest.TestReport, rewriting: Rewriting) -> Report | None:
    """A report as it is sent; None for an outcome that some plugin has made up, and nobody takes for a verdict."""
    # whichever plugin knows its class makes it plain data
    data = dict(config.hook.pytest_report_to_serializable(config=config, report=reported))
    if data["outcome"] not in OUTCOMES:
        return None
    context = data.pop("_subtest.context", None)
    longrepr = rewriting(data.pop("longrepr"))
    skip = None
    if data["outcome"] == "skipped" and "wasxfail" not in data:
        path, line, reason = longrepr if isinstance(longrepr, list) else ("", 0, longrepr)
        skip, longrepr = (str(path), int(line or 0), str(reason)), None
    elif data["outcome"] == "failed" and longrepr is None:
        longrepr = ""
    known = {name: data.pop(name) for name in Report.__struct_fields__ if name in data}
    extra = {name: each for name, each in data.items() if name not in _DROPPED and events.is_extra(name)}
    return Report(
        when=known["when"],
        outcome=known["outcome"],
        longrepr=_longrepr(longrepr),
        skip=skip,
        duration=_seconds(known.get("duration")),
        start=_seconds(known.get("start")),
        stop=_seconds(known.get("stop")),
        keywords=[str(name)[:1000] for name in known.get("keywords", ())],
        user_properties=[
            (str(name), rewriting(_property(value))) for name, value in known.get("user_properties", ())
        ],
        sections=[(str(name), rewriting(str(text))) for name, text in known.get("sections", ())],
        wasxfail=None if "wasxfail" not in known else str(known["wasxfail"]),
        subtest=None if context is None else _context(context),
        extra={name: rewriting(each) for name, each in extra.items() if events.is_plain(each)},
    )


def _longrepr(value: Any) -> Failure | str | None:
    """As the controller will take it; a representation that it would not becomes text."""
    if not isinstance(value, dict):
        return None if value is None else str(value)
    for frames in [value["reprtraceback"], *(each[0] for each in value.get("chain") or ())]:
        for entry in frames["reprentries"]:
            arguments = entry["data"].get("reprfuncargs")
            if arguments:
                arguments["args"] = [(str(name), str(each)) for name, each in arguments["args"]]
            if entry["type"] == "ReprEntryNative":
                entry["data"] = {"lines": entry["data"]["lines"]}
    try:
        return msgspec.convert(value, Failure)
    except msgspec.ValidationError as error:
        return (
            f"{value.get('reprcrash')}\n(pytest's representation of this failure is not understood: {error})"
        )


def _context(context: Any) -> Context:
    message = context.get("msg")
    return Context(
        msg=None if message is None else str(message),
        kwargs={str(name): str(value) for name, value in (context.get("kwargs") or {}).items()},
    )


def _seconds(value: Any) -> float:
    """As the controller will take it: a clock that was set back makes a time that is none."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return min(max(float(value), 0.0), events.MOST_SECONDS) if is_number else 0.0


def _fewer(reports: Sequence[Report], most: int) -> list[Report]:
    """No more than so many: of masses of subtests, those that have failed before the others."""
    if len(reports) <= most:
        return list(reports)
    ranks = [2 if each.subtest is None else each.outcome == "failed" for each in reports]
    order = sorted(range(len(reports)), key=ranks.__getitem__, reverse=True)
    return [reports[position] for position in sorted(order[:most])]


def _property(value: Any) -> events.Plain:
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, bool):
        return value
    if type(value) in (int, float) and events.is_plain(value):
        return value  # type: ignore[no-any-return]
    return str(value)


def _cut(value: Any, limit: int) -> Any:
    """The same data, with texts cut in the middle, and the cut visible."""
    if isinstance(value, str) and len(value) > limit:
        half = limit // 2
        return f"{value[:half]}\n[… {len(value) - 2 * half:,} characters are cut here …]\n{value[-half:]}"
    if isinstance(value, dict):
        return {key: _cut(each, limit) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_cut(each, limit) for each in value]
    return value


def _bare(report: Report) -> Report:
    note = "its report was too long for a shard to send"
    return Report(
        when=report.when,
        outcome=report.outcome,
        longrepr=note if report.outcome == "failed" else None,
        skip=None if report.skip is None else ("", 0, note),
        duration=report.duration,
        start=report.start,
        stop=report.stop,
        wasxfail=None if report.wasxfail is None else _cut(report.wasxfail, _LEAST_KEPT),
        subtest=None if report.subtest is None else Context(msg=note, kwargs={}),
    )


def warned(warning: warnings.WarningMessage, test: int | None, rewriting: Rewriting) -> bytes:
    """The line for a warning."""
    names = [each.__name__ for each in warning.category.__mro__]
    line = warning.line if warning.line is not None else linecache.getline(warning.filename, warning.lineno)
    event = Warned(
        category=warning.category.__name__[:1000],
        base=next((name for name in names if name in events.CATEGORIES), "Warning"),
        message=rewriting(_cut(str(warning.message), 1 << 20)),
        filename=rewriting(warning.filename),
        lineno=warning.lineno,
        line=_cut(line, 10_000),
        test=test,
    )
    return events.encode(event)

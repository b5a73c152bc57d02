"""Making reports safe to print and to send: what code under evaluation wrote is text in them, and nothing more."""

from __future__ import annotations

import re
from typing import Any

import pytest
from _pytest._code.code import TerminalRepr

from pytest_sandboxes.display import printable

# Lines of a log that CI systems obey: of GitHub Actions, of older GitHub runners and Azure Pipelines, and of TeamCity.
# The first counts at the start of a line only, the others anywhere in it.
_AT_START = "::"
_ANYWHERE = re.compile(r"##(?=\[|vso\[|teamcity\[)")
_COLOURS = re.compile("\x1b\\[[0-9;]*m")
_LOG = "Captured log"


def scrub(report: pytest.TestReport) -> None:
    """Escape control characters in everything that a report prints, and defuse lines that a CI system would obey.

    Applies to failure representations, reasons, captured output, properties and the descriptions of subtests. Text that
    is clean stays the same object.
    """
    if isinstance(report.longrepr, str):
        report.longrepr = clean(report.longrepr)
    elif isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = (path, line, clean(reason))
    elif report.longrepr is not None:
        _scrub_fields(report.longrepr)
    report.sections = [(clean(name), _clean_section(name, content)) for name, content in report.sections]
    report.user_properties = [(clean(name), _scrub_fields(value)) for name, value in report.user_properties]
    if hasattr(report, "wasxfail"):
        report.wasxfail = _scrub_fields(report.wasxfail)
    context: Any = getattr(report, "context", None)
    if context is not None:  # of a subtest
        vars(report)["context"] = _scrub_context(context)


def clean(text: str) -> str:
    """`text` without what a terminal or a CI system would obey."""
    text = _ANYWHERE.sub("# #", printable(text))
    if _AT_START not in text:
        return text
    return "".join(
        f"| {line}" if line.lstrip().startswith(_AT_START) else line
        for line in text.splitlines(keepends=True)
    )


def _clean_section(name: str, content: str) -> str:
    # on a terminal, pytest has coloured the levels of captured logs by now, as nobody else's
    return clean(_COLOURS.sub("", content) if name.startswith(_LOG) else content)


def _scrub_fields(value: Any) -> Any:
    """Clean all text in pytest's representation of an exception: objects of its own, lists and tuples."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        value[:] = [_scrub_fields(item) for item in value]
    elif isinstance(value, tuple):
        return tuple(_scrub_fields(item) for item in value)
    elif isinstance(value, TerminalRepr):
        for name, item in vars(value).items():
            setattr(value, name, _scrub_fields(item))
    return value


def _scrub_context(context: Any) -> Any:
    """What `subtests.test(msg, **kwargs)` was called with; the values are text by now."""
    message = context.msg if context.msg is None else clean(str(context.msg))
    return type(context)(
        msg=message, kwargs={clean(name): clean(value) for name, value in context.kwargs.items()}
    )

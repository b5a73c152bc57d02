"""Making reports safe to print and to send: what code under evaluation wrote is text in them, and nothing more."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pytest_sandboxes.display import printable

_WORKFLOW_COMMANDS = ("::", "##[", "##vso[")  # GitHub Actions and Azure Pipelines obey such lines of a log


def scrub(report: pytest.TestReport) -> None:
    """Escape control characters in everything that a report prints, and defuse lines that a CI system would obey.

    Applies to failure representations and captured output. Text that is clean stays the same object.
    """
    if isinstance(report.longrepr, str):
        report.longrepr = clean(report.longrepr)
    elif isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = (path, line, clean(reason))
    elif report.longrepr is not None:
        _scrub_fields(report.longrepr)
    report.sections = [(name, clean(content)) for name, content in report.sections]


def clean(text: str) -> str:
    """`text` without what a terminal or a CI system would obey."""
    text = printable(text)
    if not any(command in text for command in _WORKFLOW_COMMANDS):
        return text
    return "".join(
        f"| {line}" if line.lstrip().startswith(_WORKFLOW_COMMANDS) else line
        for line in text.splitlines(keepends=True)
    )


def _scrub_fields(value: Any) -> Any:
    """Clean all text in pytest's representation of an exception, which is made of dataclasses and lists."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        value[:] = [_scrub_fields(item) for item in value]
    elif isinstance(value, tuple):
        return tuple(_scrub_fields(item) for item in value)
    elif dataclasses.is_dataclass(value):
        for name, item in vars(value).items():
            if isinstance(item, str | list | tuple) or dataclasses.is_dataclass(item):
                object.__setattr__(value, name, _scrub_fields(item))
    return value

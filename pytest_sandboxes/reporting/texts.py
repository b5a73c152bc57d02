"""All the text that a report prints, changed in place."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from _pytest._code.code import TerminalRepr

Change = Callable[[str], str]

_PLAIN = (tuple, set, frozenset)


def change_texts(report: pytest.TestReport, change: Change) -> None:
    """Put all that a report prints through `change`.

    That is failure representations, reasons and where they stand, captured output, properties and descriptions of
    subtests. Text that stays the same stays the same object, if `change` leaves it.
    """
    if isinstance(report.longrepr, str):
        report.longrepr = change(report.longrepr)
    elif isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = (change(path), line, change(reason))
    elif report.longrepr is not None:
        _change_fields(report.longrepr, change)
    report.sections = [(change(name), change(content)) for name, content in report.sections]
    report.user_properties = [
        (change(name), _change_fields(value, change)) for name, value in report.user_properties
    ]
    if hasattr(report, "wasxfail"):
        report.wasxfail = _change_fields(report.wasxfail, change)
    context: Any = getattr(report, "context", None)
    if context is not None:  # of a subtest
        vars(report)["context"] = _change_context(context, change)


def change_warning(warning: warnings.WarningMessage, change: Change) -> None:
    """The same for a warning, whose text is printed and, by workers of pytest-xdist, sent."""
    message: Warning | str = warning.message
    if isinstance(message, Warning):
        message.args = tuple(_change_fields(item, change) for item in message.args)
    else:
        warning.message = change(message)


def _change_fields(value: Any, change: Change) -> Any:
    """Change all text in pytest's representation of an exception, and in plain data of any depth."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        value[:] = [_change_fields(item, change) for item in value]
    elif isinstance(value, tuple | set | frozenset):
        changed = (_change_fields(item, change) for item in value)
        return type(value)(changed) if type(value) in _PLAIN else value
    elif isinstance(value, dict):
        return {_change_fields(key, change): _change_fields(item, change) for key, item in value.items()}
    elif isinstance(value, TerminalRepr):
        for name, item in vars(value).items():
            setattr(value, name, _change_fields(item, change))
    return value


def _change_context(context: Any, change: Change) -> Any:
    """What `subtests.test(msg, **kwargs)` was called with; the values are text by now."""
    message = context.msg if context.msg is None else change(str(context.msg))
    return type(context)(
        msg=message, kwargs={change(name): change(value) for name, value in context.kwargs.items()}
    )

"""Making reports safe to print and to send: what code under evaluation wrote is text in them, and nothing more."""

from __future__ import annotations

import re
import warnings

import pytest

from pytest_sandboxes.display import printable
from pytest_sandboxes.reporting.texts import change_texts, change_warning

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
    report.sections = [(name, _colourless(name, content)) for name, content in report.sections]
    change_texts(report, clean)


def clean(text: str) -> str:
    """`text` without what a terminal or a CI system would obey."""
    text = _ANYWHERE.sub("# #", printable(text))
    if _AT_START not in text:
        return text
    return "".join(
        f"| {line}" if line.lstrip().startswith(_AT_START) else line
        for line in text.splitlines(keepends=True)
    )


def _colourless(name: str, content: str) -> str:
    # on a terminal, pytest has coloured the levels of captured logs by now, as nobody else's
    return _COLOURS.sub("", content) if name.startswith(_LOG) else content


def scrub_warning(warning: warnings.WarningMessage) -> None:
    """The same for a warning, whose text is printed and, by workers of pytest-xdist, sent."""
    change_warning(warning, clean)

"""Masking secrets in reports.

The code has them, so it can print them, and what it prints is compared and shown by tests. Results hold what came;
reports, on a terminal, in JUnit or by another plugin, have `***NAME***` in place of a value. That is against accidents:
code that wants to can spell a value in ways that nobody looks for.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Generator, Iterator, Mapping

import pytest

from pytest_sandboxes.display import printable
from pytest_sandboxes.reporting.texts import change_texts, change_warning
from pytest_sandboxes.secret_values import Secrets

SHORTEST = 4
"""Characters of the shortest value, or line of a value, that is masked: a shorter one is in every text by chance."""

_CUT = re.compile(r"\.\.\.|…")
_UP_TO_LINE = re.compile(r"\n[^\n|]{0,20}\| ")  # of a result, as `display.tail` cuts them


class Mask:
    """Replaces values by their names, wherever they stand, and what of them stands beside a cut."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._names = {
            spelling: f"***{name}***" for name, value in values.items() for spelling in _spellings(value)
        }
        longest_first = sorted(self._names, key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._pieces = {
            value[start : start + SHORTEST]
            for value in self._names
            for start in range(len(value) - SHORTEST + 1)
        }

    def __call__(self, text: str) -> str:
        """`text` without the values."""
        text = self._values.sub(lambda found: self._names[found.group()], text)
        cuts = list(_CUT.finditer(text))
        if not cuts:
            return text
        # what is cut may have been cut within a value
        parts, at = [], 0
        for cut in cuts:
            before = text[at : cut.start()]
            size, name = self._begun_at_end(before)
            parts += [before[: len(before) - size], name, cut.group()]
            at = cut.end()
            found = _UP_TO_LINE.match(text, at)
            start = at if found is None else found.end()
            size, name = self._ended_at(text, start)
            if size:
                parts += [text[at:start], name]
                at = start + size
        return "".join([*parts, text[at:]])

    def _begun_at_end(self, text: str) -> tuple[int, str]:
        """How much of the longest value that begins at the end of `text` is there, and its name."""
        if text[-SHORTEST:] not in self._pieces:  # which is quick, and mostly so
            return 0, ""
        found = (
            (size, name)
            for value, name in self._names.items()
            for size in range(SHORTEST, len(value))
            if text.endswith(value[:size])
        )
        return max(found, default=(0, ""))

    def _ended_at(self, text: str, start: int) -> tuple[int, str]:
        """The same of a value whose end is at `start`."""
        if text[start : start + SHORTEST] not in self._pieces:
            return 0, ""
        found = (
            (size, name)
            for value, name in self._names.items()
            for size in range(SHORTEST, len(value))
            if text.startswith(value[-size:], start)
        )
        return max(found, default=(0, ""))


class Redaction:
    """A pytest plugin of the process that has the values: it sees each report before anybody prints or keeps it."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._masked: Mapping[str, str] = {}
        self._mask = Mask({})

    def _current(self) -> Mask | None:
        values = self._secrets.used()
        if values != self._masked:
            self._masked, self._mask = values, Mask(values)
        return self._mask if values else None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Mask what has just been made."""
        return self._masked_report((yield))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Mask what comes from a worker, or has been added since."""
        self._masked_report(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        """Mask the text of a warning."""
        mask = self._current()
        if mask is not None:
            change_warning(warning_message, mask)

    def _masked_report(self, report: pytest.TestReport) -> pytest.TestReport:
        mask = self._current()
        if mask is not None:
            change_texts(report, mask)
        return report


def _spellings(value: str) -> Iterator[str]:
    """A value, and each line of it, as text and as Python and JSON write it."""
    for part in {value, *value.splitlines()}:
        for spelling in (part, repr(part)[1:-1], json.dumps(part)[1:-1], printable(part)):
            if len(spelling.strip()) >= SHORTEST:
                yield spelling

"""Reports without anything that a terminal, a CI system or a report's format would obey."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from _pytest._code.code import ReprEntryNative, ReprExceptionInfo, ReprFileLocation, ReprTracebackNative
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes.reporting.scrub import clean, scrub

HOSTILE = "a\x1b]0;t\x07\n::add-mask::b\n##[error]c"
HARMLESS = "a\\x1b]0;t\\x07\n| ::add-mask::b\n# #[error]c"


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("", ""),
        ("plain\ttext\n", "plain\ttext\n"),
        ("größer 你好 🙂", "größer 你好 🙂"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b31m", "\\x9b31m"),
        ("over\rwritten", "over\\x0dwritten"),
        ("\u202eright to left", "\\u202eright to left"),
        ("\ud800", "\\ud800"),
        ("::error::x", "| ::error::x"),
        ("  ::error::x\nb", "|   ::error::x\nb"),
        ("a\n\n::error::x\n", "a\n\n| ::error::x\n"),
        ("a ::error::x", "a ::error::x"),
        ("std::vector", "std::vector"),
        ("##[group]x", "# #[group]x"),
        ("in the middle ##[group]x", "in the middle # #[group]x"),
        ("##vso[task.setvariable]x", "# #vso[task.setvariable]x"),
        ("### a heading", "### a heading"),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_clean_text_stays_the_same_object() -> None:
    text = "nothing to see here\n" * 10
    assert clean(text) is text


@given(st.text(st.characters() | st.sampled_from(":#[\n\r\x1b\x85\u2028\ud800 "), max_size=60))
def test_cleaned_text_is_obeyed_by_nobody(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert cleaned.encode().decode() == cleaned
    assert "##[" not in cleaned
    assert not set(cleaned) & CONTROLS
    assert not [line for line in cleaned.split("\n") if line.lstrip().startswith("::")]


CONTROLS = {
    chr(code) for code in (*range(9), *range(11, 32), *range(127, 160), 0x2028, 0x2029, 0x202E, 0xFEFF)
}


def report(**changes: Any) -> pytest.TestReport:
    made = pytest.TestReport("test_x.py::test_y", ("test_x.py", 0, "test_y"), {}, "failed", None, "call")
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def scrubbed(**changes: Any) -> pytest.TestReport:
    made = report(**changes)
    scrub(made)
    return made


def test_failure_as_text() -> None:
    assert scrubbed(longrepr=HOSTILE).longrepr == HARMLESS


def test_reason_of_a_skip() -> None:
    assert scrubbed(longrepr=("test_x.py", 3, HOSTILE)).longrepr == ("test_x.py", 3, HARMLESS)


def test_failure_as_traceback() -> None:
    traceback = ReprTracebackNative([HOSTILE])
    longrepr = ReprExceptionInfo(traceback, ReprFileLocation("test_x.py", 3, HOSTILE))
    scrubbed(longrepr=longrepr)
    (entry,) = traceback.reprentries
    assert isinstance(entry, ReprEntryNative)
    assert (list(entry.lines), longrepr.reprcrash and longrepr.reprcrash.message) == ([HARMLESS], HARMLESS)


def test_reason_of_an_expected_failure() -> None:
    assert scrubbed(wasxfail=HOSTILE).wasxfail == HARMLESS


def test_sections_and_properties() -> None:
    found = scrubbed(
        sections=[("Captured stdout call", HOSTILE)],
        user_properties=[("name\x1b", HOSTILE), ("number", 3), ("list", [HOSTILE])],
    )
    assert found.sections == [("Captured stdout call", HARMLESS)]
    assert found.user_properties == [("name\\x1b", HARMLESS), ("number", 3), ("list", [HARMLESS])]


def test_levels_of_logs_have_been_coloured_by_pytest() -> None:
    found = scrubbed(sections=[("Captured log call", "\x1b[33mWARNING\x1b[0m \x1b[2J")])
    assert found.sections == [("Captured log call", "WARNING \\x1b[2J")]


def test_description_of_a_subtest() -> None:
    class Context(SimpleNamespace):
        pass

    found: Any = scrubbed(context=Context(msg=HOSTILE, kwargs={"given": HOSTILE}))
    assert found.context == Context(msg=HARMLESS, kwargs={"given": HARMLESS})
    found = scrubbed(context=Context(msg=None, kwargs={}))
    assert found.context == Context(msg=None, kwargs={})

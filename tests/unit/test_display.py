from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes.display import one_line, printable, tail

anything = st.text(st.characters(codec=None, exclude_categories=()))
hostile = st.lists(
    st.sampled_from(
        [
            *(
                "\x1b[31m",
                "\x1b]0;title\x07",
                "\r",
                "\n",
                "\t",
                "\x9b2J",
                "\u202e",
                "\u2066",
                "\u2028",
                "\x85",
            ),
            *("\ud800", "\udfff", "\ufeff", "\x00", "\x7f", "::add-mask::secret", "##[error]", "ü", "日本"),
        ]
    )
).map("".join)
DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def obeyed(text: str, allowed: str = "") -> list[str]:
    """Characters of a text that a terminal may obey, or that cannot be written."""
    return [
        character
        for character in text
        if character not in allowed
        and (
            unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
            or unicodedata.bidirectional(character) in DIRECTIONS
        )
    ]


@given(anything | hostile)
def test_nothing_printable_is_obeyed_and_all_of_it_can_be_written(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert obeyed(shown, "\n\t") == []


@given(anything | hostile)
def test_what_is_printable_stays_as_it_is(text: str) -> None:
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize("text", ["", "plain", "two\n\tlines\n", "ü, 日本, 🎉", "\\x1b"])
def test_harmless_text_is_not_touched(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", r"\x1b[31m"),
        ("a\rb", r"a\x0db"),
        ("\x9b", r"\x9b"),
        ("\u202eabc", r"\u202eabc"),
        ("\ud800", r"\ud800"),
        ("\ufeff", r"\ufeff"),
    ],
)
def test_the_rest_is_written_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(anything | hostile, st.integers(1, 50))
def test_one_line_is_one_line_of_at_most_its_limit(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert obeyed(line) == []
    line.encode()
    if len(line) < limit:
        assert one_line(text, 1 << 20) == line


def test_a_cut_line_shows_it() -> None:
    assert one_line("a" * 10, 10) == "a" * 10
    assert one_line("a" * 11, 10) == "a" * 9 + "…"
    assert one_line("a\nb\tc") == r"a\nb\tc"


@given(anything | hostile, st.integers(1, 5), st.integers(1, 80))
def test_a_tail_is_so_many_prefixed_lines(text: str, lines: int, characters: int) -> None:
    shown = tail(text, lines=lines, characters=characters)
    rows = shown.split("\n")
    assert len(rows) <= lines + 1
    assert all(row.startswith("| ") for row in rows) or not text
    assert obeyed(shown, "\n\t") == []
    assert len(shown) <= 6 * characters + 2 * len(rows) + len(rows) + 3


def test_a_tail_is_the_end_and_shows_a_cut() -> None:
    assert tail("one\ntwo") == "| one\n| two"
    assert tail("one\ntwo\nthree", lines=2) == "| …\n| two\n| three"
    assert tail("abcdef", characters=3) == "| …\n| def"
    assert tail("") == ""


def test_no_line_of_a_tail_is_a_command_of_a_ci_system() -> None:
    assert tail("x\n::add-mask::x\r::error::y") == "| x\n| ::add-mask::x\n| ::error::y"

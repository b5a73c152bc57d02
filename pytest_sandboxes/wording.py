"""Pieces of the sentences in which mistakes are explained, so that all of them read alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_sandboxes.display import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import yaml

_LONGEST_TYPO = 64  # difflib is quadratic, and nobody mistypes more than this


def shown(value: object) -> str:
    """`value` as one would write it in Python: one safe line, cut when long, never an exception."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a broken `__repr__`, or an int too long to be printed
        text = f"<{type(value).__name__}>"
    return one_line(text, 80)


def alternatives(names: Iterable[str], conjunction: str = "or") -> str:
    """`a, b or c`."""
    *most, last = names
    return f"{', '.join(most)} {conjunction} {last}" if most else last


def there_are(names: Sequence[str]) -> str:
    """`there is a`, or `there are a, b and c`."""
    return f"there {'is' if len(names) == 1 else 'are'} {alternatives(names, 'and')}"


def counted(number: int, what: str) -> str:
    """`1 test`, or `2,000 tests`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def yaml_mistake(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    """The line of `text`, from 1, at which the parser gave up, and what is wrong there, as a whole sentence.

    The parser's own sentence has two halves, of which the first says what was begun, and where.
    """
    last = text.rstrip().count("\n") + 1  # an unclosed bracket is noticed behind the end
    mark = error.problem_mark or error.context_mark
    line = last if mark is None else min(mark.line + 1, last)
    problem = error.problem or error.context or "malformed"
    if error.problem and error.context:
        begun = "" if error.context_mark is None else f" from line {min(error.context_mark.line + 1, last)}"
        problem = f"{error.context}{begun}, {problem}"
    return line, one_line(problem)


def did_you_mean(wrong: str, right: Iterable[str]) -> str:
    """The end of a sentence that proposes the nearest of the `right` names, empty when none is near."""
    from difflib import get_close_matches

    by_folded = {name.casefold(): name for name in right}
    near = get_close_matches(wrong[:_LONGEST_TYPO].casefold(), by_folded, n=1)
    return f"; did you mean {by_folded[near[0]]!r}?" if near else ""

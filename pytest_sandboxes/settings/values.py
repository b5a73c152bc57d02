"""What the values of options may be, wherever they were given, and what is said of those that are not."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.wording import alternatives, did_you_mean, shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEEP_FLAG = "--sandbox-keep"
KEEP_SECONDS = 900.0
"""How long sandboxes are kept when nothing else is said."""
_KEEP_AT_MOST = 24 * 3600  # seconds
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True)
class Given:
    """A value as it was found, before it is checked."""

    raw: object
    source: str
    directory: Path
    """What a relative path in `raw` starts from."""

    def refused(self, expected: str) -> ConfigurationError:
        """The error that says what would have been right."""
        return ConfigurationError(f"{self.source} is {shown(self.raw)}, but must be {expected}")


def one_of(choices: tuple[str, ...]) -> Callable[[Given], str]:
    """A parser that accepts exactly the names in `choices`."""

    def parse(given: Given) -> str:
        text = str(given.raw).strip()
        if text not in choices:
            raise given.refused(alternatives(choices) + did_you_mean(text, choices))
        return text

    return parse


def backends(given: Given) -> tuple[str, ...]:
    """Names of backends, with commas between."""
    names = tuple(name.strip() for name in str(given.raw).split(","))
    for name in names:
        # A name becomes part of test ids, labels and file names.
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,62}", name):
            what = f"{shown(name)} is none" if name else "one is empty"
            raise given.refused(f"backend names (letters, digits, '-' and '_') with commas between; {what}")
        if names.count(name) > 1:
            raise given.refused(f"backend names, each once; {name!r} is there {names.count(name)} times")
    return names


def profile_name(given: Given) -> str:
    """The name of a profile."""
    text = str(given.raw).strip()
    if not text:
        raise given.refused("the name of a profile")
    return text


def image_name(given: Given) -> str:
    """The name of a container image; whether there is one, an Engine knows."""
    text = str(given.raw).strip()
    if not re.fullmatch(r"[A-Za-z0-9][\w./:@-]{0,500}", text, re.ASCII):
        raise given.refused("the name of a container image, such as python:3.12-slim")
    return text


def path_of(what: str) -> Callable[[Given], Path]:
    """A parser that accepts the path of a file, be it there or not."""

    def parse(given: Given) -> Path:
        text = os.path.expanduser(str(given.raw).strip())  # noqa: PTH111 - Path.expanduser raises for unknown users
        if not text or "\0" in text:
            raise given.refused(f"the path of a {what}")
        return given.directory / text

    return parse


def whole_number(least: int, most: int) -> Callable[[Given], int]:
    """A parser that accepts whole numbers between two."""

    def parse(given: Given) -> int:
        text = str(given.raw).strip()
        if not re.fullmatch(r"[0-9]{1,12}", text) or not least <= int(text) <= most:
            raise given.refused(f"a whole number from {least} to {most}")
        return int(text)

    return parse


def shards(given: Given) -> int | None:
    """How many shards there are to be; None for `auto`."""
    text = str(given.raw).strip()
    if text == "auto":
        return None
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) == 0:
        raise given.refused("auto, or a whole number from 1 to 99999")
    return int(text)


def switch(given: Given) -> bool:
    """On or off."""
    text = str(given.raw).strip().lower()
    if text not in _TRUE | _FALSE:
        raise given.refused("true or false (or 1, yes, on, 0, no, off)")
    return text in _TRUE


def keep_seconds(given: Given) -> float | None:
    """The seconds for which sandboxes are kept; None for not at all."""
    text = str(given.raw).strip().lower()
    if text in _FALSE:
        return None
    if text in _TRUE - {"1"}:
        return KEEP_SECONDS
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > _KEEP_AT_MOST:
        hint = (
            "; a value is written behind '=', as in --sandbox-keep=600" if given.source == KEEP_FLAG else ""
        )
        raise given.refused(f"a whole number of seconds up to {_KEEP_AT_MOST}, or true or false{hint}")
    return float(text)

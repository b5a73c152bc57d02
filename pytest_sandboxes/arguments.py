"""What the arguments of a slot's calls may be: one check for each kind, whichever twin is called.

What is of the wrong type raises TypeError, another wrong value ValueError: one sentence that names the argument, says
what it has to be, and shows what was given.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from pytest_sandboxes.wording import shown

__tracebackhide__ = True  # a failing test shows its own line, not ours

_YEAR = 366 * 24 * 3600  # no wait is longer, and no clock or timer overflows
_LARGEST = 1 << 62


def as_bytes(value: object, what: str) -> bytes:
    """A path, or another word of a command, as the kernel takes it. Raises ValueError for a NUL, too."""
    if not isinstance(value, str | bytes | os.PathLike):
        raise _wrong_type(what, "text, bytes or a path", value)
    data = os.fsencode(value)
    if b"\0" in data:
        raise ValueError(f"{what} holds a NUL byte: leave it out")
    return data


def content(value: object, what: str) -> bytes:
    """What a file or a stream is to hold: bytes, or whatever else has a buffer."""
    try:
        return value if isinstance(value, bytes) else bytes(memoryview(value))  # type: ignore[arg-type]
    except TypeError:
        raise _wrong_type(what, "bytes", value) from None


def text_or_content(value: object, what: str) -> bytes:
    """As `content`, or text, which becomes UTF-8."""
    if isinstance(value, str):
        return value.encode()
    try:
        return content(value, what)
    except TypeError:
        raise _wrong_type(what, "text or bytes", value) from None


def text(value: object, what: str) -> str:
    """Text and nothing else."""
    if not isinstance(value, str):
        raise _wrong_type(what, "text", value)
    return value


def local_path(value: object, what: str) -> Path:
    """A path on this machine."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise _wrong_type(what, "a path, as text or a path object", value)
    return Path(path)


def deadline(timeout: object) -> float | None:
    """Seconds that a command may take; None, or infinity, is for ever."""
    right = "a number of seconds above 0, up to a year, or math.inf"
    seconds = _seconds(timeout, right)
    if seconds is not None and not 0 < seconds <= _YEAR:
        raise _wrong_value("timeout", right, timeout)
    return seconds


def patience(timeout: object) -> float | None:
    """Seconds that a caller waits; None, or infinity, is for ever, and what is below 0 has passed already."""
    right = "a number of seconds, up to a year, or math.inf"
    seconds = _seconds(timeout, right)
    if seconds is not None and not seconds <= _YEAR:
        raise _wrong_value("timeout", right, timeout)
    return seconds


def _seconds(timeout: object, right: str) -> float | None:
    if timeout is None or (isinstance(timeout, float) and timeout == math.inf):
        return None
    if not isinstance(timeout, int | float) or isinstance(timeout, bool):
        raise _wrong_type("timeout", right, timeout)
    return timeout


def limit(value: object, what: str) -> int:
    """The most bytes or entries that a call may return."""
    right = "a whole number that is not below 0"
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_type(what, right, value)
    if value < 0:
        raise _wrong_value(what, right, value)
    return min(value, _LARGEST)


def permissions(mode: object) -> int | None:
    """The permission bits of a file; None leaves them alone."""
    right = "permission bits such as 0o644, at most 0o7777"
    if mode is None:
        return None
    if not isinstance(mode, int) or isinstance(mode, bool):
        raise _wrong_type("mode", right, mode)
    if not 0 <= mode <= 0o7777:
        raise _wrong_value("mode", right, mode)
    return mode


def environment(env: object) -> dict[bytes, bytes]:
    """Environment variables that a call adds; None adds none."""
    if env is None:
        return {}
    if not isinstance(env, Mapping):
        raise _wrong_type("env", "a mapping of names to texts", env)
    variables = {}
    for name, value in env.items():
        if not isinstance(name, str):
            raise _wrong_type("a name in env", "text", name)
        if not name or "=" in name:
            raise _wrong_value("a name in env", "non-empty text without '='", name)
        variables[as_bytes(name, "a name in env")] = as_bytes(value, f"env[{name!r}]")
    return variables


def _wrong_type(what: str, right: str, value: object) -> TypeError:
    given = "None" if value is None else f"{shown(value)} ({type(value).__name__})"
    return TypeError(f"{what} has to be {right}, not {given}")


def _wrong_value(what: str, right: str, value: object) -> ValueError:
    return ValueError(f"{what} has to be {right}, not {shown(value)}")

"""What the values of profile fields may be, and the check that tells a user what is wrong with one.

Types are strict: `true` is no number, `"2"` is not 2, but 2 will do where 2.5 would. Every type carries the
words in which a message says what would have been right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.wording import alternatives, did_you_mean, shown

if TYPE_CHECKING:
    from collections.abc import Callable

_YEAR = 366 * 24 * 3600  # no wait is longer, and no clock or timer overflows
_HUGE = 2**53  # the largest integer that every JSON reader keeps exact
_PETABYTE = 2**30  # in MB; a few thousand times as much, and the kernel's byte counts overflow
_MOST_PROCESSES = 2**22  # what the kernel numbers at most
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?([eE]\+?[0-9]{1,2})?")
_SYSTEM = ("bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin", "sys")
_OF_VAR = ("lock", "run", "tmp")  # links to system directories, where there is a /var

Text = Annotated[str, Meta(min_length=1, description="non-empty text")]
Workspace = Annotated[
    str,
    Meta(
        # images keep their applications in /usr/src
        pattern=rf"^(?!/({'|'.join(_SYSTEM)}|var/({'|'.join(_OF_VAR)})|usr(?!/src/.))(/|$))(/(?!\.\.?(/|$))[^/]+)+/?$",
        description="an absolute path other than '/', without '.' and '..' in it, and outside of directories of the "
        "system, such as /workspace",
    ),
]
Source = Annotated[
    str,
    Meta(
        pattern=r"^(?!([\s\S]*/)?\.\.(/|$))[\s\S]",
        description="the path of a directory without '..' in it, absolute for one of the image, or else "
        "relative to the rootdir",
    ),
]
Gpu = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._!+-]*(:[1-9][0-9]{0,2})?$",
        description="a kind of GPU, with ':' and a number for several, such as A100:2",
    ),
]
Count = Annotated[int, Meta(ge=0, le=_HUGE, description="a whole number that is not below 0")]
PositiveCount = Annotated[int, Meta(ge=1, le=_HUGE, description="a whole number above 0")]
Bytes = Annotated[int, Meta(ge=1, le=_HUGE, description="a whole number of bytes above 0")]
Megabytes = Annotated[
    int, Meta(ge=1, le=_PETABYTE, description=f"a whole number of MB above 0, up to {_PETABYTE}")
]
Processes = Annotated[
    int, Meta(ge=1, le=_MOST_PROCESSES, description=f"a whole number above 0, up to {_MOST_PROCESSES}")
]
Cores = Annotated[float, Meta(gt=0, le=_HUGE, description="a number of cores above 0")]
Seconds = Annotated[float, Meta(gt=0, le=_YEAR, description="a number of seconds above 0, up to a year")]
Network = Literal["none", "outbound"]

Texts = tuple[Text, ...]
"""Non-empty texts, written as a list."""
Variables = Mapping[str, str]
"""Environment variables: names without `=`, values possibly empty."""
Section = Mapping[str, object]
"""Plain data that only one backend understands, and checks: whatever JSON could hold."""

_DEEPEST_SECTION = 20


def check_value(annotation: object, value: object, label: str, where: str) -> object:
    """`value` as a field of the type `annotation` holds it: tuples for lists, floats for cores.

    Raises ConfigurationError, one sentence with `where` it came from, the `label` of the field, the value,
    and what would have been right.
    """
    return _CHECKS.get(annotation, _check_scalar)(annotation, value, label, where)


def _check_scalar(annotation: object, value: object, label: str, where: str) -> object:
    try:
        checked: object = msgspec.convert(value, annotation)
    except msgspec.ValidationError:
        raise _refusal(value, label, where, _expected(annotation), _hint(annotation, value)) from None
    if isinstance(checked, str):
        _check_text(checked, label, where)
    return checked


def _check_texts(_: object, value: object, label: str, where: str) -> tuple[object, ...]:
    # Not any iterable: a string would become its characters, and a set has another order in every process.
    if not isinstance(value, list | tuple):
        raise _refusal(value, label, where, "a list of texts")
    return tuple(_check_scalar(Text, item, f"{label}[{index}]", where) for index, item in enumerate(value))


def _check_variables(_: object, value: object, label: str, where: str) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise _refusal(value, label, where, "a mapping of names to texts")
    for name in value:
        if not isinstance(name, str) or not name or "=" in name:
            raise _refusal(name, f"a name in {label}", where, "non-empty text without '='")
        _check_text(name, f"a name in {label}", where)
    return {name: _check_scalar(str, item, _inside(label, name), where) for name, item in value.items()}


def _check_section(_: object, value: object, label: str, where: str) -> object:
    if not isinstance(value, Mapping):
        raise _refusal(value, label, where, "a mapping")
    return _plain(value, label, where, _DEEPEST_SECTION)


def _plain(value: object, label: str, where: str, depth: int) -> object:
    """A deep copy of `value`, which must be such that JSON could hold it."""
    if depth == 0:
        raise ConfigurationError(f"{where}: {label} is nested deeper than {_DEEPEST_SECTION} levels")
    if isinstance(value, str):
        _check_text(value, label, where)
        return value
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and isfinite(value)):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, f"{label}[{index}]", where, depth - 1) for index, item in enumerate(value)]
    if not isinstance(value, Mapping):
        raise _refusal(value, label, where, "text, a finite number, true, false, null, a list or a mapping")
    for key in value:
        if not isinstance(key, str):
            raise _refusal(key, f"a key of {label}", where, "text")
        _check_text(key, f"a key of {label}", where)
    return {key: _plain(item, _inside(label, key), where, depth - 1) for key, item in value.items()}


def _inside(label: str, key: str) -> str:
    return f"{label}.{one_line(key, 60)}"


def _check_text(text: str, label: str, where: str) -> None:
    """Refuse what neither an argument vector nor a UTF-8 report could carry."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise _refusal(text, label, where, "text without NUL and without unpaired surrogates")


_CHECKS: dict[object, Callable[[object, object, str, str], object]] = {
    Texts: _check_texts,
    Variables: _check_variables,
    Section: _check_section,
}


def _refusal(value: object, label: str, where: str, expected: str, hint: str = "") -> ConfigurationError:
    given = "null" if value is None else f"{shown(value)} ({type(value).__name__})"
    return ConfigurationError(f"{where}: {label} is {given}, but must be {expected}{hint}")


def _expected(annotation: Any) -> str:
    """The words for a type: its description, its choices, or those of its members."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return str(next(each.description for each in get_args(annotation) if isinstance(each, Meta)))
    if origin is Literal:
        return alternatives(get_args(annotation))
    if origin in (Union, UnionType):
        return alternatives(_expected(member) for member in get_args(annotation))
    return {str: "text", bool: "true or false", NoneType: "null"}[annotation]


def _hint(annotation: Any, value: object) -> str:
    """The end of the sentence: the nearest choice, or quotes for text that YAML took for something else."""
    if get_origin(annotation) is Literal:
        return did_you_mean(value, get_args(annotation)) if isinstance(value, str) else ""
    expected = _expected(annotation)
    if isinstance(value, bool | int | float):
        return "; put it in quotes" if "text" in expected else ""
    # YAML takes 1e3 for text, as it does whatever is in quotes
    if "number" in expected and isinstance(value, str) and _NUMBER.fullmatch(value):
        number = float(value)
        return f"; write {int(number) if number.is_integer() else number} without quotes"
    return ""

"""Profiles by environment variables: which there are, and fields of one of them or of all.

A variable has its profile's name in capitals, with `_` for what no variable's name can hold. So it may fit several
profiles, and then it is refused.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, get_args

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.fields import Section, Texts, Variables
from pytest_sandboxes.profiles.profile import FIELDS, Profile, check_known, check_name
from pytest_sandboxes.settings.settings import PROFILES_VARIABLE
from pytest_sandboxes.settings.sources import PREFIX
from pytest_sandboxes.wording import alternatives, did_you_mean, shown, there_are

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_OF_ONE = f"{PREFIX}PROFILE_"
_OF_ALL = f"{PREFIX}DEFAULT_"
_CAPITALS = {field.upper(): field for field in FIELDS}
_NULL = "null"
_WHOLE = re.compile(r"[-+]?[0-9]{1,30}")
_DECIMAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?")
_LONGEST_DECIMAL = 60


def apply_variables(variables: Mapping[str, str], profiles: Mapping[str, Profile]) -> dict[str, Profile]:
    """The `profiles`, those that `variables` make, and what they say of fields, which may contradict each other.

    Raises ConfigurationError for a variable that fits no field of a profile or several, and for a value that is wrong.
    """
    changed = dict(profiles)
    for name in _new_names(variables):
        changed.setdefault(name, Profile(name=name))
    for variable, text in variables.items():
        if variable.startswith(_OF_ALL):
            field = _field(variable.removeprefix(_OF_ALL), _source(variable))
            changed = {name: _set(each, field, text, variable) for name, each in changed.items()}
    by_capitals = defaultdict(list)
    for name in changed:
        by_capitals[_in_capitals(name)].append(name)
    for variable, text in variables.items():  # what is said of one goes over what is said of all
        if variable.startswith(_OF_ONE):
            name, field = _target(variable, by_capitals)
            changed[name] = _set(changed[name], field, text, variable)
    return changed


def _new_names(variables: Mapping[str, str]) -> list[str]:
    text = variables.get(PROFILES_VARIABLE)
    if text is None:
        return []
    names = [name.strip() for name in text.split(",")]
    for name, times in Counter(names).items():
        check_name(name, _source(PROFILES_VARIABLE))
        if times > 1:
            raise ConfigurationError(
                f"{_source(PROFILES_VARIABLE)} has {name!r} {times} times; name each profile once"
            )
    return names


def _in_capitals(name: str) -> str:
    return re.sub("[-.]", "_", name).upper()


def _source(variable: str) -> str:
    return f"environment variable {one_line(variable)}"


def _field(capitals: str, source: str) -> str:
    """The field that is written so. Raises ConfigurationError with the nearest one when there is none."""
    field = _CAPITALS.get(capitals)
    if field is None:
        check_known(capitals.lower(), FIELDS, "profile field", source)
        raise ConfigurationError(f"{source}: write it in capitals, as in {capitals.upper()}")
    return field


def _target(variable: str, by_capitals: Mapping[str, list[str]]) -> tuple[str, str]:
    """The profile and the field that a variable names."""
    rest, source = variable.removeprefix(_OF_ONE), _source(variable)
    ends = [capitals for capitals in _CAPITALS if rest.endswith(f"_{capitals}")]
    fitting = [
        (name, _CAPITALS[capitals])
        for capitals in ends
        for name in by_capitals.get(rest.removesuffix(f"_{capitals}"), ())
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        meanings = alternatives(one_line(f"{field} of profile {name!r}") for name, field in fitting)
        raise ConfigurationError(
            f"{source} could be {meanings}; say in the profiles file which, or rename one of the profiles"
        )
    if not ends:
        for capitals in sorted(by_capitals, key=len, reverse=True):
            if rest.startswith(f"{capitals}_"):
                _field(rest.removeprefix(f"{capitals}_"), source)
    raise _unknown(rest.removesuffix(f"_{max(ends, key=len)}") if ends else rest, source, by_capitals)


def _unknown(capitals: str, source: str, by_capitals: Mapping[str, list[str]]) -> ConfigurationError:
    names = [name for same in by_capitals.values() for name in same]
    return ConfigurationError(
        f"{source}: no profile is called {shown(capitals)}, {one_line(there_are(names), 300)}"
        f"{did_you_mean(capitals.replace('_', '-'), names)}; others can be named in {PROFILES_VARIABLE}"
    )


def _set(profile: Profile, field: str, text: str, variable: str) -> Profile:
    source = _source(variable)
    return profile.lay({field: _value(FIELDS[field], text, field, source)}, source)


def _value(annotation: object, text: str, field: str, source: str) -> object:
    """What `text` says, as a profiles file would have it; text that a field cannot be remains, and is refused later."""
    if text == _NULL:
        return None
    if annotation == Texts:
        return [item.strip() for item in text.split(",")]
    if annotation in (Variables, Section):
        return _mapping(text, field, source)
    kinds = [*_members(annotation)]
    if int in kinds and _WHOLE.fullmatch(text):
        return int(text)
    if float in kinds and len(text) <= _LONGEST_DECIMAL and _DECIMAL.fullmatch(text):
        return float(text)
    return text


def _mapping(text: str, field: str, source: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for item in text.split(";"):
        key, equals, value = item.strip().partition("=")
        if not equals or not key:
            raise ConfigurationError(
                f"{source}: {shown(item)} in {field} is no name with a value; write them as NAME=VALUE;NAME=VALUE"
            )
        if key in found:
            raise ConfigurationError(f"{source}: {shown(key)} is in {field} twice; take one out")
        found[key] = value
    return found


def _members(annotation: Any) -> Iterable[object]:
    """The plain types that an annotation is made of."""
    yield annotation
    for each in get_args(annotation):
        yield from _members(each)

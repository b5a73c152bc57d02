"""The marker `sandbox`: what a test asks for, merged from all its marks, and the profile that this makes.

    @pytest.mark.sandbox(profile="gpu", slots=2, exec_timeout=30, retry_safe=True, memory=4096)

Every argument is a keyword: the four above, or a field of a profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.fields import PositiveCount, Text, check_value
from pytest_sandboxes.profiles.profile import FIELDS, SECTIONS, check_known, overlay
from pytest_sandboxes.wording import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pytest

    from pytest_sandboxes.profiles.catalog import Profiles
    from pytest_sandboxes.profiles.profile import Profile
    from pytest_sandboxes.settings.settings import Settings

_OWN_ARGUMENTS: Mapping[str, object] = {"profile": Text, "slots": PositiveCount, "retry_safe": bool}
_SHORT_TIMEOUT = "exec_timeout"
_TIMEOUT_FIELD = "execution_timeout_s"  # what it is short for
_ARGUMENTS = (*_OWN_ARGUMENTS, _SHORT_TIMEOUT, *FIELDS)


@dataclass(frozen=True, kw_only=True)
class MarkerArguments:
    """The arguments of one or several marks. `MarkerArguments()` asks for nothing in particular."""

    profile: str | None = None
    """Name of the profile; None is the run's default."""
    slots: int = 1
    """How many slots the test leases, all at once."""
    retry_safe: bool | None = None
    """Whether the test may run again after it lost its sandbox; None leaves that to its fixtures."""
    overrides: Mapping[str, object] = field(default_factory=dict)
    """Profile fields, `exec_timeout` as `execution_timeout_s` among them; values are not checked yet."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """For each argument that was given: which mark gave it."""


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """What one test needs of the pool."""

    profile: Profile
    slots: int
    retry_safe: bool | None


def read_marker(kwargs: Mapping[str, object], args: tuple[object, ...], source: str) -> MarkerArguments:
    """Read the arguments of one mark, which messages call `source`, such as `marker on test_x.py::test_y`.

    Raises ConfigurationError for positional and unknown arguments, for wrong values of the marker's own
    arguments, and for `exec_timeout` beside `execution_timeout_s`. Values of profile fields are left to
    `Profile.override`.
    """
    if args:
        hint = f"; write profile={shown(args[0])}" if isinstance(args[0], str) else ""
        raise ConfigurationError(
            f"{source}: all arguments are keywords, but {shown(args[0])} has no name{hint}"
        )
    if _SHORT_TIMEOUT in kwargs and _TIMEOUT_FIELD in kwargs:
        raise ConfigurationError(
            f"{source}: {_SHORT_TIMEOUT} and {_TIMEOUT_FIELD} are the same setting; give only one of them"
        )
    own: dict[str, Any] = {}
    overrides: dict[str, object] = {}
    for name, value in kwargs.items():
        check_known(name, _ARGUMENTS, "argument", source)
        if name in FIELDS:
            overrides[name] = value
        elif name == _SHORT_TIMEOUT:
            overrides[_TIMEOUT_FIELD] = check_value(FIELDS[_TIMEOUT_FIELD], value, name, source)
        else:
            own[name] = check_value(_OWN_ARGUMENTS[name], value, name, source)
    keys = [f"{field}.{key}" for field in SECTIONS & overrides.keys() for key in _keys(overrides[field])]
    return MarkerArguments(
        **own, overrides=overrides, sources=dict.fromkeys([*own, *overrides, *keys], source)
    )


def _keys(section: object) -> Iterable[object]:
    return section if isinstance(section, Mapping) else ()  # refused later


def merge_markers(marks: Sequence[MarkerArguments]) -> MarkerArguments:
    """All marks of one test as one. They come closest first, which wins, as from `item.iter_markers`."""
    own: dict[str, Any] = {}
    overrides: dict[str, object] = {}
    sources: dict[str, str] = {}
    for mark in reversed(marks):
        own.update({name: getattr(mark, name) for name in _OWN_ARGUMENTS if name in mark.sources})
        overrides = overlay(overrides, mark.overrides)
        sources.update(mark.sources)
    return MarkerArguments(**own, overrides=overrides, sources=sources)


def read_markers(marks: Iterable[pytest.Mark], source: Callable[[pytest.Mark], str]) -> MarkerArguments:
    """Read `sandbox` marks, closest first, as one; messages call a mark what `source` says.

    Raises ConfigurationError as `read_marker` does.
    """
    return merge_markers([read_marker(mark.kwargs, mark.args, source(mark)) for mark in marks])


def for_another_lease(marked: MarkerArguments, asked: MarkerArguments) -> MarkerArguments:
    """What a test that is `marked` asks for in a lease of its own: what it says there, over its profile and fields.

    How many slots the marker asks for, and whether the test may be repeated, is said of the test's own lease.
    """
    sources = {name: source for name, source in marked.sources.items() if name not in {"slots", "retry_safe"}}
    return merge_markers([asked, replace(marked, sources=sources)])


class Requirements:
    """Works out what each test of a run needs. Tests whose marks say the same share one answer."""

    def __init__(self, profiles: Profiles, settings: Settings) -> None:
        self._profiles = profiles
        self._settings = settings
        self._known: dict[object, Requirement] = {}

    def of_test(self, marks: Iterable[pytest.Mark], source: Callable[[pytest.Mark], str]) -> Requirement:
        """What a test with these `sandbox` marks, closest first, needs; messages call a mark what `source` says.

        Raises ConfigurationError when the marks are wrong, alone or together with the profile. Because
        answers are shared, the sources in a profile name the first of the tests whose marks say the same.
        """
        marks = tuple(marks)
        try:
            key = tuple((_frozen(mark.args), _frozen(mark.kwargs)) for mark in marks)
            known = self._known.get(key)
        except (TypeError, RecursionError):  # holds what no correct mark does, such as a set, or itself
            key, known = None, None
        if known is None:
            known = self.resolve(read_markers(marks, source))
            if key is not None:
                self._known[key] = known
        return known

    def resolve(self, arguments: MarkerArguments) -> Requirement:
        """What a lease with these arguments needs.

        Raises ConfigurationError for an unknown profile, for wrong or contradictory fields, and for more
        slots than the pool can ever have.
        """
        settings = self._settings
        name = settings.profile if arguments.profile is None else arguments.profile
        profile = self._profiles.activate(name, arguments.sources.get("profile", settings.source("profile")))
        if arguments.overrides:
            profile = profile.override(arguments.overrides, arguments.sources)
        if settings.isolation is not None:
            profile = profile.override({"isolation": settings.isolation}, settings.source("isolation"))
        if arguments.slots > profile.capacity:
            raise ConfigurationError(
                f"{arguments.sources['slots']}: slots is {arguments.slots}, but the pool of profile "
                f"{profile.name!r} never has more than {profile.capacity}; raise max_sandboxes "
                f"({profile.max_sandboxes}, {profile.source('max_sandboxes')}) or slots_per_sandbox "
                f"({profile.slots_per_sandbox}, {profile.source('slots_per_sandbox')})"
            )
        return Requirement(profile=profile, slots=arguments.slots, retry_safe=arguments.retry_safe)


def _frozen(value: object) -> object:
    """A hashable twin of `value`, equal only to twins of values that a check would treat alike.

    Types are part of it because 1, 1.0 and True are equal, and only one of them is a number of slots.
    """
    if isinstance(value, dict):
        return dict, tuple((name, _frozen(item)) for name, item in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(_frozen(item) for item in value)
    return type(value), value

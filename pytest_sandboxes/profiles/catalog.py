"""The profiles of a run: put together from file, environment and options, looked up by name."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

import msgspec

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.settings.settings import DEFAULT_PROFILES_FILE, PROFILES_VARIABLE, Settings
from pytest_sandboxes.wording import did_you_mean, shown, there_are

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_sandboxes.profiles.file import Layer

_BUILT_IN = "default"
_APP_NAME = "pytest-sandboxes"


@dataclass(frozen=True)
class ListedProfile:
    """A profile of the run as `Profiles.listed` shows it."""

    profile: Profile
    """As it is for tests whose markers change nothing."""
    active: bool
    """It is the one of tests that name none, or a test or fixture has asked for it."""


class Profiles:
    """The profiles of a run by name. `default` is always there, built in unless something says what it is."""

    def __init__(self, profiles: Iterable[Profile] = (), *, origin: str = "") -> None:
        """`origin` says in messages who has defined them."""
        self._by_name = {each.name: each for each in (Profile(), *profiles)}
        self.origin = origin
        self._lock = threading.Lock()
        self._active: set[str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """All names, `default` first, then in the order of the file, then in that of the environment."""
        return tuple(self._by_name)

    def __iter__(self) -> Iterator[Profile]:
        return iter(self._by_name.values())

    def get(self, name: str, source: str) -> Profile:
        """The profile called `name`; ConfigurationError with the nearest name when there is none.

        `source` says who asks for it.
        """
        try:
            return self._by_name[name]
        except KeyError:
            origin = self.origin or f"others would be defined in {DEFAULT_PROFILES_FILE} in the rootdir"
            hint = did_you_mean(name, self.names)
            raise ConfigurationError(
                f"{source}: unknown profile {shown(name)}, {one_line(there_are(self.names), 300)} ({origin}){hint}"
            ) from None

    def activate(self, name: str, source: str) -> Profile:
        """As `get`, for a profile that is active from now on."""
        profile = self.get(name, source)
        with self._lock:
            self._active.add(name)
        return profile

    def listed(self) -> tuple[ListedProfile, ...]:
        """Each profile, and whether it is active."""
        with self._lock:
            active = frozenset(self._active)
        return tuple(ListedProfile(each, each.name in active) for each in self)


def load_profiles(settings: Settings) -> Profiles:
    """Put the profiles together that the file and the variables in `settings` make.

    Raises ConfigurationError for a file that is missing, unreadable or malformed, for variables that name no field of a
    profile, and for profiles that are wrong.
    """
    found = {_BUILT_IN: Profile()}
    origins = []
    if settings.profiles_file is not None:
        from pytest_sandboxes.profiles.file import read_profiles_file

        found = _extended(read_profiles_file(settings.profiles_file, settings.source("profiles_file")))
        origins.append(settings.profiles_file.name)
    if settings.profile_variables:
        from pytest_sandboxes.profiles.environment import apply_variables

        found = apply_variables(settings.profile_variables, found)
        if PROFILES_VARIABLE in settings.profile_variables:
            origins.append(PROFILES_VARIABLE)
    if settings.isolation is not None:
        isolation = {"isolation": settings.isolation}
        found = {name: each.lay(isolation, settings.source("isolation")) for name, each in found.items()}
    return Profiles((each.settled() for each in _with_app_names(found)), origin=" and ".join(origins))


def _extended(layers: Mapping[str, Layer]) -> dict[str, Profile]:
    """The file's profiles, each laid over the one that it extends. Fields may contradict each other still."""
    known = dict.fromkeys((_BUILT_IN, *layers))
    for name, layer in layers.items():
        if layer.parent is not None and layer.parent not in known:
            raise ConfigurationError(
                f"{layer.parent_source}: profile {name!r} extends {shown(layer.parent)}, which is none, "
                f"{one_line(there_are(list(known)), 300)}{did_you_mean(layer.parent, known)}"
            )
    graph = {name: [] if layer.parent is None else [layer.parent] for name, layer in layers.items()}
    made = {_BUILT_IN: Profile()}
    try:
        order = [*TopologicalSorter(graph).static_order()]
    except CycleError as error:
        first, *others = reversed(error.args[1])
        if others == [first]:
            raise ConfigurationError(
                f"{layers[first].parent_source}: profile {first!r} extends itself: name another profile, or "
                "leave extends out"
            ) from None
        chain = one_line(", which extends ".join(map(repr, others)), 300)
        raise ConfigurationError(
            f"{layers[first].parent_source}: profile {first!r} extends {chain}; one of them must not"
        ) from None
    for name in order:
        if name in layers:
            layer = layers[name]
            below = Profile() if layer.parent is None else made[layer.parent]
            made[name] = msgspec.structs.replace(below, name=name).lay(layer.values, layer.sources)
    return {name: made[name] for name in known}


def _with_app_names(profiles: Mapping[str, Profile]) -> Iterator[Profile]:
    """The profiles, with names for the apps of those that have none; no source says so, because nobody has set them."""
    base = profiles[_BUILT_IN].app_name or _APP_NAME
    for name, profile in profiles.items():
        app_name = profile.app_name or f"{base}-{name}"
        yield msgspec.structs.replace(profile, app_name=app_name)

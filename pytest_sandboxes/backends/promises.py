"""What becomes of the fields of a profile on a backend: each is kept, not used, dropped, or the run is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from pytest_sandboxes.backends.base import BackendOptions, Checked
from pytest_sandboxes.errors import ConfigurationError, UnsupportedError
from pytest_sandboxes.profiles.profile import Profile

_DEFAULT = Profile()
_LEAST = {
    "memory": (16, "MB for the agent and a first program"),
    "pids": (2, "processes, the agent and a first program"),
    "cpu": (0.01, "of a core, the least that kernels share out"),
}


class Promises:
    """Gathers what one check of a profile finds."""

    def __init__(self, profile: Profile, options: BackendOptions) -> None:
        self._profile = profile
        self._options = options
        self._dropped: list[str] = []

    def set_fields(self, fields: Iterable[str]) -> tuple[str, ...]:
        """Those of `fields` that somebody has set to what is not their default."""
        return tuple(
            field
            for field in fields
            if field in self._profile.sources and getattr(self._profile, field) != getattr(_DEFAULT, field)
        )

    def refuse(self, field: str, why: str) -> None:
        """The promise of `field` cannot be kept; `why` says what can be done instead.

        Raises `UnsupportedError`, unless promises are dropped.
        """
        if not self._options.best_effort:
            raise UnsupportedError(
                f"{self._profile.source(field)}: {field} of profile {self._profile.name!r} cannot be kept: {why}"
                f"{self._options.escape}"
            )
        self._dropped.append(field)

    def refuse_set(self, reasons: Mapping[str, str], prefix: str) -> None:
        """Refuse each field in `reasons` that is not at its default, for `prefix` and its own reason."""
        for field in self.set_fields(reasons):
            self.refuse(field, f"{prefix}: {reasons[field]}")

    def need_room_for_agent(self) -> None:
        """Raise `ConfigurationError` for limits under which no sandbox could do anything."""
        for field, (least, what) in _LEAST.items():
            value = getattr(self._profile, field)
            if value is not None and value < least:
                raise self.wrong(field, f"must be at least {least}: {what}")

    def need_source_outside_workspaces(self) -> None:
        """Raise `ConfigurationError` for a directory of the image that holds workspaces of slots, or lies in them."""
        profile = self._profile
        source = profile.workspace_source
        if source is None or not source.startswith("/") or profile.isolation == "sandbox":
            return
        there, here = PurePosixPath(source), PurePosixPath(profile.workspace_base)
        if there.is_relative_to(here) or here.is_relative_to(there):
            raise self.wrong(
                "workspace_source",
                f"the workspaces of its slots are at {profile.workspace_base}, and would hide it, or hold themselves: "
                "set workspace_base to another place",
            )

    def wrong(self, field: str, remedy: str) -> ConfigurationError:
        """The error for a value that no enforcement can make right."""
        return ConfigurationError(
            f"{self._profile.source(field)}: {field} of profile {self._profile.name!r} is "
            f"{getattr(self._profile, field)!r}, but {remedy}"
        )

    def refuse_slots(self) -> None:
        """Raise `ConfigurationError` for several slots in a sandbox that each lease is to have for itself."""
        if self._profile.slots_per_sandbox > 1:
            raise self.wrong(
                "slots_per_sandbox",
                f"with isolation 'sandbox' ({self._profile.source('isolation')}) each lease has a sandbox to itself: "
                "leave the one or the other out",
            )

    def checked(self, recipes: Iterable[str], *, slots: int = 1, isolated: bool = True) -> Checked:
        """What has been found. `recipes` are the fields that the backend has no use for, `slots` those it has."""
        unused = self.set_fields(recipes)
        if self._profile.slots_per_sandbox != slots:
            unused += ("slots_per_sandbox",)
        return Checked(unused=unused, dropped=tuple(self._dropped), isolated=isolated)

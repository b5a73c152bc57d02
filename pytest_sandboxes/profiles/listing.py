"""The profiles of a run, written out for people: every field, its value, and where that comes from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from pytest_sandboxes.display import one_line
from pytest_sandboxes.profiles.profile import SECTIONS, Profile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_sandboxes.profiles.catalog import ListedProfile
    from pytest_sandboxes.profiles.fields import Section

_WIDEST_COLUMN = 40
_LONGEST = 1_000_000  # a profiles file cannot hold as much


def describe(listed: Iterable[ListedProfile]) -> str:
    """A block for each profile: its name, whether it is active, its digest, then every field with value and source.

    Values are written so that they can be copied into a profiles file.
    """
    return "\n\n".join(_block(each) for each in listed)


def _block(listed: ListedProfile) -> str:
    profile = listed.profile
    rows = [
        (field, one_line(json.dumps(value, ensure_ascii=False), _LONGEST), _source(profile, field))
        for field, value in profile.values()
    ]
    wide = max(len(field) for field, _, _ in rows)
    wide_value = min(_WIDEST_COLUMN, max(len(value) for _, value, _ in rows))
    lines = [f"  {field:<{wide}}  {value:<{wide_value}}  {source}" for field, value, source in rows]
    active = "active" if listed.active else "not active"
    return "\n".join([f"{profile.name} (digest {profile.digest}, {active})", *lines])


def _source(profile: Profile, field: str) -> str:
    """Where a value is from; the keys of a section may be from several places."""
    keys = cast("Section", getattr(profile, field)) if field in SECTIONS else {}
    sources = dict.fromkeys(profile.source(f"{field}.{key}") for key in keys)
    return one_line(", ".join(sources) or profile.source(field), _LONGEST)

from __future__ import annotations

import yaml

from pytest_sandboxes.profiles.catalog import Profiles
from pytest_sandboxes.profiles.listing import describe
from pytest_sandboxes.profiles.profile import FIELDS, Profile

BIG = Profile(name="big").override({"memory": 64, "env_vars": {"A": "b\x1b[0m"}}, "conf.yaml:3")


def test_every_field_with_value_and_source() -> None:
    profiles = Profiles([BIG])
    profiles.activate("default", "here")

    blocks = describe(profiles.listed()).split("\n\n")

    assert [block.splitlines()[0] for block in blocks] == [
        f"default (digest {Profile().digest}, active)",
        f"big (digest {BIG.digest}, not active)",
    ]
    rows = [line.split(maxsplit=1) for line in blocks[1].splitlines()[1:]]
    assert [name for name, _ in rows] == list(FIELDS)
    shown = {name: rest.split() for name, rest in rows}
    assert shown["memory"] == ["64", "conf.yaml:3"]
    assert shown["network"] == ['"none"', "default"]
    assert shown["gpu"] == ["null", "default"]
    assert "\x1b" not in blocks[1]


def test_values_can_be_copied_into_a_file() -> None:
    changes = {
        "setup": ["a", "ü" * 300, "\x1b\x7f\u202e"],
        "cpu": 0.5,
        "env_vars": {"NO": "no"},
        "gcp": {"a": [1, None]},
    }
    profile = Profile().override(changes, "here")

    lines = describe(Profiles([profile]).listed()).splitlines()[1:]

    for line in lines:
        field, rest = line.split(maxsplit=1)
        text, source = rest.rsplit(maxsplit=1)
        value = yaml.safe_load(text)
        held = getattr(profile, field)
        assert value == (list(held) if isinstance(held, tuple) else held)
        assert source == profile.source(field)


def test_a_section_names_the_sources_of_its_keys() -> None:
    profile = Profile().override({"docker": {"a": 1, "b": 2, "c": 3}}, "conf.yaml:3")
    profile = profile.override({"docker": {"b": 4, "c": None}}, "marker")

    (row,) = [
        line for line in describe(Profiles([profile]).listed()).splitlines() if line.startswith("  docker")
    ]

    assert row.split(maxsplit=1)[1].split("  ")[-1].strip() == "conf.yaml:3, marker"

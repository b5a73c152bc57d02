"""The plugin's options: command line over environment over ini over default, each with its source.

Every option exists three times under one name: `--sandbox-infra-retries`, `PYTEST_SANDBOXES_INFRA_RETRIES`,
and `sandbox_infra_retries` in pytest's configuration file. `_OPTIONS` is the single definition of all three.

Imported in every run of pytest, used or not: nothing from outside the standard library but pytest itself.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import pytest

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.settings import values
from pytest_sandboxes.settings.sources import PREFIX, Option, find
from pytest_sandboxes.wording import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Isolation = Literal["slot", "sandbox", "none"]
"""What separates two leases: slots of one sandbox, a sandbox for each, or nothing but directories."""

Enforcement = Literal["strict", "best-effort"]
"""Whether a limit that cannot be enforced is refused, or reported once and dropped."""

Mode = Literal["auto", "interactive", "batch"]
"""Whether tests run in this pytest, or in shards elsewhere; `auto` leaves it to the backend."""

DEFAULT_PROFILES_FILE = "sandboxes.yaml"
"""Looked for in the rootdir when no profiles file is named."""

PROFILES_VARIABLE = f"{PREFIX}PROFILES"
"""The variable that makes profiles, by name."""

_MOST_RETRIES = 100
_MOST_SANDBOXES = 999_999
_MOST_SECONDS = 10**12 - 1
_PROFILE_VARIABLE = re.compile(rf"{PREFIX}(PROFILES|PROFILE_.+_.+|DEFAULT_.+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a run. `Settings()` is what a run without any option, variable or ini line gets."""

    backends: tuple[str, ...] = ("local",)
    """Names of the backends to run on, in the order given, each once. Only their syntax has been checked."""
    profile: str = "default"
    """Name of the profile for tests whose marker names none. Whether it exists has not been checked."""
    profiles_file: Path | None = None
    """Absolute path of the YAML file with profiles; None means built-in profiles only."""
    secrets_file: Path | None = None
    """Absolute path of the file with values of secrets; None means the environment only. It has not been read."""
    list_profiles: bool = False
    """Print the profiles instead of running tests."""
    isolation: Isolation | None = None
    """Outranks the `isolation` of every profile and marker; None leaves it to them."""
    enforcement: Enforcement = "strict"
    """What to do about limits that a backend cannot enforce."""
    max_sandboxes: int | None = None
    """The most sandboxes that exist at once, over all profiles and backends; None leaves it to the profiles."""
    budget: int | None = None
    """The sandbox-seconds that all sandboxes of the run may use together; None is no limit."""
    infra_retries: int = 2
    """How often a test that lost its sandbox is tried again."""
    keep: float | None = None
    """Seconds that clean sandboxes wait for the next run when this one ends; None ends them."""
    keep_failed: bool = False
    """Leave the slot of a failed test standing, for inspection."""
    mode: Mode = "auto"
    """Where tests run. See `is_batch`."""
    shards: int | None = None
    """In how many shards batch mode runs the tests; None leaves it to their durations."""
    wheelhouse: Path | None = None
    """Directory of wheels for the shards' environment; None makes them of what is installed here."""
    runner_image: str | None = None
    """Container image in which shards on this machine run; None has them be processes."""
    profile_variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that make and change profiles, by their whole names. Nothing of them has been checked."""
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """For each setting that was given: where, in words for messages. See `source`."""

    def source(self, setting: str) -> str:
        """Where the value of a field came from, such as `ini option sandbox_profile in pytest.ini`."""
        return self.sources.get(setting, "default")

    @property
    def is_batch(self) -> bool:
        """Tests run in shards."""
        return self.mode == "batch" or (self.mode == "auto" and "gcp" in self.backends)

    @property
    def runner(self) -> str:
        """Where shards run, in batch mode."""
        return "gcp" if "gcp" in self.backends else "local"

    @property
    def mode_source(self) -> str:
        """What has made it batch mode, or not."""
        return self.source("backends" if self.mode == "auto" else "mode")


def add_options(parser: pytest.Parser) -> None:
    """Register every option with argparse and with the ini file, for `pytest_addoption`.

    Neither checks values, because neither knows the other's. `read_settings` checks all sources alike.
    """
    group = parser.getgroup("sandboxes", "sandboxes: isolated slots, leased from a pool")
    for option in _OPTIONS:
        twins = f" (env {option.variable}, ini {option.key})"
        # default=None tells "not given" apart from "given, and equal to the default".
        if option.if_bare is not None:
            group.addoption(
                option.flag,
                dest=option.key,
                metavar=option.metavar,
                nargs="?",
                const=option.if_bare,
                default=None,
                help=option.help + twins,
            )
        elif option.is_flag:
            group.addoption(
                option.flag, dest=option.key, action="store_true", default=None, help=option.help + twins
            )
        else:
            group.addoption(
                option.flag, dest=option.key, metavar=option.metavar, default=None, help=option.help + twins
            )
        parser.addini(option.key, option.help, type=option.ini_type, default=None)


def read_settings(config: pytest.Config) -> Settings:
    """Gather all settings of a run, for `pytest_configure`.

    Raises ConfigurationError for the first wrong value, in one sentence that names its source, the value, and
    what would be right, and for an environment variable that is named as if it were one of ours. Values that a
    higher source outranks are not looked at. An environment variable that is set but empty counts as not set.
    """
    found: dict[str, Any] = {"profile_variables": _profile_variables()}
    sources: dict[str, str] = {}
    for option in _OPTIONS:
        given = find(option, config)
        if given is not None:
            found[option.setting] = option.parse(given)
            sources[option.setting] = given.source
    if "profiles_file" not in found:
        usual = config.rootpath / DEFAULT_PROFILES_FILE
        if usual.exists():
            found["profiles_file"] = usual
            sources["profiles_file"] = f"{DEFAULT_PROFILES_FILE} in the rootdir"
    return Settings(**found, sources=sources)


def _profile_variables() -> dict[str, str]:
    """The variables that are about profiles.

    Raises ConfigurationError for one that has our prefix and is about nothing.
    """
    known = {option.variable for option in _OPTIONS}
    found = {}
    for name, value in os.environ.items():
        if not value or not name.startswith(PREFIX) or name in known:
            continue
        if not _PROFILE_VARIABLE.fullmatch(name):
            hint = did_you_mean(name, known | {PROFILES_VARIABLE}) or "; unset it"
            raise ConfigurationError(f"environment variable {one_line(name)} is no setting{hint}")
        found[name] = value
    return found


# Before 8.4 pytest knows no "int", nor native TOML, so nothing but strings arrives.
_WHOLE_NUMBER: Literal["int", "string"] = "int" if pytest.version_tuple >= (8, 4) else "string"

_OPTIONS = (
    Option(
        "backend",
        "backends",
        values.backends,
        "where sandboxes run: local (the default) or a plugin's own; several, with commas between, run each "
        "sandbox test once on each",
        metavar="NAMES",
    ),
    Option(
        "profile",
        "profile",
        values.profile_name,
        "profile of the tests whose marker names none; default: 'default'",
        metavar="NAME",
    ),
    Option(
        "profiles-file",
        "profiles_file",
        values.path_of("YAML file"),
        f"YAML file with profiles; default: {DEFAULT_PROFILES_FILE} in the rootdir, if there is one",
        metavar="PATH",
    ),
    Option(
        "secrets-file",
        "secrets_file",
        values.path_of("file with lines NAME=value"),
        "file with lines NAME=value, readable by you alone, for secrets that are not in the environment",
        metavar="PATH",
    ),
    Option(
        "list-profiles",
        "list_profiles",
        values.switch,
        "print every profile with its values and where they come from, and run nothing",
        ini_type="bool",
    ),
    Option(
        "isolation",
        "isolation",
        values.one_of(get_args(Isolation)),
        "slot, sandbox or none: overrides what profiles ask for; 'none' is for trusted code only",
        metavar="LEVEL",
    ),
    Option(
        "enforcement",
        "enforcement",
        values.one_of(get_args(Enforcement)),
        "strict (the default) refuses limits that the backend cannot enforce; best-effort reports and drops "
        "them",
        metavar="MODE",
    ),
    Option(
        "max-sandboxes",
        "max_sandboxes",
        values.whole_number(1, _MOST_SANDBOXES),
        "most sandboxes that exist at once, over all profiles and backends; default: no limit but the profiles'",
        metavar="N",
        ini_type=_WHOLE_NUMBER,
    ),
    Option(
        "budget",
        "budget",
        values.whole_number(1, _MOST_SECONDS),
        "sandbox-seconds that all sandboxes may use together, after which nothing is leased; default: no limit",
        metavar="SECONDS",
        ini_type=_WHOLE_NUMBER,
    ),
    Option(
        "infra-retries",
        "infra_retries",
        values.whole_number(0, _MOST_RETRIES),
        "how often a test that lost its sandbox is tried again; default: 2",
        metavar="N",
        ini_type=_WHOLE_NUMBER,
    ),
    Option(
        "keep",
        "keep",
        values.keep_seconds,
        "keep clean sandboxes for the next run when this one ends, for so many seconds at most (900 without a number), "
        "and begin with those that an earlier one has kept",
        metavar="SECONDS",
        if_bare="true",
    ),
    Option(
        "keep-failed",
        "keep_failed",
        values.switch,
        "leave the slot of each failed test standing, and print how to enter it and how to end it",
        ini_type="bool",
    ),
    Option(
        "mode",
        "mode",
        values.one_of(get_args(Mode)),
        "interactive runs tests in this pytest, batch in shards elsewhere; auto (the default) is batch for backend gcp",
        metavar="MODE",
    ),
    Option(
        "shards",
        "shards",
        values.shards,
        "in how many shards batch mode runs the tests; auto (the default) goes by their durations",
        metavar="N",
    ),
    Option(
        "wheelhouse",
        "wheelhouse",
        values.path_of("directory with wheels"),
        "directory of wheels for the Python environment of shards; default: wheels of all that is installed here",
        metavar="PATH",
    ),
    Option(
        "runner-image",
        "runner_image",
        values.image_name,
        "container image in which shards on this machine run, with the Python that runs pytest; default: no containers",
        metavar="IMAGE",
    ),
)

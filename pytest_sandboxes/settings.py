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
from pytest_sandboxes.wording import alternatives, did_you_mean, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

Isolation = Literal["slot", "sandbox", "none"]
"""What separates two leases: slots of one sandbox, a sandbox for each, or nothing but directories."""

Enforcement = Literal["strict", "best-effort"]
"""Whether a limit that cannot be enforced is refused, or reported once and dropped."""

DEFAULT_PROFILES_FILE = "sandboxes.yaml"
"""Looked for in the rootdir when no profiles file is named."""

_MOST_RETRIES = 100
_PREFIX = "PYTEST_SANDBOXES_"
# Profiles by environment: a later version has them, and a machine may have them for it already.
_RESERVED = re.compile(rf"{_PREFIX}(PROFILES|PROFILE_.+_.+|DEFAULT_.+)")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a run. `Settings()` is what a run without any option, variable or ini line gets."""

    backends: tuple[str, ...] = ("local",)
    """Names of the backends to run on, in the order given, each once. Only their syntax has been checked."""
    profile: str = "default"
    """Name of the profile for tests whose marker names none. Whether it exists has not been checked."""
    profiles_file: Path | None = None
    """Absolute path of the YAML file with profiles; None means built-in profiles only."""
    list_profiles: bool = False
    """Print the profiles instead of running tests."""
    isolation: Isolation | None = None
    """Outranks the `isolation` of every profile and marker; None leaves it to them."""
    enforcement: Enforcement = "strict"
    """What to do about limits that a backend cannot enforce."""
    infra_retries: int = 2
    """How often a test that lost its sandbox is tried again."""
    keep_failed: bool = False
    """Leave the slot of a failed test standing, for inspection."""
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """For each setting that was given: where, in words for messages. See `source`."""

    def source(self, setting: str) -> str:
        """Where the value of a field came from, such as `ini option sandbox_profile in pytest.ini`."""
        return self.sources.get(setting, "default")


def add_options(parser: pytest.Parser) -> None:
    """Register every option with argparse and with the ini file, for `pytest_addoption`.

    Neither checks values, because neither knows the other's. `read_settings` checks all sources alike.
    """
    group = parser.getgroup("sandboxes", "sandboxes: isolated slots, leased from a pool")
    for option in _OPTIONS:
        twins = f" (env {option.variable}, ini {option.key})"
        # default=None tells "not given" apart from "given, and equal to the default".
        if option.is_flag:
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
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    _refuse_unknown_variables()
    for option in _OPTIONS:
        given = _find(option, config)
        if given is not None:
            values[option.setting] = option.parse(given)
            sources[option.setting] = given.source
    if "profiles_file" not in values:
        usual = config.rootpath / DEFAULT_PROFILES_FILE
        if usual.exists():
            values["profiles_file"] = usual
            sources["profiles_file"] = f"{DEFAULT_PROFILES_FILE} in the rootdir"
    return Settings(**values, sources=sources)


def _refuse_unknown_variables() -> None:
    known = {option.variable for option in _OPTIONS}
    for name, value in os.environ.items():
        if value and name.startswith(_PREFIX) and name not in known and not _RESERVED.fullmatch(name):
            raise ConfigurationError(
                f"environment variable {one_line(name)} is no setting{did_you_mean(name, known) or '; unset it'}"
            )


@dataclass(frozen=True)
class _Given:
    """A value as it was found, before it is checked."""

    raw: object
    source: str
    directory: Path
    """What a relative path in `raw` starts from."""

    def refused(self, expected: str) -> ConfigurationError:
        return ConfigurationError(f"{self.source} is {shown(self.raw)}, but must be {expected}")


@dataclass(frozen=True)
class _Option:
    """One option in its three spellings."""

    name: str
    """As on the command line, after `--sandbox-`."""
    setting: str
    """The field of `Settings` that it fills."""
    parse: Callable[[_Given], object]
    """Checks a value from any source; raises what `_Given.refused` returns."""
    help: str
    metavar: str | None = None
    ini_type: Literal["string", "bool", "int"] = "string"
    """pytest refuses TOML values of another type, and with no type it would pass any through."""

    @property
    def flag(self) -> str:
        return f"--sandbox-{self.name}"

    @property
    def key(self) -> str:
        """The ini option, and argparse's `dest`."""
        return "sandbox_" + self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        return _PREFIX + self.name.replace("-", "_").upper()

    @property
    def is_flag(self) -> bool:
        return self.ini_type == "bool"


def _find(option: _Option, config: pytest.Config) -> _Given | None:
    """The value of highest precedence, or None when the option is given nowhere."""
    return next(_everywhere(option, config), None)


def _everywhere(option: _Option, config: pytest.Config) -> Iterator[_Given]:
    here = config.invocation_params.dir
    on_command_line = config.getoption(option.key, default=None)
    if on_command_line is not None:
        yield _Given(on_command_line, option.flag, here)
    in_environment = os.environ.get(option.variable)
    if in_environment:
        yield _Given(in_environment, f"environment variable {option.variable}", here)
    source = _ini_source(option, config)
    try:
        in_ini = config.getini(option.key)
    except (TypeError, ValueError, pytest.UsageError):
        # Which of the three it is depends on pytest's version.
        raise _Given(_raw_ini(option, config), source, here).refused(_INI_TYPES[option.ini_type]) from None
    if in_ini is not None:
        yield _Given(in_ini, source, here if config.inipath is None else config.inipath.parent)


_INI_TYPES = {"string": "one string", "bool": "true or false", "int": "a whole number"}


def _overrides(option: _Option, config: pytest.Config) -> list[str]:
    """What `-o` says on the command line, in order."""
    given: list[str] = config.getoption("override_ini", default=None) or []
    split = (override.partition("=") for override in given)
    return [value for key, _, value in split if key.strip() == option.key]


def _raw_ini(option: _Option, config: pytest.Config) -> object:
    """The value of an ini option as it was written, which pytest could not convert."""
    overrides = _overrides(option, config)
    if overrides:
        return overrides[-1]
    # the public name is deprecated from pytest 9.1 on, the other is not there before
    written = getattr(config, "_inicfg", None)
    raw: object = (config.inicfg if written is None else written).get(option.key)
    return getattr(raw, "value", raw)  # pytest 9 keeps it with where it was found


def _ini_source(option: _Option, config: pytest.Config) -> str:
    if _overrides(option, config):
        return f"-o {option.key}"
    file = "the configuration file" if config.inipath is None else config.inipath.name
    return f"ini option {option.key} in {file}"


def _one_of(choices: tuple[str, ...]) -> Callable[[_Given], str]:
    """A parser that accepts exactly the names in `choices`."""

    def parse(given: _Given) -> str:
        text = str(given.raw).strip()
        if text not in choices:
            raise given.refused(alternatives(choices) + did_you_mean(text, choices))
        return text

    return parse


def _backends(given: _Given) -> tuple[str, ...]:
    names = tuple(name.strip() for name in str(given.raw).split(","))
    for name in names:
        # A name becomes part of test ids, labels and file names.
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,62}", name):
            what = f"{shown(name)} is none" if name else "one is empty"
            raise given.refused(f"backend names (letters, digits, '-' and '_') with commas between; {what}")
        if names.count(name) > 1:
            raise given.refused(f"backend names, each once; {name!r} is there {names.count(name)} times")
    return names


def _profile_name(given: _Given) -> str:
    text = str(given.raw).strip()
    if not text:
        raise given.refused("the name of a profile")
    return text


def _path(given: _Given) -> Path:
    text = os.path.expanduser(str(given.raw).strip())  # noqa: PTH111 - Path.expanduser raises for unknown users
    if not text or "\0" in text:
        raise given.refused("the path of a YAML file")
    return given.directory / text


def _retries(given: _Given) -> int:
    text = str(given.raw).strip()
    if not re.fullmatch(r"[0-9]{1,3}", text) or int(text) > _MOST_RETRIES:
        raise given.refused(f"a whole number from 0 to {_MOST_RETRIES}")
    return int(text)


def _switch(given: _Given) -> bool:
    text = str(given.raw).strip().lower()
    if text not in _TRUE | _FALSE:
        raise given.refused("true or false (or 1, yes, on, 0, no, off)")
    return text in _TRUE


_OPTIONS = (
    _Option(
        "backend",
        "backends",
        _backends,
        "where sandboxes run: local (the default) or a plugin's own; several, with commas between, run each "
        "sandbox test once on each",
        metavar="NAMES",
    ),
    _Option(
        "profile",
        "profile",
        _profile_name,
        "profile of the tests whose marker names none; default: 'default'",
        metavar="NAME",
    ),
    _Option(
        "profiles-file",
        "profiles_file",
        _path,
        f"YAML file with profiles; default: {DEFAULT_PROFILES_FILE} in the rootdir, if there is one",
        metavar="PATH",
    ),
    _Option(
        "list-profiles",
        "list_profiles",
        _switch,
        "print every profile with its values and where they come from, and run nothing",
        ini_type="bool",
    ),
    _Option(
        "isolation",
        "isolation",
        _one_of(get_args(Isolation)),
        "slot, sandbox or none: overrides what profiles ask for; 'none' is for trusted code only",
        metavar="LEVEL",
    ),
    _Option(
        "enforcement",
        "enforcement",
        _one_of(get_args(Enforcement)),
        "strict (the default) refuses limits that the backend cannot enforce; best-effort reports and drops "
        "them",
        metavar="MODE",
    ),
    _Option(
        "infra-retries",
        "infra_retries",
        _retries,
        "how often a test that lost its sandbox is tried again; default: 2",
        metavar="N",
        # Before 8.4 pytest knows no "int", nor native TOML, so nothing but strings arrives.
        ini_type="int" if pytest.version_tuple >= (8, 4) else "string",
    ),
    _Option(
        "keep-failed",
        "keep_failed",
        _switch,
        "leave the slot of each failed test standing, and print how to enter it and how to end it",
        ini_type="bool",
    ),
)

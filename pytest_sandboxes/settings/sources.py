"""Where the value of an option is found: command line over environment over ini."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pytest

from pytest_sandboxes.settings.values import Given

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PREFIX = "PYTEST_SANDBOXES_"
"""What the names of all variables begin with."""

_INI_TYPES = {"string": "one string", "bool": "true or false", "int": "a whole number"}


@dataclass(frozen=True)
class Option:
    """One option in its three spellings."""

    name: str
    """As on the command line, after `--sandbox-`."""
    setting: str
    """The field of `Settings` that it fills."""
    parse: Callable[[Given], object]
    """Checks a value from any source; raises what `Given.refused` returns."""
    help: str
    metavar: str | None = None
    if_bare: str | None = None
    """What it stands for on the command line without a value, where it may."""
    ini_type: Literal["string", "bool", "int"] = "string"
    """pytest refuses TOML values of another type, and with no type it would pass any through."""

    @property
    def flag(self) -> str:
        """On the command line."""
        return f"--sandbox-{self.name}"

    @property
    def key(self) -> str:
        """The ini option, and argparse's `dest`."""
        return "sandbox_" + self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """In the environment."""
        return PREFIX + self.name.replace("-", "_").upper()

    @property
    def is_flag(self) -> bool:
        """It has no value on the command line."""
        return self.ini_type == "bool"


def find(option: Option, config: pytest.Config) -> Given | None:
    """The value of highest precedence, or None when the option is given nowhere."""
    return next(_everywhere(option, config), None)


def _everywhere(option: Option, config: pytest.Config) -> Iterator[Given]:
    here = config.invocation_params.dir
    on_command_line = config.getoption(option.key, default=None)
    if on_command_line is not None:
        yield Given(on_command_line, option.flag, here)
    in_environment = os.environ.get(option.variable)
    if in_environment:
        yield Given(in_environment, f"environment variable {option.variable}", here)
    source = _ini_source(option, config)
    try:
        in_ini = config.getini(option.key)
    except (TypeError, ValueError, pytest.UsageError):
        # Which of the three it is depends on pytest's version.
        raise Given(_raw_ini(option, config), source, here).refused(_INI_TYPES[option.ini_type]) from None
    if in_ini is not None:
        yield Given(in_ini, source, here if config.inipath is None else config.inipath.parent)


def _overrides(option: Option, config: pytest.Config) -> list[str]:
    """What `-o` says on the command line, in order."""
    given: list[str] = config.getoption("override_ini", default=None) or []
    split = (override.partition("=") for override in given)
    return [value for key, _, value in split if key.strip() == option.key]


def _raw_ini(option: Option, config: pytest.Config) -> object:
    """The value of an ini option as it was written, which pytest could not convert."""
    overrides = _overrides(option, config)
    if overrides:
        return overrides[-1]
    # the public name is deprecated from pytest 9.1 on, the other is not there before
    written = getattr(config, "_inicfg", None)
    raw: object = (config.inicfg if written is None else written).get(option.key)
    return getattr(raw, "value", raw)  # pytest 9 keeps it with where it was found


def _ini_source(option: Option, config: pytest.Config) -> str:
    if _overrides(option, config):
        return f"-o {option.key}"
    file = "the configuration file" if config.inipath is None else config.inipath.name
    return f"ini option {option.key} in {file}"

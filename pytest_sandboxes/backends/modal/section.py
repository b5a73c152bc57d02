"""A profile's section `modal`: what its images are made of, and where and with what its sandboxes run."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.fields import Text, Texts, Variables, check_value
from pytest_sandboxes.profiles.profile import Profile, check_known
from pytest_sandboxes.wording import shown

if TYPE_CHECKING:
    from collections.abc import Callable

FIELDS: Mapping[str, object] = {
    "dockerfile": Text,
    "context": Text,
    "build_args": Variables,
    "python": Text,
    "apt": Texts,
    "pip": Texts,
    "region": Texts,
    "cloud": Text,
    "volumes": Variables,
    "cidr_allowlist": Texts,
    "domain_allowlist": Texts,
}
"""What the section may say, with types for `check_value`."""

_DEFAULT_PYTHON = "3.13"
_VERSION = re.compile(r"3\.[0-9]{1,2}(\.[0-9]{1,2})?")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DOMAIN = re.compile(r"(\*\.)?([A-Za-z0-9-]{1,63}\.)+[A-Za-z0-9-]{2,63}\.?")


@dataclass(frozen=True)
class Recipe:
    """What an image is made of. Those that are equal are one image."""

    registry: str | None
    """The name of an image in a registry."""
    dockerfile: Path | None
    """Absolute; without one, and without `registry`, it is Debian with Python."""
    context: Path | None
    """Directory whose files the Dockerfile may copy; absolute."""
    build_args: tuple[tuple[str, str], ...]
    python: str
    """Version of the Python that comes with Debian."""
    apt: tuple[str, ...]
    """Packages of Debian to install, then those of PyPI."""
    pip: tuple[str, ...]
    setup: tuple[str, ...]
    """Commands of the shell, run as the last steps of the build."""
    variables: tuple[tuple[str, str], ...]
    """Environment of those."""
    gpu: str | None
    """What the machine that runs them has."""
    source: str | None
    """The profile's `workspace_source`: a directory that the image has, or one of the project that it is to have."""

    @property
    def label(self) -> str:
        """What people know it by, in one line."""
        if self.registry is not None:
            label = one_line(self.registry)
        elif self.dockerfile is not None:
            label = one_line(str(self.dockerfile), 300)
        else:
            label = f"debian_slim with Python {self.python}"
        return f"{label}, set up" if self.setup else label


@dataclass(frozen=True)
class Section:
    """The section, checked."""

    recipe: Recipe
    regions: tuple[str, ...]
    cloud: str | None
    volumes: Mapping[str, str]
    """Names of volumes by where they are mounted."""
    cidrs: tuple[str, ...] | None
    """The only addresses that code may reach; None is all, where there is a network."""
    domains: tuple[str, ...] | None
    """The only names that code may reach, beside those addresses."""


def read(profile: Profile, directory: Path) -> Section:
    """The section of `profile`, whose relative paths count from `directory`.

    Raises `ConfigurationError` for what it may not say, and for what contradicts another field.
    """
    values: dict[str, object] = {}
    for name, given in profile.modal.items():
        here = _where(profile, name)
        check_known(name, FIELDS, "field of modal", here)
        annotation = FIELDS[name]
        # one region, or one package, is written without a list
        value = [given] if annotation == Texts and isinstance(given, str) else given
        values[name] = check_value(annotation, value, f"modal.{name}", here)
    lists = {
        name: cast("tuple[str, ...] | None", values.get(name))
        for name in ("cidr_allowlist", "domain_allowlist")
    }
    _check_network(profile, lists)
    volumes = dict(cast("Mapping[str, str]", values.get("volumes", {})))
    _check_each(
        profile,
        "volumes",
        volumes,
        lambda path: bool(re.fullmatch(r"/[^/]+(/[^/]+)*", path)),
        "an absolute path other than '/'",
    )
    _check_each(
        profile, "volumes", volumes.values(), lambda name: bool(_NAME.fullmatch(name)), "the name of a volume"
    )
    return Section(
        _recipe(profile, values, directory.absolute()),
        cast("tuple[str, ...]", values.get("region", ())),
        cast("str | None", values.get("cloud")),
        volumes,
        lists["cidr_allowlist"],
        lists["domain_allowlist"],
    )


def _recipe(profile: Profile, values: Mapping[str, object], start: Path) -> Recipe:
    dockerfile, context, python = (
        cast("str | None", values.get(name)) for name in ("dockerfile", "context", "python")
    )
    _check_one_origin(profile, values)
    file = None
    if dockerfile is not None or context is not None:
        file = start / dockerfile if dockerfile is not None else start / str(context) / "Dockerfile"
        if not file.is_file():
            raise ConfigurationError(
                f"{_where(profile, 'dockerfile' if dockerfile is not None else 'context')}: there is no file "
                f"{one_line(str(file), 300)} to build from; correct modal.dockerfile, or modal.context, whose file "
                "Dockerfile it is by default"
            )
    folder = start / context if context is not None else file and file.parent
    if folder is not None and not folder.is_dir():
        raise ConfigurationError(
            f"{_where(profile, 'context')}: there is no directory {one_line(str(folder), 300)} to build from; correct "
            "modal.context"
        )
    if python is not None and not _VERSION.fullmatch(python):
        raise ConfigurationError(
            f"{_where(profile, 'python')}: modal.python is {shown(python)}, but must be a version such as "
            f"'{_DEFAULT_PYTHON}', in quotes"
        )
    return Recipe(
        profile.image,
        file,
        folder,
        tuple(sorted(cast("Mapping[str, str]", values.get("build_args", {})).items())),
        python or _DEFAULT_PYTHON,
        cast("tuple[str, ...]", values.get("apt", ())),
        cast("tuple[str, ...]", values.get("pip", ())),
        profile.setup,
        tuple(sorted(profile.env_vars.items())) if profile.setup else (),
        profile.gpu if profile.setup else None,
        profile.workspace_source,
    )


def _check_one_origin(profile: Profile, values: Mapping[str, object]) -> None:
    """Raise `ConfigurationError` for an image that would have to come from two places."""
    builds = next((name for name in ("dockerfile", "context") if name in values), None)
    if profile.image is not None and builds is not None:
        raise ConfigurationError(
            f"profile {profile.name!r} has an image ({profile.source('image')}), and modal.{builds} that builds one "
            f"({profile.source(f'modal.{builds}')}); remove one of them, or set image to null"
        )
    if "build_args" in values and builds is None:
        raise ConfigurationError(
            f"{_where(profile, 'build_args')}: modal.build_args is for a Dockerfile, and there is none: give "
            "modal.dockerfile, or leave it out"
        )
    if "python" in values and (profile.image is not None or builds is not None):
        raise ConfigurationError(
            f"{_where(profile, 'python')}: modal.python is for an image of Debian that Modal makes, and the profile "
            "has another: leave the one or the other out"
        )


def _check_network(profile: Profile, lists: Mapping[str, tuple[str, ...] | None]) -> None:
    for name, entries in lists.items():
        if entries is None:
            continue
        if profile.network == "none":
            raise ConfigurationError(
                f"{_where(profile, name)}: modal.{name} says whom code may reach, but network is 'none' "
                f"({profile.source('network')}): set network to outbound, or leave the list out"
            )
        if name == "cidr_allowlist":
            _check_each(profile, name, entries, _is_network, "a network such as 203.0.113.0/24")
        else:
            _check_each(
                profile,
                name,
                entries,
                lambda entry: bool(_DOMAIN.fullmatch(entry)),
                "a name such as pypi.org or *.pypi.org",
            )


def _is_network(entry: str) -> bool:
    try:
        ipaddress.ip_network(entry)
    except ValueError:
        return False
    return True


def _check_each(
    profile: Profile, name: str, entries: object, fits: Callable[[str], bool], expected: str
) -> None:
    for entry in cast("tuple[str, ...]", entries):
        if not fits(entry):
            raise ConfigurationError(
                f"{_where(profile, name)}: {shown(entry)} in modal.{name} is not {expected}; correct it"
            )


def _where(profile: Profile, name: str) -> str:
    return f"{profile.source(f'modal.{name}')}, profile {profile.name!r}"

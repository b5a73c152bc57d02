"""A profile's section `docker`: the recipe of an image that is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.fields import Text, Variables, check_value
from pytest_sandboxes.profiles.profile import Profile, check_known

FIELDS: Mapping[str, object] = {
    "dockerfile": Text,
    "context": Text,
    "build_args": Variables,
    "target": Text,
}
"""What the section may say, with types for `check_value`."""


@dataclass(frozen=True)
class Recipe:
    """What an image is built from. Those that are equal are one image."""

    dockerfile: Path
    """Absolute."""
    context: Path
    """Directory whose files the Dockerfile may copy; absolute."""
    build_args: tuple[tuple[str, str], ...]
    """Names and values of `ARG`s."""
    target: str | None
    """The stage to build; None is the last."""
    where: str = field(compare=False)
    """Who says so, for messages."""

    def check(self) -> None:
        """Raise `ConfigurationError` unless the files are there."""
        if not self.context.is_dir():
            raise ConfigurationError(
                f"{self.where}: there is no directory {one_line(str(self.context), 300)} to build from; correct "
                "docker.context, or docker.dockerfile, whose directory it is by default"
            )
        if not self.dockerfile.is_file():
            raise ConfigurationError(
                f"{self.where}: there is no file {one_line(str(self.dockerfile), 300)} to build from; correct "
                "docker.dockerfile, which by default is the file Dockerfile of docker.context"
            )


def read(profile: Profile, directory: Path) -> Recipe | None:
    """The recipe of `profile`, whose relative paths count from `directory`; None if it has none.

    Raises `ConfigurationError` for what the section may not say, and for an `image` beside it.
    """
    if not profile.docker:
        return None
    where = f"{profile.source('docker')}, profile {profile.name!r}"
    values: dict[str, object] = {}
    for name, value in profile.docker.items():
        here = f"{profile.source(f'docker.{name}')}, profile {profile.name!r}"
        check_known(name, FIELDS, "field of docker", here)
        values[name] = check_value(FIELDS[name], value, f"docker.{name}", here)
    dockerfile, context = (cast("str | None", values.get(name)) for name in ("dockerfile", "context"))
    if dockerfile is None and context is None:
        raise ConfigurationError(
            f"{where}: docker has neither dockerfile nor context, so there is nothing to build; give one of them"
        )
    if profile.image is not None:
        raise ConfigurationError(
            f"profile {profile.name!r} has an image ({profile.source('image')}), and a docker section that builds one "
            f"({profile.source('docker')}); remove one of them, or set image to null"
        )
    start = directory.absolute()
    file = start / dockerfile if dockerfile is not None else start / str(context) / "Dockerfile"
    return Recipe(
        file,
        start / context if context is not None else file.parent,
        tuple(sorted(cast("Mapping[str, str]", values.get("build_args", {})).items())),
        cast("str | None", values.get("target")),
        where,
    )

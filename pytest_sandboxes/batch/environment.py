"""The Python environment of shards: wheels of this one, or those of a directory that the user has filled."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path
from shlex import quote
from zipfile import BadZipFile, ZipFile

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from pytest_sandboxes.batch.archives import Archive, Member, write
from pytest_sandboxes.batch.wheels import OWN, CannotPackError, editable_paths, forget_old, pack, pack_once
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError


@dataclass(frozen=True)
class Need:
    """A distribution that shards cannot do without."""

    requirement: str
    who: str
    """Who needs it, for messages."""


_ALWAYS = (Need(OWN, "batch mode"), Need("pytest", "batch mode"))


def needs(backends: Iterable[str], workers: int) -> tuple[Need, ...]:
    """What shards need whose tests use these backends, with so many workers of pytest-xdist in each."""
    extras = distribution(OWN).metadata.get_all("Provides-Extra") or ()
    # bubblewrap may be the system's
    found = [
        Need(f"{OWN}[{name}]", f"backend {name}") for name in backends if name in extras and name != "local"
    ]
    if workers:
        found.append(Need("pytest-xdist", "-n"))
    return (*_ALWAYS, *found)


@dataclass(frozen=True)
class Environment:
    """What shards make their Python environment of."""

    archive: Archive
    wheels: int
    python_path: tuple[Path, ...]
    """Directories of the project, on this machine, from which distributions in editable mode are imported."""
    notes: tuple[str, ...]


def of_this_process(
    root: Path, folder: Path, kept: Path | None = None, needed: Iterable[Need] = _ALWAYS
) -> Environment:
    """Wheels of all that is installed in the environment that runs pytest, made in `folder`.

    `kept` is where wheels are left for the next run, and taken from if nothing has changed.

    Of distributions in editable mode the code has to be in the project at `root`, and travels with it. What cannot
    travel is left out and named. Raises `ConfigurationError` where something of what is `needed` is then lacking.
    """
    wheels: list[Path] = []
    python_path: list[Path] = []
    notes: list[str] = []
    for found in _installed():
        name = found.metadata["Name"]
        paths = editable_paths(found) if canonicalize_name(name) != OWN else None
        outside = [path for path in paths or () if not path.is_relative_to(root)]
        if outside or paths == []:
            where = one_line(str(outside[0])) if outside else "somewhere"
            notes.append(
                f"{name} is left out: it is installed in editable mode from {where}, outside of the rootdir"
            )
            continue
        try:
            wheels.append(pack(found, folder) if kept is None else pack_once(found, kept))
        except CannotPackError as error:
            notes.append(f"left out: {error}")
            continue
        python_path += paths or ()
    _check_closure(
        {_name(wheel): wheel for wheel in wheels}, "the environment that runs pytest", None, needed
    )
    if kept is not None:
        forget_old(kept)
    return Environment(_archive(wheels, folder), len(wheels), tuple(dict.fromkeys(python_path)), tuple(notes))


def of_wheelhouse(
    wheelhouse: Path, source: str, folder: Path, needed: Iterable[Need] = _ALWAYS
) -> Environment:
    """The wheels of a directory: of each distribution the newest that fits this Python, and this plugin's own.

    `source` says where the directory is named. Raises `ConfigurationError` where there is none, or where it lacks
    something of what is `needed`.
    """
    where = f"{source} is {one_line(str(wheelhouse))}"
    try:
        files = sorted(each for each in wheelhouse.iterdir() if each.suffix == ".whl")
    except OSError as error:
        raise ConfigurationError(f"{where}, which cannot be read: {error.strerror}") from None
    tags = frozenset(sys_tags())
    best: dict[str, tuple[Version, Path]] = {}
    for file in files:
        try:
            name, version, _, fits = parse_wheel_filename(file.name)
        except InvalidWheelFilename:
            raise ConfigurationError(f"{where}, where {one_line(file.name)} has no name of a wheel") from None
        if not tags.isdisjoint(fits) and (name not in best or version > best[name][0]):
            best[name] = version, file
    chosen = {name: file for name, (_, file) in best.items() if name != OWN}
    chosen[canonicalize_name(OWN)] = pack(distribution(OWN), folder)
    _check_closure(chosen, where, wheelhouse, needed)
    here = distribution("pytest").version
    if best["pytest"][0] != Version(here):
        raise ConfigurationError(
            f"{where}, where pytest is {best['pytest'][0]}, and here it is {here}: "
            f"python -m pip download --dest {quote(str(wheelhouse))} pytest=={here}"
        )
    return Environment(_archive(chosen.values(), folder), len(chosen), (), ())


def _installed() -> list[Distribution]:
    """All distributions of this environment, not those that only PYTHONPATH has, sorted by name."""
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    found: dict[str, Distribution] = {}
    for each in (*distributions(path=sorted(places)), *distributions()):
        name = each.metadata["Name"]
        if name:
            found.setdefault(canonicalize_name(name), each)
    return [found[name] for name in sorted(found)]


def _name(wheel: Path) -> str:
    return parse_wheel_filename(wheel.name)[0]


def _archive(wheels: Iterable[Path], folder: Path) -> Archive:
    return write(
        [Member(wheel.name, wheel) for wheel in sorted(wheels, key=lambda each: each.name)],
        folder / "environment.tar",
    )


def _check_closure(
    wheels: Mapping[str, Path], where: str, wheelhouse: Path | None, needed: Iterable[Need]
) -> None:
    """Raise `ConfigurationError` unless all that is needed is there, with all that it needs itself."""
    waiting = [(Requirement(need.requirement), need.who) for need in needed]
    seen = set()
    while waiting:
        requirement, who = waiting.pop()
        name = canonicalize_name(requirement.name)
        wheel = wheels.get(name)
        version = None if wheel is None else parse_wheel_filename(wheel.name)[1]
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            lacks = f"lacks {requirement.name}{requirement.specifier}, which {who} needs"
            command = "python -m pip install" if wheelhouse is None else "python -m pip download --dest"
            words = [] if wheelhouse is None else [quote(str(wheelhouse))]
            words.append(quote(f"{requirement.name}{requirement.specifier}"))
            raise ConfigurationError(
                f"{where} {'and ' if wheelhouse else ''}{lacks}: {' '.join([command, *words])}"
            )
        extras = frozenset(requirement.extras) or frozenset({""})
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        assert wheel is not None
        waiting += [
            (each, who if requirement.extras and name == OWN else requirement.name)
            for each in _requirements(wheel)
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras)
        ]


def _requirements(wheel: Path) -> list[Requirement]:
    try:
        with ZipFile(wheel) as file:
            name = next(each for each in file.namelist() if each.endswith(".dist-info/METADATA"))
            metadata = file.read(name).decode("utf-8", "replace")
    except (OSError, BadZipFile, StopIteration):
        raise ConfigurationError(f"{one_line(str(wheel))} is no wheel that can be read: remove it") from None
    head = metadata.partition("\n\n")[0].splitlines()
    found = []
    for line in head:
        if line.startswith("Requires-Dist:"):
            try:
                found.append(Requirement(line.partition(":")[2].strip()))
            except InvalidRequirement:
                continue  # older than the rules; whoever wrote it cannot be asked
    return found

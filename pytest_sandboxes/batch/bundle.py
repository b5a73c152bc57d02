"""The bundle: those files of the project that travel to its shards, which are the ones that git tracks."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_sandboxes.batch.archives import Archive, Member, write
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.project_files import collect, is_checkout
from pytest_sandboxes.wording import counted

MOST_MEGABYTES = 512
"""What a project may weigh."""
_GIT_TIMEOUT = 60.0
_SHOWN = 3


@dataclass(frozen=True)
class Bundle:
    """What travels."""

    archive: Archive
    files: frozenset[str]
    """Paths below the root."""
    notes: tuple[str, ...]
    """What does not travel, and why, in sentences."""


def build(root: Path, path: Path, never: Path | None = None) -> Bundle:
    """Make the bundle of the project at `root`, as its files are now, committed or not; without the file `never`.

    Raises `ConfigurationError` when git tracks nothing there, or too much.
    """
    where = one_line(str(root))
    if not is_checkout(root):
        raise ConfigurationError(
            f"batch mode sends the files that git tracks, and {where} is no checkout of git: git init && git add . "
            "makes it one"
        )
    files = collect(root, f"batch mode sends the files of {where}", never=never)
    _check_weight({name: each.st_size for name, each in files.entries.items()})
    members = [
        Member(
            name,
            root / name,
            os.readlink(root / name) if stat.S_ISLNK(status.st_mode) else None,  # noqa: PTH115 - as it is written
            is_executable=bool(status.st_mode & stat.S_IXUSR),
        )
        for name, status in files.entries.items()
    ]
    reasons: dict[str, list[str]] = {}
    for name, why in files.left_out.items():
        reasons.setdefault(why, []).append(name)
    untracked = _untracked(root)
    if untracked:
        reasons["not tracked: git add what is needed"] = untracked
    notes = [
        f"not sent: {counted(len(names), 'file')} ({why}): {_some(names)}" for why, names in reasons.items()
    ]
    return Bundle(write(members, path), frozenset(files.entries), tuple(notes))


def check_holds(bundle: Bundle, root: Path, needed: Iterable[Path]) -> None:
    """Raise `ConfigurationError` unless all these files of the project travel."""
    lacking = []
    for path in dict.fromkeys(needed):
        if not path.is_relative_to(root):
            raise ConfigurationError(
                f"batch mode: {one_line(str(path))} lies outside of the rootdir {one_line(str(root))}, of which alone "
                "files are sent: move it there, or choose another directory with --rootdir"
            )
        name = path.relative_to(root).as_posix()
        if name not in bundle.files:
            lacking.append(name)
    if lacking:
        raise ConfigurationError(
            f"batch mode: {_count(lacking)} needed to run these tests and would not be sent, because git does not "
            f"track them or they could hold secrets: {_some(lacking)}; git add {one_line(' '.join(lacking[:_SHOWN]))}"
        )


def _untracked(root: Path) -> list[str]:
    """Files below `root` that git neither tracks nor ignores; none where it cannot tell."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", "core.fsmonitor=false", "ls-files", "-z", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, timeout=_GIT_TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return sorted(os.fsdecode(name) for name in done.stdout.split(b"\0") if name)


def _check_weight(weights: dict[str, int]) -> None:
    total = sum(weights.values())
    if total <= MOST_MEGABYTES << 20:
        return
    heaviest = sorted(weights, key=weights.__getitem__, reverse=True)[:_SHOWN]
    shown = ", ".join(f"{one_line(name)} ({size(weights[name])})" for name in heaviest)
    raise ConfigurationError(
        f"batch mode: the files that git tracks have {size(total)}, and at most {MOST_MEGABYTES} MB are sent; the "
        f"largest are {shown}: git rm --cached what the tests do not need"
    )


def size(number: int) -> str:
    """Bytes for people."""
    return f"{number / 1e6:,.1f} MB" if number >= 100_000 else f"{number / 1000:,.1f} KB"


def _count(names: Sequence[str]) -> str:
    return f"{len(names):,} file is" if len(names) == 1 else f"{len(names):,} files are"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(one_line(name, 100) for name in names[:_SHOWN])
    return f"{shown}, …" if len(names) > _SHOWN else shown

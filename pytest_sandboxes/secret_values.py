"""Secrets: where their values come from. Profiles have the names, and nobody but a controlling process has the values.

They leave it in the frames that start commands, and nowhere else.
"""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.wording import did_you_mean, shown

if TYPE_CHECKING:
    from pytest_sandboxes.profiles.profile import Profile

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_LONGEST_FILE = 1 << 20
_LONGEST = 1 << 16  # all values of a profile, which travel with each command


class Secrets:
    """Values by name, from the environment of this process or else from a file. Shows names only, to whoever prints it.

    Its methods may be called from any thread.
    """

    def __init__(
        self, in_file: Mapping[str, str] | None = None, file: str = "", path: Path | None = None
    ) -> None:
        """`file` says in messages which file `in_file` is from; empty if there is none."""
        self.path = path
        """The file, which nobody but this process is to read."""
        self._in_file = dict(in_file or {})
        self._file = file
        self._lock = threading.Lock()
        self._used: dict[str, str] = {}

    @classmethod
    def from_file(cls, path: Path, source: str) -> Secrets:
        """With the file that `source` names. Raises `ConfigurationError` unless it is this user's alone, and right."""
        where = f"{source}: {one_line(str(path), 300)}"
        return cls(dict(_parsed(_read(path, where), where)), f"{path.name} ({source})", path)

    def of(self, profile: Profile) -> dict[str, str]:
        """The values of a profile's secrets, the same ones all the time.

        Raises `ConfigurationError` for a name that no variable can have, and for one that is nowhere.
        """
        found = {name: self._value(name, profile) for name in profile.secrets}
        if sum(len(os.fsencode(value)) for value in found.values()) > _LONGEST:
            raise ConfigurationError(
                f"{profile.source('secrets')}: secrets of profile {profile.name!r} are more than 64 KiB together: "
                "leave some out, or write them to a file of the slot"
            )
        return found

    def _value(self, name: str, profile: Profile) -> str:
        where = f"{profile.source('secrets')}: secrets of profile {profile.name!r} has {shown(name)}"
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"{where}, which cannot name an environment variable: use letters, digits and '_', no digit first"
            )
        with self._lock:
            value = self._used.get(name) or os.environ.get(name) or self._in_file.get(name)
            if value:
                self._used[name] = value
                return value
        in_file = f", nor in {self._file}" if self._file else ""
        remedy = "set it" if self._file else "set it, or name a file by --sandbox-secrets-file"
        raise ConfigurationError(
            f"{where}, which is not in the environment{in_file}"
            f"{did_you_mean(name, (*os.environ, *self._in_file)) or f'; {remedy}'}"
        )

    def used(self) -> dict[str, str]:
        """Those that profiles in use have, by name."""
        with self._lock:
            return dict(self._used)

    def __repr__(self) -> str:
        with self._lock:
            return f"<Secrets {', '.join(sorted(self._used)) or 'none used'}>"


def _read(path: Path, where: str) -> str:
    try:
        # a FIFO is not waited for, and a link may lead to what its owner never meant
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise ConfigurationError(
                f"{where} is a symbolic link, which no file of secrets may be: name the file"
            ) from None
        raise ConfigurationError(f"{where} cannot be read: {error.strerror}") from None
    try:
        _check_owner(os.fstat(fd), where)
        content = _read_all(fd)
    finally:
        os.close(fd)
    if len(content) > _LONGEST_FILE:
        raise ConfigurationError(f"{where} is larger than 1 MiB: name a file with lines NAME=value")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigurationError(f"{where} is not UTF-8: write it with lines NAME=value") from None


def _check_owner(status: os.stat_result, where: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"{where} is no regular file: name one with lines NAME=value")
    if status.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{where} belongs to another user, who could change it: make one of your own"
        )
    if status.st_mode & 0o077:
        raise ConfigurationError(
            f"{where} is open to others, by mode {status.st_mode & 0o777:03o}: chmod 600 it"
        )


def _read_all(fd: int) -> bytes:
    """The content of a file, or a little more than the longest that is taken."""
    content = b""
    while len(content) <= _LONGEST_FILE and (piece := os.read(fd, _LONGEST_FILE)):
        content += piece
    return content


def _parsed(text: str, where: str) -> Iterator[tuple[str, str]]:
    """Name and value of each line. No message has anything of a line but its number."""
    seen = set()
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")  # noqa: PLW2901 - as editors elsewhere end it
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, separator, value = line.partition("=")
        name = name.strip()
        if not separator or not _NAME.fullmatch(name):
            raise ConfigurationError(f"{where}, line {number}: not NAME=value")
        if name in seen:
            raise ConfigurationError(f"{where}, line {number}: {name} is there already: remove one")
        seen.add(name)
        yield name, _unquoted(value, f"{where}, line {number}: the value of {name}")


def _unquoted(value: str, what: str) -> str:
    if value.startswith('"'):
        try:
            value = json.loads(value)
        except ValueError:
            raise ConfigurationError(
                f'{what} begins with a quote and is not quoted as JSON: escape what has to be, as in "a\\nb"'
            ) from None
    if not value or "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ConfigurationError(f"{what} is empty, or has a NUL or half a character in it: correct it")
    return value

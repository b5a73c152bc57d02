"""The files of a build, as the archive that the Engine takes: the same bytes for the same files, on any day."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 1 << 18
_MTIME = 315_619_200  # of all files alike, because it is no part of a recipe; the second day that zip archives know
_IGNORED = ".dockerignore"
_FOREIGN_DOCKERFILE = ".pytest-sandboxes.dockerfile"  # in the archive, of one that is not in the context


class ContextError(Exception):
    """Files that cannot be had: which, and why, a clause."""


class Context:
    """The files of `directory` without those that its `.dockerignore` names, and the Dockerfile.

    Links are taken as links, wherever they point. Sockets, pipes and devices are left out, as `docker build` does
    with sockets: no image could have them.
    """

    def __init__(self, directory: Path, dockerfile: Path) -> None:
        self._directory = directory
        self._dockerfile = dockerfile
        inside = dockerfile.parent.resolve().is_relative_to(directory.resolve())
        self.dockerfile = (
            str(dockerfile.parent.resolve().relative_to(directory.resolve()) / dockerfile.name)
            if inside
            else _FOREIGN_DOCKERFILE
        )
        """Its name in the archive."""

    def archive(self) -> Iterator[bytes]:
        """A tar archive, bit by bit. Raises `ContextError`."""
        from docker.utils.build import exclude_paths

        try:
            extra = self._extra()
            # The SDK reads the patterns with no regard to case; `docker build` itself does regard it.
            names = exclude_paths(str(self._directory), self._patterns(), self.dockerfile)
            for name in sorted(names | extra.keys()):
                if name in extra:
                    yield from _whole(name, extra[name])
                else:
                    yield from self._entry(name)
        except OSError as error:
            raise ContextError(f"{error.filename} cannot be read: {error.strerror}") from None
        yield bytes(2 * tarfile.BLOCKSIZE)

    def _patterns(self) -> list[str]:
        lines = [line.strip() for line in self._ignored().splitlines()]
        return [line for line in lines if line and not line.startswith("#")]

    def _ignored(self) -> str:
        file = self._directory / _IGNORED
        try:
            return file.read_text("utf-8-sig") if file.exists() else ""
        except UnicodeDecodeError:
            raise ContextError(f"{file} is not UTF-8") from None

    def _extra(self) -> dict[str, bytes]:
        """What is in the archive and not so in the directory: a Dockerfile from elsewhere, which no image is to get."""
        if self.dockerfile != _FOREIGN_DOCKERFILE:
            return {}
        return {
            self.dockerfile: self._dockerfile.read_bytes(),
            _IGNORED: f"{self._ignored()}\n{self.dockerfile}\n".encode(),
        }

    def _entry(self, name: str) -> Iterator[bytes]:
        path = self._directory / name
        found = path.lstat()
        info = _info(name, stat.S_IMODE(found.st_mode))
        if stat.S_ISLNK(found.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, str(path.readlink())
        elif stat.S_ISDIR(found.st_mode):
            info.type = tarfile.DIRTYPE
        elif stat.S_ISREG(found.st_mode):
            yield from _content(path, info)
            return
        else:
            return
        yield _header(info)


def _content(path: Path, info: tarfile.TarInfo) -> Iterator[bytes]:
    # Not what a link points to, and no wait for whoever writes into a pipe, should it have become one meanwhile.
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
        found = os.fstat(file.fileno())
        info.size = left = found.st_size
        if not stat.S_ISREG(found.st_mode):
            raise ContextError(f"{path} has changed while it was read")
        yield _header(info)
        while left:
            data = file.read(min(left, _CHUNK))
            if not data:
                raise ContextError(f"{path} has changed while it was read")
            left -= len(data)
            yield data
    yield _padding(info.size)


def _whole(name: str, content: bytes) -> Iterator[bytes]:
    info = _info(name, 0o644)
    info.size = len(content)
    yield _header(info) + content + _padding(info.size)


def _info(name: str, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = mode, _MTIME
    return info


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)

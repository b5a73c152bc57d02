"""Filling a workspace from a directory that code cannot change.

A plain copy, by the kernel where it can: no link is shared with the source, so what code does to its files is done to
its own. The kernel's overlays would be quicker, but have no size of their own.
"""

from __future__ import annotations

import errno
import os
import stat

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DEPTH = 200  # two descriptors are open per level, and two calls

TYPE_CHECKING = False  # `typing` is not worth its import time here
if TYPE_CHECKING:
    Owner = tuple[int, int] | None


class _Filling:
    """What has been copied so far."""

    def __init__(self, owner: Owner) -> None:
        self.files = 0
        self.size = 0
        self._owner = owner

    def directory(self, source: int, target: int, depth: int) -> None:
        """Copy all that is in an open directory into another."""
        for entry in os.listdir(source):
            name = os.fsencode(entry)
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                self._folder(name, status, source, target, depth)
            elif stat.S_ISREG(status.st_mode):
                self._file(name, status, source, target)
            elif stat.S_ISLNK(status.st_mode):
                self._make_room(name, target)
                os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
                if self._owner is not None:
                    os.chown(name, *self._owner, dir_fd=target, follow_symlinks=False)
                self.files += 1

    def _folder(self, name: bytes, status: os.stat_result, source: int, target: int, depth: int) -> None:
        if depth >= _MAX_DEPTH:
            raise OSError(errno.ENAMETOOLONG, "directories are nested too deep", name)
        try:
            os.mkdir(name, 0o700, dir_fd=target)
        except FileExistsError:
            pass
        there = os.open(name, _DIRECTORY, dir_fd=source)
        try:
            here = os.open(name, _DIRECTORY, dir_fd=target)
            try:
                self.directory(there, here, depth + 1)
                self._finish(here, stat.S_IMODE(status.st_mode) | 0o700, status)
            finally:
                os.close(here)
        finally:
            os.close(there)

    def _file(self, name: bytes, status: os.stat_result, source: int, target: int) -> None:
        there = os.open(name, _FILE, dir_fd=source)
        try:
            self._make_room(name, target)
            here = os.open(name, _NEW, 0o600, dir_fd=target)
            try:
                done = 0
                while done < status.st_size:
                    piece = os.sendfile(here, there, done, status.st_size - done)
                    if not piece:
                        raise OSError(errno.EIO, "the file has become shorter", name)
                    done += piece
                self._finish(here, stat.S_IMODE(status.st_mode) | 0o600, status)
            finally:
                os.close(here)
        finally:
            os.close(there)
        self.files += 1
        self.size += status.st_size

    def _finish(self, fd: int, mode: int, status: os.stat_result) -> None:
        if self._owner is not None:
            os.fchown(fd, *self._owner)
        os.fchmod(fd, mode & 0o777)
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _make_room(self, name: bytes, target: int) -> None:
        """Of an image as it is, what has the same name goes."""
        try:
            os.unlink(name, dir_fd=target)
        except FileNotFoundError:
            pass


def fill(source: bytes, workspace: bytes, owner: Owner) -> dict[str, object]:
    """Copy all that is in `source` into a workspace, as a user's where `owner` says so; special files are left out.

    Returns how many files and links that were, and their bytes. Raises OSError with a name of what cannot be copied.
    """
    filling = _Filling(owner)
    there = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.makedirs(workspace, 0o755, exist_ok=True)
        here = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            filling.directory(there, here, 1)
        finally:
            os.close(here)
    finally:
        os.close(there)
    return {"done": True, "files": filling.files, "size": filling.size}

"""The project's files as one tar, in which they travel to sandboxes elsewhere."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from pytest_sandboxes.project_files import ProjectFiles, mode_of


def archive(files: ProjectFiles, mode: int) -> Iterator[bytes]:
    """A tar of all files, as root's, bit by bit; `mode` is that of their directory.

    Raises OSError when one cannot be read, or has changed.
    """
    yield _header(".", mode, tarfile.DIRTYPE)
    made = set()
    for path, status in files.entries.items():
        for parent in reversed(PurePosixPath(path).parents[:-1]):
            if parent not in made:
                made.add(parent)
                yield _header(str(parent), 0o755, tarfile.DIRTYPE)
        if stat.S_ISLNK(status.st_mode):
            yield _header(path, 0o777, tarfile.SYMTYPE, link=str((files.top / path).readlink()))
            continue
        yield _header(path, mode_of(status), tarfile.REGTYPE, status)
        yield from _content(files, path, status.st_size)


def _header(
    name: str, mode: int, kind: bytes, status: os.stat_result | None = None, *, link: str = ""
) -> bytes:
    member = tarfile.TarInfo(name)
    member.mode, member.type, member.linkname = mode, kind, link
    if status is not None:
        member.size, member.mtime = status.st_size, int(status.st_mtime)
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _content(files: ProjectFiles, path: str, size: int) -> Iterator[bytes]:
    with io.FileIO(files.open(path), "rb") as file:
        left = size
        while left:
            piece = file.read(min(left, 1 << 20))
            if not piece:
                raise OSError(f"{path} has become shorter while it was copied")
            yield piece
            left -= len(piece)
    if size % tarfile.BLOCKSIZE:
        yield bytes(-size % tarfile.BLOCKSIZE)  # an empty piece would end a chunked body

"""The format in which whole trees travel, and its extractor, which trusts nothing in it.

A tree is a sequence of records: `u32 length`, an encoded header `[kind, path, mode, size]`, then `size` bytes of
content. Unlike tar it can say nothing that the extractor would have to refuse: no links, owners, devices or sparse
files. It is read by whoever receives a tree, in the sandbox and, with hostile content, outside.
"""

from __future__ import annotations

import errno
import os
import stat

from pytest_sandboxes.agent import wire

TYPE_CHECKING = False  # `typing` is not worth its import time here
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Protocol

    class Reader(Protocol):
        """Anything with a blocking `read`."""

        def read(self, size: int, /) -> bytes:
            """At most `size` bytes; empty at the end."""


_PIECE = 1 << 18
_MAX_HEADER = 8192
_MAX_DEPTH = 500


class TreeError(OSError):
    """The tree is malformed, names a place outside the destination, or is larger than allowed."""


class Exactly:
    """Reads exactly `size` bytes from a file that may shrink or grow meanwhile: padded with zeros, or cut."""

    def __init__(self, file: Reader, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int = -1) -> bytes:
        """The next bytes, as `io.RawIOBase.read`."""
        want = self._left if size < 0 else min(size, self._left)
        data = self._file.read(want)
        self._left -= want
        return data + bytes(want - len(data))


class _Descriptor:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int) -> bytes:
        return os.read(self._fd, size)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` to a blocking descriptor."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _header(kind: str, path: bytes, mode: int, size: int) -> bytes:
    header = wire.encode([kind, path, mode, size])
    return len(header).to_bytes(4, "big") + header


def write_directory(write: Callable[[bytes], object], path: bytes, mode: int) -> None:
    """Write the record of a directory by `write`, which takes all it is given."""
    write(_header("directory", path, mode, 0))


def write_skipped(write: Callable[[bytes], object], path: bytes, what: str) -> None:
    """Write that there is something at `path` that is neither a readable file nor a directory."""
    write(_header(what, path, 0, 0))


def write_file(write: Callable[[bytes], object], path: bytes, mode: int, fd: int) -> None:
    """Write the record of the regular file that is open as `fd`."""
    size = os.fstat(fd).st_size
    write(_header("file", path, mode, size))
    content = Exactly(_Descriptor(fd), size)
    while True:
        piece = content.read(_PIECE)
        if not piece:
            return
        write(piece)


class Extracted:
    """What `extract` has made."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes of content written."""
        self.skipped: list[tuple[bytes, str]] = []
        """(path, type) of what was left out: links, special files, unreadable files."""


def extract(source: Reader, destination: bytes, max_bytes: int, max_entries: int) -> Extracted:
    """Make the tree that `source` holds at `destination`; the first record tells whether that is a file.

    Every place is reached from the destination's descriptor, one component at a time, following no link, so nothing
    is ever made or changed outside it, whatever the tree says and whatever changes meanwhile. Files get permission
    bits only, never setuid, and are readable and writable by their owner.

    Raises `TreeError` when the tree is malformed or exceeds a limit, OSError when the destination cannot be written.
    """
    made = Extracted()
    root: int | None = None
    try:
        while True:
            record = _read_header(source)
            if record is None:
                return made
            kind, path, mode, size = record
            max_entries -= 1
            max_bytes -= size
            if max_entries < 0 or max_bytes < 0:
                raise TreeError(errno.EFBIG, "the tree is larger than allowed")
            if root is None:
                if path:
                    raise TreeError(errno.EBADMSG, "the tree does not begin with its top")
                if kind == "file":
                    _write_content(source, _create(None, destination, mode), size, destination)
                    made.size = size
                    if _read_header(source) is not None:
                        raise TreeError(errno.EBADMSG, "a second record after a single file")
                    return made
                if kind != "directory":
                    raise TreeError(errno.EBADMSG, "the top is neither a file nor a directory")
                os.makedirs(destination, exist_ok=True)
                root = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                continue
            parts = _components(path)
            name = os.path.join(destination, path)
            if kind == "directory":
                with _Naming(name):
                    os.close(_descend(root, parts))
            elif kind == "file":
                with _Naming(name):
                    parent = _descend(root, parts[:-1])
                    try:
                        fd = _create(parent, parts[-1], mode)
                    finally:
                        os.close(parent)
                _write_content(source, fd, size, name)
                made.size += size
            else:
                made.skipped.append((path, kind))
    finally:
        if root is not None:
            os.close(root)


class _Naming:
    """Gives an error, which knows one component at most, the whole path."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            error.filename = self._name


def _read_exactly(source: Reader, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = source.read(size - len(data))
        if not piece:
            raise TreeError(errno.EBADMSG, "the tree ends in the middle")
        data += piece
    return data


def _read_header(source: Reader) -> tuple[str, bytes, int, int] | None:
    first = source.read(4)
    if not first:
        return None
    length = int.from_bytes(first + _read_exactly(source, 4 - len(first)), "big")
    if length > _MAX_HEADER:
        raise TreeError(errno.EBADMSG, f"a header of {length} bytes")
    try:
        header = wire.decode(_read_exactly(source, length))
    except wire.ProtocolError as error:
        raise TreeError(errno.EBADMSG, str(error)) from None
    if not isinstance(header, list) or len(header) != 4:
        raise TreeError(errno.EBADMSG, "not a header")
    kind, path, mode, size = header
    if not (
        isinstance(kind, str) and isinstance(path, bytes) and isinstance(mode, int) and isinstance(size, int)
    ):
        raise TreeError(errno.EBADMSG, "not a header")
    if size < 0 or (size and kind != "file"):
        raise TreeError(errno.EBADMSG, "impossible size")
    return kind, path, mode, size


def _components(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    if len(parts) > _MAX_DEPTH or b"\0" in path or any(part in (b"", b".", b"..") for part in parts):
        raise TreeError(errno.EBADMSG, "not a path below the destination", path)
    return parts


def _descend(root: int, parts: list[bytes]) -> int:
    """A descriptor of the directory `parts` below `root`, made where missing."""
    fd = os.dup(root)
    for part in parts:
        try:
            try:
                os.mkdir(part, 0o755, dir_fd=fd)
            except FileExistsError:
                pass
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


def _create(parent: int | None, name: bytes, mode: int) -> int:
    # what is there may be a link or a FIFO: it goes, and the new file is one that nothing else names
    try:
        there = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        if stat.S_ISDIR(there):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        if parent is not None or stat.S_ISREG(there):
            os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=parent)
    os.fchmod(fd, (mode & 0o777) | 0o600)
    return fd


def _write_content(source: Reader, fd: int, size: int, name: bytes) -> None:
    try:
        while size:
            piece = source.read(min(_PIECE, size))
            if not piece:
                raise TreeError(errno.EBADMSG, "the tree ends in the middle")
            size -= len(piece)
            with _Naming(name):
                write_all(fd, piece)
    finally:
        os.close(fd)

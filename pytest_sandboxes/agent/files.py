"""File operations on behalf of a slot.

Each runs in a forked worker that has the slot's own rights and none of the agent's descriptors, so a link, FIFO,
device, /proc entry or a race can at worst show the slot what the slot could read anyway, or cost the worker its time.
Content flows over descriptors 0 and 1; the returned mapping is the result.
"""

from __future__ import annotations

import errno
import os
import stat

from pytest_sandboxes.agent import tree, wire

TYPE_CHECKING = False  # `typing` is not worth its import time here
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

_PIECE = 1 << 18
_MAX_DEPTH = 500  # one descriptor is open per level
_MAX_PATH = (
    4096  # what code builds beyond by relative steps, no path can name, and no message of ours has room for
)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # or something else by now
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def _kernel_devices() -> frozenset[int]:
    found = set()
    for path in ("/proc", "/proc/sys", "/sys", "/sys/fs/cgroup"):
        try:
            found.add(os.stat(path).st_dev)
        except OSError:
            pass
    return frozenset(found)


def open_regular(path: bytes, flags: int, mode: int = 0o644, dir_fd: int | None = None) -> int:
    """Open `path`, which has to be a regular file of a real file system.

    Never waits for a FIFO's other end nor takes a terminal. Raises IsADirectoryError for a directory, and
    OSError(EINVAL) for a FIFO, device, socket or anything on procfs and sysfs, whose content is the worker's own.
    """
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, mode, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):
            raise OSError(errno.EINVAL, "not a regular file", path) from None
        raise
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        os.close(fd)
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode) or status.st_dev in _kernel_devices():
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return fd


def _make_parents(path: bytes) -> None:
    parent = os.path.dirname(path)
    try:
        os.makedirs(parent or b".", exist_ok=True)
    except FileExistsError:  # and is no directory, which `open` would put like this
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), parent) from None


def _put(data: bytes) -> None:
    tree.write_all(1, data)


def named(path: bytes, task: Callable[[], dict[str, object]]) -> Callable[[], dict[str, object]]:
    """`task`, whose errors name `path` where they would name nothing, as those of an open file do."""

    def run() -> dict[str, object]:
        try:
            return task()
        except OSError as error:
            if error.filename is None:
                error.filename = path
            raise

    return run


def read_file(path: bytes, limit: int) -> dict[str, object]:
    """Send at most `limit` + 1 bytes of a file: one more than wanted tells the reader that it was cut."""
    fd = open_regular(path, os.O_RDONLY)
    left = limit + 1
    while left > 0:
        piece = os.read(fd, min(_PIECE, left))
        if not piece:
            break
        _put(piece)
        left -= len(piece)
    return {}


def write_file(path: bytes, mode: int | None) -> dict[str, object]:
    """Write what comes in to a file, making its parents; `mode` is set whatever the umask says."""
    _make_parents(path)
    # not O_TRUNC: what turns out to be no regular file must stay as it is
    fd = open_regular(path, os.O_WRONLY | os.O_CREAT)
    os.ftruncate(fd, 0)
    if mode is not None:
        os.fchmod(fd, mode)
    size = 0
    while True:
        piece = os.read(0, _PIECE)
        if not piece:
            return {"size": size}
        tree.write_all(fd, piece)
        size += len(piece)


class Walk:
    """Iterates over a tree by directory descriptors, following no link, in sorted order, parents first."""

    def __init__(self, top: bytes, recursive: bool, limit: int) -> None:
        self._top = top
        self._recursive = recursive
        self._left = limit
        self.truncated = False
        """There were more entries than the limit, or deeper ones than can be walked."""
        self.closed: list[bytes] = []
        """What could not be looked at: directories that could not be read, entries of those that are half closed."""

    def check_complete(self) -> None:
        """Raise PermissionError with the first name that could not be looked at."""
        if self.closed:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), self.closed[0])

    def __iter__(self) -> Iterator[tuple[bytes, os.stat_result, int]]:
        """Yield (path below the top, its lstat, descriptor of its directory); the descriptor is the walk's own."""
        fd = os.open(self._top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack = [(b"", fd, _names(fd))]
        while stack:
            prefix, fd, names = stack[-1]
            if not names:
                os.close(fd)
                stack.pop()
                continue
            name = names.pop()
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _GONE:  # names may be read here, and nothing else
                    self.closed.append(prefix + name)
                continue
            if self._left <= 0:
                self.truncated = True
                for _, open_fd, _ in stack:
                    os.close(open_fd)
                return
            path = prefix + name
            if len(path) > _MAX_PATH:
                self.truncated = True
                continue
            self._left -= 1
            yield path, status, fd
            if self._recursive and stat.S_ISDIR(status.st_mode):
                if len(stack) >= _MAX_DEPTH:
                    self.truncated = True
                    continue
                try:
                    below = os.open(
                        name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd
                    )
                except OSError as error:
                    if error.errno not in _GONE:
                        self.closed.append(path)
                    continue
                stack.append((path + b"/", below, _names(below)))


def _names(fd: int) -> list[bytes]:
    """Names in a directory, last first."""
    return sorted((os.fsencode(name) for name in os.listdir(fd)), reverse=True)


def list_tree(path: bytes, recursive: bool, digests: bool, limit: int) -> dict[str, object]:
    """Send one encoded entry after the other, each behind its length."""
    walk = Walk(path, recursive, limit)
    pending = bytearray()
    for name, status, fd in walk:
        digest = _digest(name.rsplit(b"/", 1)[-1], fd) if digests and stat.S_ISREG(status.st_mode) else None
        entry = wire.encode(
            [
                name,
                _TYPES.get(stat.S_IFMT(status.st_mode), "device"),
                status.st_size,
                stat.S_IMODE(status.st_mode),
                status.st_mtime,
                digest,
            ]
        )
        pending += len(entry).to_bytes(4, "big") + entry
        if len(pending) >= _PIECE:
            _put(bytes(pending))
            pending.clear()
    _put(bytes(pending))
    walk.check_complete()
    return {"truncated": walk.truncated}


def _digest(name: bytes, dir_fd: int) -> str | None:
    import hashlib

    digest = hashlib.sha256()
    try:
        fd = open_regular(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=dir_fd)
    except OSError:
        return None
    try:
        while True:
            piece = os.read(fd, _PIECE)
            if not piece:
                return digest.hexdigest()
            digest.update(piece)
    except OSError:
        return None
    finally:
        os.close(fd)


def send_tree(path: bytes, limit: int) -> dict[str, object]:
    """Send a file or a whole tree in the format of `tree`; links and special files are only named."""
    if not stat.S_ISDIR(os.stat(path).st_mode):
        fd = open_regular(path, os.O_RDONLY)
        tree.write_file(_put, b"", stat.S_IMODE(os.fstat(fd).st_mode), fd)
        return {"truncated": False}
    walk = Walk(path, True, limit)
    tree.write_directory(_put, b"", 0o755)
    for name, status, dir_fd in walk:
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            tree.write_directory(_put, name, mode)
            continue
        content: int | None = None
        if stat.S_ISREG(status.st_mode):
            try:
                content = open_regular(name.rsplit(b"/", 1)[-1], os.O_RDONLY | os.O_NOFOLLOW, dir_fd=dir_fd)
            except OSError:
                pass  # unreadable, or something else by now
        if content is None:
            kind = _TYPES.get(stat.S_IFMT(status.st_mode), "device")
            tree.write_skipped(_put, name, "unreadable" if kind == "file" else kind)
            continue
        try:
            tree.write_file(_put, name, mode, content)
        finally:
            os.close(content)
    for name in walk.closed:
        tree.write_skipped(_put, name, "unreadable")
    return {"truncated": walk.truncated}


def receive_tree(path: bytes) -> dict[str, object]:
    """Make the tree that comes in at `path`: over what is there, through no link below it."""
    _make_parents(path)
    return {"size": tree.extract(_StandardInput(), path, 1 << 62, 1 << 31).size}


class _StandardInput:
    def read(self, size: int) -> bytes:
        return os.read(0, size)


def archive(path: bytes, kind: str, limit: int) -> dict[str, object]:
    """Send a tar, tar.gz or zip of what is at `path`; links are kept as links, special files left out."""
    truncated = False
    out = os.fdopen(1, "wb", _PIECE, closefd=False)
    add, close = _zip_writer(out) if kind == "zip" else _tar_writer(out, kind)
    if stat.S_ISDIR(os.stat(path).st_mode):
        walk = Walk(path, True, limit)
        for name, status, dir_fd in walk:
            add(name, status, dir_fd, name.rsplit(b"/", 1)[-1])
        walk.check_complete()
        truncated = walk.truncated
    else:
        dir_fd = os.open(os.path.dirname(path) or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        name = os.path.basename(path)
        add(name, os.stat(name, dir_fd=dir_fd), dir_fd, name)
    close()
    out.flush()
    return {"truncated": truncated}


def _tar_writer(
    out: BinaryIO, kind: str
) -> tuple[Callable[[bytes, os.stat_result, int, bytes], None], Callable[[], None]]:
    import tarfile

    writer = tarfile.open(  # noqa: SIM115 - closed by the caller
        fileobj=out, mode="w|gz" if kind == "tar.gz" else "w|", format=tarfile.PAX_FORMAT
    )

    def add(path: bytes, status: os.stat_result, dir_fd: int, name: bytes) -> None:
        member = tarfile.TarInfo(os.fsdecode(path))
        member.mode = stat.S_IMODE(status.st_mode)
        member.mtime = int(status.st_mtime)
        if stat.S_ISDIR(status.st_mode):
            member.type = tarfile.DIRTYPE
            writer.addfile(member)
        elif stat.S_ISLNK(status.st_mode):
            member.type = tarfile.SYMTYPE
            member.linkname = os.fsdecode(os.readlink(name, dir_fd=dir_fd))
            writer.addfile(member)
        elif stat.S_ISREG(status.st_mode):
            fd = open_regular(name, os.O_RDONLY, dir_fd=dir_fd)
            with os.fdopen(fd, "rb") as file:
                member.size = os.fstat(fd).st_size
                writer.addfile(member, tree.Exactly(file, member.size))

    return add, writer.close


def _zip_writer(
    out: BinaryIO,
) -> tuple[Callable[[bytes, os.stat_result, int, bytes], None], Callable[[], None]]:
    import time
    import zipfile

    writer = zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED)

    def add(path: bytes, status: os.stat_result, dir_fd: int, name: bytes) -> None:
        # zip has no dates but from 1980 to 2107, and no notion of names that are not text
        when = time.gmtime(min(max(status.st_mtime, 315532800), 4354819198))[:6]
        text = path.decode("utf-8", "backslashreplace")
        member = zipfile.ZipInfo(text + ("/" if stat.S_ISDIR(status.st_mode) else ""), when)
        member.external_attr = (status.st_mode & 0xFFFF) << 16
        member.compress_type = zipfile.ZIP_DEFLATED
        if stat.S_ISDIR(status.st_mode):
            writer.writestr(member, b"")
        elif stat.S_ISLNK(status.st_mode):
            writer.writestr(member, os.readlink(name, dir_fd=dir_fd))
        elif stat.S_ISREG(status.st_mode):
            fd = open_regular(name, os.O_RDONLY, dir_fd=dir_fd)
            with os.fdopen(fd, "rb") as file, writer.open(member, "w", force_zip64=True) as target:
                while True:
                    piece = file.read(_PIECE)
                    if not piece:
                        break
                    target.write(piece)

    return add, writer.close

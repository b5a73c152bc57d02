"""Whole files and trees between this machine and a slot."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from pytest_sandboxes import arguments
from pytest_sandboxes.agent import tree
from pytest_sandboxes.errors import OutputLimitExceededError, SandboxLostError
from pytest_sandboxes.file_operations import FILE_TIMEOUT, receive_tree, send_tree
from pytest_sandboxes.operations import Port, Text
from pytest_sandboxes.results import describe_name
from pytest_sandboxes.streams import Piped

__tracebackhide__ = True  # a failing test shows its own line, not ours

_AHEAD = 8  # pieces handed over and not yet sent


class _Reader:
    """A `Piped` stream as something with `read(size)`."""

    def __init__(self, stream: Piped) -> None:
        self._stream = stream
        self._rest = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        if not self._rest:
            self._rest = memoryview(self._stream.read(FILE_TIMEOUT))
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return data


def download(
    port: Port, path: Text, destination: str | os.PathLike[str], *, max_bytes: int, max_entries: int
) -> list[str]:
    """Copy a file or tree to exactly `destination`; return the names of what was left out.

    Raises `OutputLimitExceededError` when there is more than the limits allow, `SandboxLostError` when what
    comes is no tree, FileNotFoundError and the like for `path`, OSError with the name when `destination` cannot be
    written.
    """
    max_bytes = arguments.limit(max_bytes, "max_bytes")
    max_entries = arguments.limit(max_entries, "max_entries")
    there = os.fsencode(arguments.local_path(destination, "destination"))
    stream = Piped()
    pending = send_tree(port, path, stream, max_entries)
    try:
        made = tree.extract(_Reader(stream), there, max_bytes, max_entries + 1)
    except tree.TreeError as error:
        pending.request.kill()
        if error.errno == errno.EFBIG:
            raise OutputLimitExceededError(
                f"{describe_name(os.fsencode(path))} holds more than {max_bytes} bytes or {max_entries} entries: "
                "pass larger max_bytes= or max_entries="
            ) from None
        if pending.request.future.done():
            pending.result()  # the sandbox may have a better reason than the stream's end
        reason = f"its agent sent no tree: {error.strerror}"
        port.lose(reason)
        raise SandboxLostError(reason) from None
    except OSError as error:
        pending.request.kill()
        if isinstance(error.filename, bytes):
            error.filename = os.fsdecode(error.filename)
        raise error.with_traceback(None) from None  # where the extractor was says nothing to a test
    except BaseException:
        pending.request.kill()
        raise
    if pending.result():
        raise OutputLimitExceededError(
            f"{describe_name(os.fsencode(path))} holds more than {max_entries} entries, or is too deep: "
            "pass a larger max_entries="
        )
    return [describe_name(name) for name, _ in made.skipped]


def upload(port: Port, source: str | os.PathLike[str], path: Text) -> None:
    """Copy a file or tree of this machine to exactly `path`, making its parents.

    A symbolic link to a file inside the tree is copied as that file; FIFOs, sockets and devices in it are left out.
    Raises ValueError for any other link, before anything is sent; OSError when something cannot be read or written.
    """
    top = arguments.local_path(source, "source")
    entries = _collect(top)
    pending = receive_tree(port, path)
    sending: list[Future[None]] = []

    def write(data: bytes) -> None:
        sending.append(pending.request.write(data))
        if len(sending) > _AHEAD:
            sending.pop(0).result(FILE_TIMEOUT)

    try:
        _send(top, entries, write)
        pending.request.end_input()
    except BrokenPipeError:
        pending.result()  # raises why the other side stopped reading
        raise
    except BaseException:
        pending.request.kill()
        raise
    pending.result()


def _collect(top: Path) -> list[tuple[Path, bool]]:
    """What is at and below `top`, parents first, and whether it is a directory."""
    mode = _mode(top)
    if not stat.S_ISDIR(mode):
        if not stat.S_ISREG(mode):
            raise ValueError(f"{top} is neither a file nor a directory: there is nothing to copy")
        return [(top, False)]
    found = [(top, True)]
    root = top.resolve()
    failures: list[OSError] = []
    for folder, folders, names in os.walk(top, onerror=failures.append):
        folders.sort()
        for name in sorted(folders + names):
            entry = Path(folder, name)
            if entry.is_symlink() and not (entry.is_file() and entry.resolve().is_relative_to(root)):
                raise ValueError(
                    f"{entry} is a link to a directory, to nothing, or to outside of {top}: upload a tree with a copy "
                    "of its target in its place"
                )
            mode = _mode(entry)
            if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
                found.append((entry, stat.S_ISDIR(mode)))
    if failures:
        raise failures[0].with_traceback(None)
    return found


def _mode(path: Path) -> int:
    return os.stat(path).st_mode  # noqa: PTH116 - a failing test shows its own line, not pathlib's


def _send(top: Path, entries: list[tuple[Path, bool]], write: Callable[[bytes], None]) -> None:
    for entry, is_directory in entries:
        name = b"" if entry == top else os.fsencode(entry.relative_to(top))
        if is_directory:
            tree.write_directory(write, name, 0o755)
            continue
        fd = os.open(entry, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            tree.write_file(write, name, stat.S_IMODE(os.fstat(fd).st_mode), fd)
        finally:
            os.close(fd)

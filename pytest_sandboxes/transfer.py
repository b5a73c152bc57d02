"""Whole files and trees between this machine and a slot."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

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


def download(port: Port, path: Text, destination: Path, *, max_bytes: int, max_entries: int) -> list[str]:
    """Copy a file or tree to exactly `destination`; return the names of what was left out.

    Raises `OutputLimitExceededError` when there is more than the limits allow, `SandboxLostError` when what
    comes is no tree, FileNotFoundError and the like for `path`, OSError when `destination` cannot be written.
    """
    stream = Piped()
    pending = send_tree(port, path, stream, max_entries)
    try:
        made = tree.extract(_Reader(stream), os.fsencode(destination), max_bytes, max_entries + 1)
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
    except BaseException:
        pending.request.kill()
        raise
    if pending.result():
        raise OutputLimitExceededError(
            f"{describe_name(os.fsencode(path))} holds more than {max_entries} entries, or is too deep: "
            "pass a larger max_entries="
        )
    return [describe_name(name) for name, _ in made.skipped]


def upload(port: Port, source: Path, path: Text) -> None:
    """Copy a file or tree of this machine to exactly `path`, making its parents.

    A symbolic link to a file inside the tree is copied as that file. Raises ValueError for any other link,
    before anything is sent; OSError when something cannot be read or written.
    """
    files = _collect(source)
    pending = receive_tree(port, path)
    sending: list[Future[None]] = []

    def write(data: bytes) -> None:
        sending.append(pending.request.write(data))
        if len(sending) > _AHEAD:
            sending.pop(0).result(FILE_TIMEOUT)

    try:
        _send(source, files, write)
        pending.request.end_input()
    except BrokenPipeError:
        pending.result()  # raises why the other side stopped reading
        raise
    except BaseException:
        pending.request.kill()
        raise
    pending.result()


def _collect(source: Path) -> list[Path]:
    """Everything below `source`, parents first."""
    if not source.is_dir():
        return []
    root = source.resolve()
    found = []
    for folder, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(folders + names):
            entry = Path(folder, name)
            if entry.is_symlink() and not (entry.is_file() and entry.resolve().is_relative_to(root)):
                raise ValueError(
                    f"{entry} is a link to a directory or to outside of {source}: copy its target"
                )
            found.append(entry)
    return found


def _send(source: Path, entries: list[Path], write: Callable[[bytes], None]) -> None:
    if not source.is_dir():
        _send_file(source, b"", write)
        return
    tree.write_directory(write, b"", 0o755)
    for entry in entries:
        name = os.fsencode(entry.relative_to(source))
        if entry.is_dir():
            tree.write_directory(write, name, 0o755)
        elif entry.is_file():
            _send_file(entry, name, write)


def _send_file(source: Path, name: bytes, write: Callable[[bytes], None]) -> None:
    with source.open("rb", buffering=0) as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        tree.write_file(write, name, mode, file.fileno())

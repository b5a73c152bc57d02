"""Files and trees that a slot is asked for or given: arguments checked here, answers checked here."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from typing import Literal, TypeVar

from pytest_sandboxes import arguments
from pytest_sandboxes.agent import wire
from pytest_sandboxes.errors import MemoryLimitExceededError, OutputLimitExceededError
from pytest_sandboxes.operations import Answer, Pending, Port, Text, field, lied, raise_error
from pytest_sandboxes.results import FileBytes, FileEntry, FileType, Listing, describe_name
from pytest_sandboxes.streams import Kept, Sink

__tracebackhide__ = True  # a failing test shows its own line, not ours

DEFAULT_MAX_BYTES = 100 << 20
"""Bytes that a read or an archive returns when no limit is given; more is an error."""
DEFAULT_MAX_ENTRIES = 100_000
"""Entries that a listing, archive or download takes when no limit is given; more is an error."""
FILE_TIMEOUT = 600.0
"""Seconds that a file operation may take."""

T = TypeVar("T")
ArchiveFormat = Literal["tar", "tar.gz", "zip"]

_UNLIMITED = 1 << 62
_ENTRY_TYPES = [bytes, str, int, int, float]
_FILE_TYPES: tuple[FileType, ...] = ("file", "directory", "symlink", "fifo", "socket", "device")


def read(port: Port, path: Text, max_bytes: int | None) -> Pending[FileBytes]:
    """Read a regular file."""
    limit = DEFAULT_MAX_BYTES if max_bytes is None else arguments.limit(max_bytes, "max_bytes")
    kept = Kept(limit)

    def convert(answer: Answer) -> FileBytes:
        cut = field(port, answer, "stdout_cut", bool)
        if cut and max_bytes is None:
            raise OutputLimitExceededError(
                f"{_shown(path)} is larger than {limit} bytes: pass max_bytes= to read its beginning"
            )
        return FileBytes(kept.data, truncated=cut)

    return _file_request(port, "read", path, convert, limit=limit, sinks=(kept, Kept()))


def write(port: Port, path: Text, content: bytes, mode: int | None) -> Pending[None]:
    """Write a regular file, making its parent directories."""
    data = arguments.content(content, "content")

    def convert(answer: Answer) -> None:
        size = field(port, answer, "size", int)
        if size != len(data):
            raise lied(port, f"{size} of {len(data)} bytes written, and no error")

    return _file_request(port, "write", path, convert, input=data, mode=arguments.permissions(mode))


def write_text(port: Port, path: Text, content: str, encoding: str, mode: int | None) -> Pending[None]:
    """Write a text file, making its parent directories."""
    return write(port, path, arguments.text(content, "content").encode(encoding), mode)


def list_files(
    port: Port, path: Text, *, recursive: bool, sha256: bool, max_entries: int | None
) -> Pending[Listing]:
    """List a directory."""
    limit = DEFAULT_MAX_ENTRIES if max_entries is None else arguments.limit(max_entries, "max_entries")
    kept = Kept(limit * 4400 + 4)  # an entry is a path of at most 4 KiB and some numbers

    def convert(answer: Answer) -> Listing:
        cut = field(port, answer, "truncated", bool)
        if cut and max_entries is None:
            raise OutputLimitExceededError(
                f"{_shown(path)} holds more than {limit} entries, or is too deep: pass max_entries= to list a part"
            )
        try:
            entries = _parse_entries(kept.bytes(), limit)
        except wire.ProtocolError as error:
            raise lied(port, str(error)) from None
        return Listing(sorted(entries, key=lambda entry: entry.path_bytes), truncated=cut)

    return _file_request(
        port,
        "list",
        path,
        convert,
        limit=_UNLIMITED,
        sinks=(kept, Kept()),
        recursive=bool(recursive),
        digests=bool(sha256),
        entries=limit,
    )


def archive(port: Port, path: Text, kind: str, max_bytes: int | None) -> Pending[FileBytes]:
    """Pack a file or tree."""
    if kind not in ("tar", "tar.gz", "zip"):
        raise ValueError(f"format is 'tar', 'tar.gz' or 'zip', not {kind!r}")
    limit = DEFAULT_MAX_BYTES if max_bytes is None else arguments.limit(max_bytes, "max_bytes")
    kept = Kept(limit)

    def convert(answer: Answer) -> FileBytes:
        cut = field(port, answer, "stdout_cut", bool) or field(port, answer, "truncated", bool)
        if cut and max_bytes is None:
            raise OutputLimitExceededError(
                f"the archive of {_shown(path)} is larger than {limit} bytes, has more than {DEFAULT_MAX_ENTRIES} "
                "entries, or is too deep: pass max_bytes= to get a part"
            )
        return FileBytes(kept.data, truncated=cut)

    return _file_request(
        port,
        "archive",
        path,
        convert,
        limit=limit,
        sinks=(kept, Kept()),
        format=kind,
        entries=DEFAULT_MAX_ENTRIES,
    )


def send_tree(port: Port, path: Text, sink: Sink, max_entries: int) -> Pending[bool]:
    """Have a file or tree sent to `sink` in the format of `agent.tree`; the result says whether it was cut."""

    def convert(answer: Answer) -> bool:
        return field(port, answer, "truncated", bool)

    return _file_request(
        port, "send", path, convert, limit=_UNLIMITED, sinks=(sink, Kept()), entries=max_entries
    )


def receive_tree(port: Port, path: Text) -> Pending[None]:
    """Have a tree made from what is written to the request."""
    return _file_request(port, "receive", path, lambda _: None, streamed=True)


def _file_request(
    port: Port,
    action: str,
    path: Text,
    convert: Callable[[Answer], T],
    *,
    limit: int = 0,
    input: bytes | None = None,
    streamed: bool = False,
    sinks: tuple[Sink, Sink] | None = None,
    **details: object,
) -> Pending[T]:
    oom_before = port.oom_kills()

    def checked(answer: Answer) -> T:
        if (
            answer.get("stdout_cut") is not True
        ):  # else all that was wanted has come, and the agent has ended the rest
            _raise_file_error(port, answer, oom_before)
        return convert(answer)

    message = {
        "action": action,
        "path": arguments.as_bytes(path, "path"),
        "limit": limit,
        "stdin": input is not None or streamed,
        **details,
    }
    request = port.request("file", message, timeout=FILE_TIMEOUT, input=input, sinks=sinks)
    return Pending(request, checked, FILE_TIMEOUT)


def _parse_entries(data: bytes, limit: int) -> list[FileEntry]:
    entries: list[FileEntry] = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        fields = wire.decode(data[at + 4 : at + 4 + size])
        at += 4 + size
        if not isinstance(fields, list) or [type(field) for field in fields[:-1]] != _ENTRY_TYPES:
            raise wire.ProtocolError("not an entry of a listing")
        name, kind, length, mode, mtime, digest = fields
        if (
            kind not in _FILE_TYPES
            or length < 0
            or not math.isfinite(mtime)
            or not (digest is None or isinstance(digest, str))
            or len(entries) >= limit
        ):
            raise wire.ProtocolError("not an entry of a listing")
        entries.append(FileEntry(describe_name(name), name, kind, length, mode & 0o7777, mtime, digest))
    return entries


def _raise_file_error(port: Port, answer: Answer, oom_before: int) -> None:
    raise_error(answer)
    if "status" in answer:  # the worker died before it could report
        if answer.get("oom_killed") is True or port.oom_kills() > oom_before:
            raise MemoryLimitExceededError(
                f"{port.name} is at its memory limit: a file operation was killed there"
            )
        if answer.get("timed_out") is True:
            raise TimeoutError(f"the file operation took longer than {FILE_TIMEOUT:.0f} s")
        raise OSError(errno.EIO, "code in the sandbox killed the file operation")


def _shown(path: Text) -> str:
    return describe_name(os.fsencode(path))

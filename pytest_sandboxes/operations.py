"""What a slot can be asked to do, as requests to its sandbox: the arguments checked here, the answers checked here.

Each function starts one request and returns a `Pending`, which a sync caller waits for and an async one
awaits.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from pytest_sandboxes.agent import wire
from pytest_sandboxes.connection import HEARTBEAT_DEADLINE, LATE, Request
from pytest_sandboxes.errors import (
    CommandFailedError,
    ExecTimeoutError,
    OutputLimitExceededError,
    SandboxesError,
    SandboxLostError,
)
from pytest_sandboxes.results import ExecResult, FileBytes, FileEntry, FileType, Listing, describe_name
from pytest_sandboxes.streams import Kept, Sink

__tracebackhide__ = True  # a failing test shows its own line, not ours

DEFAULT_MAX_BYTES = 100 << 20
"""Bytes that a read or an archive returns when no limit is given; more is an error."""
DEFAULT_MAX_ENTRIES = 100_000
"""Entries that a listing, archive or download takes when no limit is given; more is an error."""
FILE_TIMEOUT = 600.0
"""Seconds that a file operation may take."""

ArchiveFormat = Literal["tar", "tar.gz", "zip"]
Text = str | bytes | os.PathLike[str]

_UNLIMITED = 1 << 62
_ENTRY_TYPES = [bytes, str, int, int, float]
_FILE_TYPES: tuple[FileType, ...] = ("file", "directory", "symlink", "fifo", "socket", "device")

T = TypeVar("T")
Answer = dict[str, object]


class Port(Protocol):
    """A sandbox as a slot sees it, whichever process the pool lives in."""

    name: str

    def request(
        self,
        operation: str,
        arguments: Mapping[str, object],
        *,
        timeout: float | None,
        input: bytes | None = None,
        sinks: tuple[Sink, Sink] | None = None,
    ) -> Request:
        """Start a request; see `Connection.request`."""

    def lose(self, reason: str) -> None:
        """Give the sandbox up: what it says cannot be relied on."""

    def oom_kills(self) -> int:
        """How many processes of the sandbox the kernel has killed at its memory limit so far."""


@dataclass(frozen=True)
class Pending(Generic[T]):
    """A request on its way and how to read its answer."""

    request: Request
    convert: Callable[[Answer], T]
    timeout: float | None

    def result(self) -> T:
        """Wait for the answer. An interrupted wait (Ctrl-C, a test's timeout) kills what the request runs."""
        # the connection gives up on its own clock; this is for the case that its thread is gone
        patience = None if self.timeout is None else self.timeout + 2 * HEARTBEAT_DEADLINE
        try:
            error = self.request.future.exception(patience)
        except FutureTimeoutError:
            self.request.kill()
            raise SandboxLostError("no answer came, nor word that none will") from None
        except BaseException:
            self.request.kill()
            raise
        if error is not None:
            raise error.with_traceback(None)  # it may have been raised before, in another test
        return self.convert(self.request.future.result())

    async def result_async(self) -> T:
        """Await the answer. A cancelled wait kills what the request runs."""
        try:
            answer = await asyncio.wrap_future(self.request.future)
        except BaseException:
            self.request.kill()
            raise
        return self.convert(answer)


# -- commands


def command_arguments(argv: Sequence[object]) -> list[bytes]:
    """`argv` as bytes: separate arguments, or one list of them.

    Raises TypeError for what is no text, ValueError for an empty command, a NUL, or a whole shell line in one
    string.
    """
    if len(argv) == 1 and isinstance(argv[0], list | tuple):
        argv = argv[0]
    if not argv:
        raise ValueError("exec needs a command, such as exec('python3', 'solution.py')")
    words = [_as_bytes(word, "argument") for word in argv]
    if len(words) == 1 and (b" " in words[0] or b"\n" in words[0]):
        line = os.fsdecode(words[0])
        raise ValueError(
            f"exec takes a program and its arguments one by one; for a shell line, use sh({line!r})"
        )
    if not words[0]:
        raise ValueError("the program's name is empty")
    return words


def run(
    port: Port,
    argv: list[bytes],
    *,
    input: str | bytes | None,
    env: Mapping[str, str] | None,
    cwd: Text | None,
    timeout: float | None,
    check: bool,
    limit: int,
    seen: Callable[[ExecResult], None],
) -> Pending[ExecResult]:
    """Run a command to its end; `seen` gets its result even where that is raised."""
    check_timeout(timeout)
    stdout, stderr = Kept(limit), Kept(limit)
    words = tuple(describe_name(word) for word in argv)
    oom_before = port.oom_kills()

    def convert(answer: Answer) -> ExecResult:
        _raise_error(answer)
        result = _exec_result(port, answer, words, oom_before, (stdout.bytes(), stderr.bytes()))
        seen(result)
        _judge_deadline(port, answer, timeout)
        if result.timed_out:
            raise ExecTimeoutError(f"{words[0]} was still running after {timeout} s", result)
        if check and not result.success:
            raise CommandFailedError(f"{words[0]} ended with return code {result.returncode}", result)
        return result

    content = input.encode() if isinstance(input, str) else input
    if content is not None:
        content = bytes(content)
    request = port.request(
        "exec",
        command_message(argv, env, cwd, stdin=content is not None, limit=limit),
        timeout=timeout,
        input=content,
        sinks=(stdout, stderr),
    )
    return Pending(request, convert, timeout)


def start(
    port: Port,
    argv: list[bytes],
    *,
    env: Mapping[str, str] | None,
    cwd: Text | None,
    timeout: float | None,
    sinks: tuple[Sink, Sink],
    seen: Callable[[ExecResult], None],
) -> Pending[ExecResult]:
    """Start a command that outlives this call. The result comes at its end, with the streams left to the sinks."""
    check_timeout(timeout)
    words = tuple(describe_name(word) for word in argv)
    oom_before = port.oom_kills()

    def convert(answer: Answer) -> ExecResult:
        _raise_error(answer)
        _judge_deadline(port, answer, timeout)
        result = _exec_result(port, answer, words, oom_before, (b"", b""))
        seen(result)
        return result

    message = command_message(argv, env, cwd, stdin=True, limit=_UNLIMITED)
    return Pending(port.request("popen", message, timeout=timeout, sinks=sinks), convert, timeout)


def command_message(
    argv: list[bytes], env: Mapping[str, str] | None, cwd: Text | None, *, stdin: bool, limit: int
) -> dict[str, object]:
    """The arguments of an exec or popen request."""
    environment = {}
    for name, value in (env or {}).items():
        if not name or "=" in name:
            raise ValueError(f"not a name of an environment variable: {name!r}")
        environment[_as_bytes(name, "env")] = _as_bytes(value, f"env[{name!r}]")
    return {
        "argv": argv,
        "env": [[name, value] for name, value in environment.items()],
        "cwd": b"" if cwd is None else _as_bytes(cwd, "cwd"),
        "stdin": stdin,
        "limit": limit,
    }


def check_timeout(timeout: float | None) -> None:
    """Raise ValueError unless `timeout` is None or a positive number of seconds."""
    if timeout is not None and not 0 < timeout < float("inf"):
        raise ValueError(f"timeout is a positive number of seconds, or None, not {timeout!r}")


def _exec_result(
    port: Port, answer: Answer, words: tuple[str, ...], oom_before: int, output: tuple[bytes, bytes]
) -> ExecResult:
    status = _field(port, answer, "status", int)
    if not 0 <= status <= 0xFFFF:
        raise _lied(port, f"impossible wait status {status}")
    try:
        returncode = os.waitstatus_to_exitcode(status)
    except ValueError:
        raise _lied(port, f"impossible wait status {status}") from None
    return ExecResult(
        argv=words,
        returncode=returncode,
        stdout_bytes=output[0],
        stderr_bytes=output[1],
        stdout_truncated=_field(port, answer, "stdout_cut", bool),
        stderr_truncated=_field(port, answer, "stderr_cut", bool),
        duration=_field(port, answer, "duration", float),
        cpu_time=_field(port, answer, "cpu", float),
        peak_memory=_field(port, answer, "peak", int),
        oom_killed=port.oom_kills() > oom_before,
        timed_out=_field(port, answer, "timed_out", bool),
    )


def _judge_deadline(port: Port, answer: Answer, timeout: float | None) -> None:
    """A deadline that was noticed late says nothing about the command: give the sandbox up."""
    if timeout is None:
        return
    late = _field(port, answer, "late", float)
    if not _field(port, answer, "timed_out", bool):
        late = _field(port, answer, "duration", float) - timeout
    if late > LATE:
        reason = f"a deadline of {timeout} s was noticed {late:.1f} s late: the machine stood still"
        port.lose(reason)
        raise SandboxLostError(reason)


# -- files


def read(port: Port, path: Text, max_bytes: int | None) -> Pending[FileBytes]:
    """Read a regular file."""
    limit = DEFAULT_MAX_BYTES if max_bytes is None else _check_limit(max_bytes, "max_bytes")
    kept = Kept(limit)

    def convert(answer: Answer) -> FileBytes:
        cut = answer.get("stdout_cut") is True
        if not cut:  # else all that was wanted has come, and the agent has ended the rest
            _raise_file_error(answer)
            _field(port, answer, "stdout_cut", bool)
        if cut and max_bytes is None:
            raise OutputLimitExceededError(
                f"{_shown(path)} is larger than {limit} bytes: pass max_bytes= to read its beginning"
            )
        return FileBytes(kept.data, truncated=cut)

    request = _file_request(port, "read", path, limit=limit, sinks=(kept, Kept()))
    return Pending(request, convert, FILE_TIMEOUT)


def write(port: Port, path: Text, content: bytes, mode: int | None) -> Pending[None]:
    """Write a regular file, making its parent directories."""
    if mode is not None and not 0 <= mode <= 0o7777:
        raise ValueError(f"mode is at most 0o7777, not {mode!r}")

    def convert(answer: Answer) -> None:
        _raise_file_error(answer)
        size = _field(port, answer, "size", int)
        if size != len(content):
            raise _lied(port, f"{size} of {len(content)} bytes written, and no error")

    request = _file_request(port, "write", path, input=bytes(content), mode=mode)
    return Pending(request, convert, FILE_TIMEOUT)


def list_files(
    port: Port, path: Text, *, recursive: bool, sha256: bool, max_entries: int | None
) -> Pending[Listing]:
    """List a directory."""
    limit = DEFAULT_MAX_ENTRIES if max_entries is None else _check_limit(max_entries, "max_entries")
    kept = Kept(limit * 4400 + 4)  # an entry is a path of at most 4 KiB and some numbers

    def convert(answer: Answer) -> Listing:
        _raise_file_error(answer)
        cut = _field(port, answer, "truncated", bool)
        if cut and max_entries is None:
            raise OutputLimitExceededError(
                f"{_shown(path)} holds more than {limit} entries, or is too deep: pass max_entries= to list a part"
            )
        try:
            entries = _parse_entries(kept.bytes(), limit)
        except wire.ProtocolError as error:
            raise _lied(port, str(error)) from None
        return Listing(sorted(entries, key=lambda entry: entry.path_bytes), truncated=cut)

    request = _file_request(
        port,
        "list",
        path,
        limit=_UNLIMITED,
        sinks=(kept, Kept()),
        recursive=recursive,
        digests=sha256,
        entries=limit,
    )
    return Pending(request, convert, FILE_TIMEOUT)


def archive(port: Port, path: Text, kind: str, max_bytes: int | None) -> Pending[FileBytes]:
    """Pack a file or tree."""
    if kind not in ("tar", "tar.gz", "zip"):
        raise ValueError(f"format is 'tar', 'tar.gz' or 'zip', not {kind!r}")
    limit = DEFAULT_MAX_BYTES if max_bytes is None else _check_limit(max_bytes, "max_bytes")
    kept = Kept(limit)

    def convert(answer: Answer) -> FileBytes:
        cut = answer.get("stdout_cut") is True
        if not cut:  # see `read`
            _raise_file_error(answer)
            cut = _field(port, answer, "truncated", bool)
        if cut and max_bytes is None:
            raise OutputLimitExceededError(
                f"the archive of {_shown(path)} is larger than {limit} bytes, has more than {DEFAULT_MAX_ENTRIES} "
                "entries, or is too deep: pass max_bytes= to get a part"
            )
        return FileBytes(kept.data, truncated=cut)

    request = _file_request(
        port,
        "archive",
        path,
        limit=limit,
        sinks=(kept, Kept()),
        format=kind,
        entries=DEFAULT_MAX_ENTRIES,
    )
    return Pending(request, convert, FILE_TIMEOUT)


def send_tree(port: Port, path: Text, sink: Sink, max_entries: int) -> Pending[bool]:
    """Have a file or tree sent to `sink` in the format of `agent.tree`; the result says whether it was cut."""

    def convert(answer: Answer) -> bool:
        _raise_file_error(answer)
        return _field(port, answer, "truncated", bool)

    request = _file_request(port, "send", path, limit=_UNLIMITED, sinks=(sink, Kept()), entries=max_entries)
    return Pending(request, convert, FILE_TIMEOUT)


def receive_tree(port: Port, path: Text) -> Pending[None]:
    """Have a tree made from what is written to the request."""
    return Pending(_file_request(port, "receive", path, streamed=True), _raise_file_error, FILE_TIMEOUT)


def _file_request(
    port: Port,
    action: str,
    path: Text,
    *,
    limit: int = 0,
    input: bytes | None = None,
    streamed: bool = False,
    sinks: tuple[Sink, Sink] | None = None,
    **arguments: object,
) -> Request:
    message = {
        "action": action,
        "path": _as_bytes(path, "path"),
        "limit": limit,
        "stdin": input is not None or streamed,
        **arguments,
    }
    return port.request("file", message, timeout=FILE_TIMEOUT, input=input, sinks=sinks)


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


# -- answers


def _raise_error(answer: Answer) -> None:
    """Raise what the agent reports in place of a result: an OSError by its number, or one of few others."""
    kind = answer.get("error")
    if kind is None:
        return
    number, name, message = answer.get("errno"), answer.get("filename"), answer.get("message")
    if isinstance(number, int) and number in errno.errorcode:
        if isinstance(name, bytes) and name:
            raise OSError(number, os.strerror(number), describe_name(name))
        raise OSError(number, os.strerror(number))
    if kind == "MemoryError":
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    shown = describe_name(str(message).encode("utf-8", "replace"))[:500]
    raise SandboxesError(f"the agent could not do it: {shown}")


def _raise_file_error(answer: Answer) -> None:
    _raise_error(answer)
    if "status" in answer:  # the worker died before it could report
        if answer.get("timed_out") is True:
            raise TimeoutError(f"the file operation took longer than {FILE_TIMEOUT:.0f} s")
        raise OSError(errno.EIO, "code in the sandbox killed the file operation")


def _field(port: Port, answer: Answer, name: str, kind: type[T]) -> T:
    value = answer.get(name)
    # no number that an agent reports can be negative, endless or none
    if type(value) is not kind or (isinstance(value, int | float) and not 0 <= value < math.inf):
        raise _lied(port, f"an answer without a possible {name}")
    return value


def _lied(port: Port, what: str) -> SandboxLostError:
    reason = f"its agent broke the protocol: {what}"
    port.lose(reason)
    return SandboxLostError(reason)


def _check_limit(limit: int, name: str) -> int:
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise ValueError(f"{name} is a number of 0 or more, not {limit!r}")
    return min(limit, _UNLIMITED)


def _as_bytes(value: object, what: str) -> bytes:
    if not isinstance(value, str | bytes | os.PathLike):
        raise TypeError(f"{what} has to be text, bytes or a path, not {type(value).__name__}")
    data = os.fsencode(value)
    if b"\0" in data:
        raise ValueError(f"{what} holds a NUL byte")
    return data


def _shown(path: Text) -> str:
    return describe_name(os.fsencode(path))

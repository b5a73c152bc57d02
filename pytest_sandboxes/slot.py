"""The slot: an isolated workspace that a test has to itself, and all it can do there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence

from pytest_sandboxes import commands, file_operations, transfer
from pytest_sandboxes.file_operations import DEFAULT_MAX_ENTRIES, ArchiveFormat
from pytest_sandboxes.lease import Lease, LeasedPort
from pytest_sandboxes.operations import Pending, Text
from pytest_sandboxes.process import AsyncProcess, Process
from pytest_sandboxes.results import ExecResult, FileBytes, FileText, Listing
from pytest_sandboxes.streams import Piped

__tracebackhide__ = True  # a failing test shows its own line, not ours

DOWNLOAD_MAX_BYTES = 1 << 30
"""Bytes that a download takes when no limit is given; more is an error."""

Argument = Text | Sequence[Text]


class _Requests:
    """Starts each kind of request for both twins, which differ only in how they wait."""

    def __init__(self, lease: Lease, index: int = 0) -> None:
        self._lease = lease
        self._index = index

    @property
    def name(self) -> str:
        """Name of the sandbox that the slot is in."""
        return self._port.name

    @property
    def backend(self) -> str:
        """Name of the backend that the sandbox runs on."""
        return self._port.backend

    @property
    def workspace(self) -> str:
        """Absolute path of the workspace, in the sandbox."""
        return self._port.workspace

    def __repr__(self) -> str:
        return f"<{type(self).__name__} leased by {self._lease.holder}>"

    @property
    def _port(self) -> LeasedPort:
        return self._lease.port(self._index)

    def _timeout(self, timeout: float | None) -> float | None:
        return self._lease.profile.execution_timeout_s if timeout is None else timeout

    def _exec(
        self,
        argv: Sequence[Argument],
        input: str | bytes | None,
        env: Mapping[str, str] | None,
        cwd: Text | None,
        timeout: float | None,
        check: bool,
    ) -> Pending[ExecResult]:
        words = commands.command_arguments(argv)
        self._lease.count_exec()
        return commands.run(
            self._port,
            words,
            input=input,
            env=env,
            cwd=cwd,
            timeout=self._timeout(timeout),
            check=check,
            limit=self._lease.profile.output_limit,
            seen=self._lease.count_result,
        )

    def _popen(
        self, argv: Sequence[Argument], env: Mapping[str, str] | None, cwd: Text | None, timeout: float | None
    ) -> tuple[Pending[ExecResult], tuple[Piped, Piped]]:
        words = commands.command_arguments(argv)
        self._lease.count_exec()
        streams = (Piped(self._lease.on_use), Piped(self._lease.on_use))
        pending = commands.start(
            self._port,
            words,
            env=env,
            cwd=cwd,
            timeout=timeout,
            sinks=streams,
            seen=self._lease.count_result,
        )
        return pending, streams


class Slot(_Requests):
    """An isolated workspace, exclusively leased.

    Paths are relative to the workspace or absolute in the sandbox. File errors are Python's own: FileNotFoundError,
    IsADirectoryError, PermissionError and so on, with the name. An argument of the wrong type is a TypeError, another
    wrong one a ValueError, with its name. Any call raises `SandboxLostError` when the sandbox is
    gone, which makes the test an error and not a failure, and `LeaseClosedError` after the lease.
    """

    @property
    def aio(self) -> AsyncSlot:
        """The same slot for async tests: every method a coroutine."""
        return AsyncSlot(self._lease, self._index)

    def exec(
        self,
        *argv: Argument,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Text | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> ExecResult:
        """Run a program to its end; all that it has started ends with it.

        `argv`: the program and its arguments one by one, or as one list. `input`: its standard input; none is empty.
        `env`: added to the sandbox's environment. `cwd`: where it starts, the workspace by default. `timeout`: seconds
        until it is killed, the profile's `execution_timeout_s` by default, `math.inf` for never. `check`: a return
        code other than 0 is an error.

        Raises `ExecTimeoutError` with the partial result, `CommandFailedError` with the result when `check` is set,
        FileNotFoundError or PermissionError for a program or `cwd` that is missing or cannot be used, ValueError for
        a single string with spaces (see `sh`).
        """
        return self._exec(argv, input, env, cwd, timeout, check).result()

    def sh(
        self,
        script: str,
        *,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Text | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> ExecResult:
        """Run a script with the sandbox's `/bin/sh`; else as `exec`."""
        return self._exec(commands.shell_arguments(script), input, env, cwd, timeout, check).result()

    def popen(
        self,
        *argv: Argument,
        env: Mapping[str, str] | None = None,
        cwd: Text | None = None,
        timeout: float | None = None,
    ) -> Process:
        """Start a program that outlives this call, until it ends, is killed, or the lease ends.

        `timeout`: seconds until it is killed with all it has started, never by default. Other arguments and errors as
        for `exec`.
        """
        pending, streams = self._popen(argv, env, cwd, timeout)
        return Process(pending, streams, self._lease.on_use)

    def read_bytes(self, path: Text, *, max_bytes: int | None = None) -> FileBytes:
        """Content of a file; `truncated` tells whether it was cut at `max_bytes`.

        Raises `OutputLimitExceededError` for a file of more than 100 MiB when no `max_bytes` is given, OSError(EINVAL)
        for what is no regular file, such as a FIFO or an entry of /proc.
        """
        return file_operations.read(self._port, path, max_bytes).result()

    def read_text(
        self, path: Text, *, encoding: str = "utf-8", errors: str = "strict", max_bytes: int | None = None
    ) -> FileText:
        """Content of a file as text; else as `read_bytes`. Raises UnicodeDecodeError as `errors` says."""
        return _as_text(file_operations.read(self._port, path, max_bytes).result(), encoding, errors)

    def write_bytes(self, path: Text, content: bytes, *, mode: int | None = None) -> None:
        """Write a file, making its parent directories. `mode`: its permission bits; kept or 0o644 by default."""
        file_operations.write(self._port, path, content, mode).result()

    def write_text(
        self, path: Text, content: str, *, encoding: str = "utf-8", mode: int | None = None
    ) -> None:
        """Write a text file; else as `write_bytes`."""
        file_operations.write_text(self._port, path, content, encoding, mode).result()

    def list_files(
        self,
        path: Text = ".",
        *,
        recursive: bool = False,
        sha256: bool = False,
        max_entries: int | None = None,
    ) -> Listing:
        """Entries of a directory, sorted, links not followed; `truncated` tells whether they were cut at `max_entries`.

        Raises `OutputLimitExceededError` for more than 100,000 entries when no `max_entries` is given, PermissionError
        for a directory below that the code has closed.
        """
        return file_operations.list_files(
            self._port, path, recursive=recursive, sha256=sha256, max_entries=max_entries
        ).result()

    def archive(
        self, path: Text = ".", *, format: ArchiveFormat = "tar", max_bytes: int | None = None
    ) -> FileBytes:
        """A file or tree, packed in the sandbox: what is in it is the sandbox's word, links and names included.

        `truncated` tells whether it was cut at `max_bytes`. Raises `OutputLimitExceededError` for more than 100 MiB
        when no `max_bytes` is given.
        """
        return file_operations.archive(self._port, path, format, max_bytes).result()

    def upload(self, source: str | os.PathLike[str], path: Text) -> None:
        """Copy a file or directory of this machine to exactly `path`, making its parents.

        A symbolic link to a file inside the tree is copied as that file; FIFOs, sockets and devices in it are left out.
        Raises ValueError for any other link, before anything is sent; OSError with the name when something cannot be
        read or written.
        """
        transfer.upload(self._port, source, path)

    def download(
        self,
        path: Text,
        destination: str | os.PathLike[str],
        *,
        max_bytes: int = DOWNLOAD_MAX_BYTES,
        max_entries: int = DEFAULT_MAX_ENTRIES,
    ) -> list[str]:
        """Copy a file or directory to exactly `destination` on this machine; never writes outside it.

        Returns the names of what was left out: links, special and unreadable files. Raises `OutputLimitExceededError`
        for more than `max_bytes` (1 GiB) or `max_entries` (100,000).
        """
        return transfer.download(
            self._port,
            path,
            destination,
            max_bytes=max_bytes,
            max_entries=max_entries,
        )

    def reset(self) -> None:
        """Make the slot as new: files, processes and all. Raises what a lease raises when no sandbox can be had."""
        self._lease.reset(self._index)


class AsyncSlot(_Requests):
    """The async twin of `Slot`: the same methods as coroutines. A cancelled one kills what it runs.

    What `popen` returns has coroutines only where it may have to wait; see `AsyncProcess`.
    """

    async def exec(
        self,
        *argv: Argument,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Text | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> ExecResult:
        """See `Slot.exec`."""
        return await self._exec(argv, input, env, cwd, timeout, check).result_async()

    async def sh(
        self,
        script: str,
        *,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Text | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> ExecResult:
        """See `Slot.sh`."""
        return await self._exec(
            commands.shell_arguments(script), input, env, cwd, timeout, check
        ).result_async()

    async def popen(
        self,
        *argv: Argument,
        env: Mapping[str, str] | None = None,
        cwd: Text | None = None,
        timeout: float | None = None,
    ) -> AsyncProcess:
        """See `Slot.popen`."""
        pending, streams = self._popen(argv, env, cwd, timeout)
        return await AsyncProcess(pending, streams, self._lease.on_use).started()

    async def read_bytes(self, path: Text, *, max_bytes: int | None = None) -> FileBytes:
        """See `Slot.read_bytes`."""
        return await file_operations.read(self._port, path, max_bytes).result_async()

    async def read_text(
        self, path: Text, *, encoding: str = "utf-8", errors: str = "strict", max_bytes: int | None = None
    ) -> FileText:
        """See `Slot.read_text`."""
        return _as_text(
            await file_operations.read(self._port, path, max_bytes).result_async(), encoding, errors
        )

    async def write_bytes(self, path: Text, content: bytes, *, mode: int | None = None) -> None:
        """See `Slot.write_bytes`."""
        await file_operations.write(self._port, path, content, mode).result_async()

    async def write_text(
        self, path: Text, content: str, *, encoding: str = "utf-8", mode: int | None = None
    ) -> None:
        """See `Slot.write_text`."""
        await file_operations.write_text(self._port, path, content, encoding, mode).result_async()

    async def list_files(
        self,
        path: Text = ".",
        *,
        recursive: bool = False,
        sha256: bool = False,
        max_entries: int | None = None,
    ) -> Listing:
        """See `Slot.list_files`."""
        return await file_operations.list_files(
            self._port, path, recursive=recursive, sha256=sha256, max_entries=max_entries
        ).result_async()

    async def archive(
        self, path: Text = ".", *, format: ArchiveFormat = "tar", max_bytes: int | None = None
    ) -> FileBytes:
        """See `Slot.archive`."""
        return await file_operations.archive(self._port, path, format, max_bytes).result_async()

    async def upload(self, source: str | os.PathLike[str], path: Text) -> None:
        """See `Slot.upload`."""
        await asyncio.to_thread(transfer.upload, self._port, source, path)

    async def download(
        self,
        path: Text,
        destination: str | os.PathLike[str],
        *,
        max_bytes: int = DOWNLOAD_MAX_BYTES,
        max_entries: int = DEFAULT_MAX_ENTRIES,
    ) -> list[str]:
        """See `Slot.download`."""
        return await asyncio.to_thread(
            transfer.download,
            self._port,
            path,
            destination,
            max_bytes=max_bytes,
            max_entries=max_entries,
        )

    async def reset(self) -> None:
        """See `Slot.reset`."""
        await asyncio.to_thread(self._lease.reset, self._index)


def _as_text(content: FileBytes, encoding: str, errors: str) -> FileText:
    if content.truncated and errors == "strict" and encoding.lower().replace("-", "") == "utf8":
        # the cut may have fallen inside a character, which is not the file's fault
        text = _decode_cut(content)
    else:
        text = content.decode(encoding, errors)
    return FileText(text, truncated=content.truncated)


def _decode_cut(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            raise
        return content[: error.start].decode()

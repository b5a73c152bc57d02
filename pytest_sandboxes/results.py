"""What slot operations return: frozen values, text for people beside the bytes as they came."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from shlex import join
from typing import Literal, Self

from pytest_sandboxes.display import one_line, printable, tail

FileType = Literal["file", "directory", "symlink", "fifo", "socket", "device"]


@dataclass(frozen=True)
class ExecResult:
    """The end of one command, and all it printed up to the output limit."""

    argv: tuple[str, ...]
    """The command; for `sh`, `("/bin/sh", "-c", script)`."""
    returncode: int
    """The exit status, or -N when signal N ended the command, as in `subprocess`."""
    stdout_bytes: bytes
    """Standard output as it came, at most `output_limit` bytes, the first ones."""
    stderr_bytes: bytes
    """Standard error as it came, at most `output_limit` bytes, the first ones."""
    stdout_truncated: bool = False
    """More came on standard output than `stdout_bytes` holds."""
    stderr_truncated: bool = False
    """More came on standard error than `stderr_bytes` holds."""
    duration: float = 0.0
    """Seconds from start to end of the command, measured in the sandbox."""
    cpu_time: float = 0.0
    """CPU seconds, user and system, of the command and the children it waited for."""
    peak_memory: int = 0
    """The largest resident set, in bytes, of any single process of the command. Never below the agent's own size
    at the start of the command, because a process begins its life as a copy of the one that starts it."""
    oom_killed: bool = False
    """The kernel killed a process of the sandbox at its memory limit while the command ran."""
    timed_out: bool = False
    """The command was killed at its deadline."""

    @property
    def success(self) -> bool:
        """The command ended by itself with return code 0."""
        return self.returncode == 0 and not self.timed_out

    @property
    def truncated(self) -> bool:
        """Either stream was cut at the output limit."""
        return self.stdout_truncated or self.stderr_truncated

    @cached_property
    def stdout(self) -> str:
        """Standard output as text: UTF-8, undecodable bytes replaced by U+FFFD."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @cached_property
    def stderr(self) -> str:
        """Standard error as text: UTF-8, undecodable bytes replaced by U+FFFD."""
        return self.stderr_bytes.decode("utf-8", "replace")

    def __repr__(self) -> str:
        """Command, code and the tails of both streams, with nothing in it that a terminal would obey."""
        ending = f"returncode {self.returncode}"
        notes = [
            text
            for flag, text in (
                (self.timed_out, "timed out"),
                (self.oom_killed, "killed at the memory limit"),
                (self.stdout_truncated, "stdout truncated"),
                (self.stderr_truncated, "stderr truncated"),
            )
            if flag
        ]
        head = ", ".join([ending, *notes, f"{self.duration:.3f} s"])
        parts = [f"<ExecResult {one_line(join(self.argv))}: {head}>"]
        for name, text in (("stdout", self.stdout), ("stderr", self.stderr)):
            if text:
                parts.append(f"{name}:\n{tail(text)}")
        return "\n".join(parts)


@dataclass(frozen=True)
class FileEntry:
    """One entry of a listing; symbolic links are reported, never followed."""

    path: str
    """Path relative to the listed directory; bytes that are not UTF-8 appear as `\\xNN`."""
    path_bytes: bytes = field(repr=False)
    """The same path as the sandbox spells it; pass it back to name a file whose name is not UTF-8."""
    type: FileType
    size: int
    """Bytes, as the file system reports them."""
    mode: int
    """Permission bits, `0o7777` at most."""
    mtime: float
    """Time of last modification, seconds since the epoch, by the sandbox's clock."""
    sha256: str | None = None
    """Hexadecimal digest of a regular file's content, when asked for and readable."""


class Listing(list[FileEntry]):
    """Entries of a directory, sorted by path, and whether there were more."""

    def __init__(self, entries: Iterable[FileEntry] = (), *, truncated: bool = False) -> None:
        super().__init__(entries)
        self.truncated = truncated
        """The listing was cut at `max_entries`."""


class FileBytes(bytes):
    """A file's content or an archive, and whether it was cut at the caller's `max_bytes`."""

    truncated: bool

    def __new__(cls, content: bytes | bytearray = b"", *, truncated: bool = False) -> Self:
        """Make one of content that is there already."""
        self = super().__new__(cls, content)
        self.truncated = truncated
        return self


class FileText(str):
    """A file's content as text, and whether it was cut at the caller's `max_bytes`."""

    __slots__ = ("truncated",)
    truncated: bool

    def __new__(cls, content: str = "", *, truncated: bool = False) -> Self:
        """Make one of text that is there already."""
        self = super().__new__(cls, content)
        self.truncated = truncated
        return self


def describe_name(name: bytes) -> str:
    r"""A file name from a sandbox as text: UTF-8, other bytes as `\xNN`, control characters escaped."""
    return printable(name.decode("utf-8", "backslashreplace"))

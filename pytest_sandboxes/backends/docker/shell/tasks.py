"""What each request of a connection becomes: a script and its arguments."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_sandboxes.backends.docker.shell import scripts

_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")
# A shell changes these for itself, or does not pass them on.
_SHELLS_OWN = {
    b"PWD", b"OLDPWD", b"SHLVL", b"_", b"IFS", b"PPID", b"OPTIND", b"OPTARG", b"LINENO", b"PS1", b"PS2", b"PS4", b"ENV",
    b"RANDOM", b"SECONDS", b"UID", b"EUID", b"SHELLOPTS", b"BASHOPTS",
}  # fmt: skip

Variables = Mapping[bytes, bytes | None]


@dataclass
class Task:
    """What a request wants to have run."""

    script: str
    words: tuple[bytes, ...]
    """Arguments of the script, after the sign."""
    environment: Mapping[bytes, bytes]
    timeout: float | None
    limits: tuple[int, int]
    """Bytes wanted of each output."""
    stdin: bool
    names: Mapping[str, bytes]
    """What an error may be about."""


def command(message: Mapping[str, Any], workspace: bytes, variables: Variables) -> Task:
    """The task of an exec or popen."""
    cwd = posixpath.join(workspace, message["cwd"])
    wanted: dict[bytes, bytes | None] = {**variables, **dict(message["env"])}
    plain, on_top = {}, []
    for name, value in wanted.items():
        if value is None:
            continue
        shell_keeps = _NAME.fullmatch(name) and name not in _SHELLS_OWN and not name.startswith(b"__ps_")
        if shell_keeps and scripts.is_text(value):
            plain[name] = value
        else:
            on_top.append(name + b"=" + value)
    unset = [name for name, value in wanted.items() if value is None]
    argv = message["argv"]
    words = (cwd, b"%d" % len(unset), *unset, b"%d" % len(on_top), *on_top, *argv)
    return Task(
        scripts.COMMAND,
        words,
        plain,
        message["timeout"],
        (message["limit"], message["limit"]),
        message["stdin"],
        {"cwd": cwd, "program": argv[0]},
    )


def read(message: Mapping[str, Any], path: bytes) -> Task:
    """The task of reading a file."""
    return _file(scripts.READ, (path,), message, message["limit"])


def write(message: Mapping[str, Any], path: bytes) -> Task:
    """The task of writing a file."""
    mode = message["mode"]
    return _file(scripts.WRITE, (path, b"" if mode is None else b"%o" % mode), message, 0)


def list_files(message: Mapping[str, Any], path: bytes) -> Task:
    """The task of listing a directory."""
    depth, digests = b"" if message["recursive"] else b"1", b"1" if message["digests"] else b""
    return _file(scripts.LIST, (path, depth, digests), message, message["limit"])


def _file(script: str, words: tuple[bytes, ...], message: Mapping[str, Any], limit: int) -> Task:
    path = words[0]
    return Task(
        script,
        words,
        {b"LC_ALL": b"C"},
        message["timeout"],
        (limit, 0),
        message["stdin"],
        {"path": path},
    )

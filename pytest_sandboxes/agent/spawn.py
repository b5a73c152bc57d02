"""Starting children: commands, commands under a supervisor, and workers that touch files."""

from __future__ import annotations

import errno
import os

from pytest_sandboxes.agent import processes, tree, wire
from pytest_sandboxes.agent.identity import Identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import NoReturn
else:
    import _signal as signal

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# CPython ignores SIGPIPE and SIGXFSZ, and ignoring is inherited. All of them, because the C library asks the kernel
# about each signal that it is not told to restore.
_RESTORED = tuple(signal.valid_signals())
_REPORT_FD = 3
RESERVED_FDS = 4
"""Descriptors 0 to 3 are never used for anything else in the agent, so that a child can arrange its own there."""


class Command:
    """What to run: absolute `cwd`, whole environment, the three descriptors of the child, and who it is.

    `PWD` is added to an environment without one. Under a supervisor, its nice value becomes `niceness`, unless that
    is 0.
    """

    __slots__ = ("argv", "cwd", "env", "identity", "niceness", "stdio")

    def __init__(
        self,
        argv: list[bytes],
        env: dict[bytes, bytes],
        cwd: bytes,
        stdio: tuple[int, int, int],
        identity: Identity,
        niceness: int = 0,
    ) -> None:
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.stdio = stdio
        self.identity = identity
        self.niceness = niceness

    def start(self) -> int:
        """Start it in a session of its own; return its pid.

        Raises the OSError that tells what is missing: the working directory or the program, with its name.
        """
        with self.identity:
            try:
                self._enter()
                return self._search(self._spawn)
            finally:
                os.chdir("/")

    def become(self) -> NoReturn:
        """Have this process, whose descriptors 0 to 2 are the command's, become it. Raises as `start`."""
        os.setsid()
        self._enter()
        for number in _RESTORED:
            if signal.getsignal(number) == signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._search(lambda path: os.execve(path, self.argv, self.env))  # noqa: S606 - it is what was asked for
        raise AssertionError("it has become another program")

    def _enter(self) -> None:
        os.chdir(self.cwd)
        if b"PWD" not in self.env:  # a shell would say so, and programs rely on it for links in the path
            self.env[b"PWD"] = os.getcwdb()

    def _search(self, begin: Callable[[bytes], int]) -> int:
        program = self.argv[0]
        if b"/" in program:
            return begin(program)
        denied = False
        for directory in self.env.get(b"PATH", _DEFAULT_PATH.encode()).split(b":"):
            path = os.path.join(directory or b".", program)
            try:
                os.stat(path)  # an attempt to start what is not there would cost thirty times as much
                return begin(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except PermissionError:
                denied = True
        number = errno.EACCES if denied else errno.ENOENT
        raise OSError(number, os.strerror(number), program)

    def _spawn(self, path: bytes) -> int:
        # vfork speed: a fork of this interpreter would cost more than most commands
        actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(self.stdio)]
        return os.posix_spawn(
            path, self.argv, self.env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_RESTORED
        )


def forked(command: Command, report_fd: int) -> int:
    """Start `command` in a fork that is its user already, for an agent that must not act as that user itself.

    Returns its pid; `report_fd` gets the error that kept it from starting, if one did.
    """
    return _fork(command.become, (*command.stdio, report_fd), command.identity)


def supervised(command: Command, report_fd: int, *, announce: bool) -> int:
    """Start `command` below a supervisor, so that all its descendants can be told from those of other jobs.

    Returns the supervisor's pid; `report_fd` gets the command's end, or the error that kept it from starting. With
    `announce`, it is told of the start as well, which nobody waits for otherwise.
    """
    return _fork(
        lambda: _supervise(command, announce=announce), (*command.stdio, report_fd), command.identity
    )


def worker(
    function: Callable[[], dict[str, object]],
    stdio: tuple[int, int, int],
    report_fd: int,
    identity: Identity,
) -> int:
    """Run `function` in a forked child on the given descriptors; its result or error goes to `report_fd`."""

    def body() -> None:
        report(function())

    return _fork(body, (*stdio, report_fd), identity)


def report(message: dict[str, object]) -> None:
    """Say how it goes, in a child: a message behind its length."""
    data = wire.encode(message)
    tree.write_all(_REPORT_FD, len(data).to_bytes(4, "big") + data)


def describe_error(error: BaseException) -> dict[str, object]:
    """An exception as a mapping: class, errno, message, file name."""
    name = getattr(error, "filename", None)
    if isinstance(name, str):
        name = os.fsencode(name)
    return {
        "error": type(error).__name__,
        "errno": getattr(error, "errno", None) or 0,
        "message": str(error)[:1000].encode("utf-8", "replace").decode(),
        "filename": name[:4096] if isinstance(name, bytes) else b"",
    }


def _fork(body: Callable[[], None], fds: tuple[int, int, int, int], identity: Identity) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _arrange(fds)
        try:
            identity.become()
            body()
            code = 0
        except BaseException as error:  # noqa: BLE001 - whatever it was belongs in the report
            report(describe_error(error))
    finally:
        os._exit(code)


def _arrange(fds: tuple[int, int, int, int]) -> None:
    """Make `fds` descriptors 0 to 3 and close all others: none of the agent's may reach what a slot can name.

    The agent keeps its own 0 to 3 reserved, so no descriptor is overwritten before it is copied.
    """
    for target, fd in enumerate(fds):
        os.dup2(fd, target, inheritable=target < _REPORT_FD)
    os.closerange(_REPORT_FD + 1, 1 << 20)


def _supervise(command: Command, *, announce: bool) -> None:
    processes.adopt_orphans()
    command.stdio = (0, 1, 2)
    command.identity = Identity()
    pid = command.start()
    if command.niceness:
        # The supervisor itself does not go last: it has to have its turn when the command has ended. What gets out of
        # the command's group in the moment before this goes no sooner than the agent does.
        try:
            os.setpriority(os.PRIO_PGRP, pid, command.niceness)
        except OSError:  # it has ended, or is a program that changes who it is
            pass
    if announce:
        report({"started": True})
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    while True:
        try:
            ended, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return
        if ended == pid:
            cpu = usage.ru_utime + usage.ru_stime
            report({"status": status, "cpu": cpu, "peak": usage.ru_maxrss * 1024})

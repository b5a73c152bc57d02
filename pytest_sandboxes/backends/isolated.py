"""Sandboxes by bubblewrap: namespaces of their own, a system call filter, and limits by control groups."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from random import SystemRandom
from typing import Any

from pytest_sandboxes.backends import bubblewrap, seccomp
from pytest_sandboxes.backends.base import (
    DEFAULT_DISK_MEGABYTES,
    AgentSetup,
    KeptSlot,
    Launched,
    SlotSetup,
    Source,
)
from pytest_sandboxes.backends.cgroups import Group
from pytest_sandboxes.backends.children import complaint_of, disown, own_pidfd, reap
from pytest_sandboxes.backends.staged_sources import StagedSource
from pytest_sandboxes.backends.staging import Stage
from pytest_sandboxes.errors import IsolationUnavailableError, SandboxStartError
from pytest_sandboxes.payload import bootstrap, payload
from pytest_sandboxes.profiles.profile import Profile

START_TIMEOUT = 20.0
"""Seconds that bubblewrap may take."""

_PROCESS_LIMIT = 256
"""Processes and threads of a sandbox whose profile sets no limit: a brake on fork bombs."""
_PER_NAMESPACE_LIMITS = (
    5,
    14,
)  # the kernel from which RLIMIT_NPROC counts a user namespace, not the whole machine
# Unallocated by the conventions of systemd and the Linux distributions; one at random for each sandbox of root's.
_HOST_UIDS = range(1_879_048_192, 2_147_483_647)
_NOBODY = 65534
_NO_ENVIRONMENT: dict[str, str] = {}


class Isolated(Launched):
    """A running bubblewrap and the sandbox in it; `first` is the sandbox's first process as (pid, pidfd)."""

    def __init__(
        self,
        stream: socket.socket,
        setup: AgentSetup,
        bwrap: subprocess.Popen[bytes],
        first: tuple[int, int],
        group: Group | None,
    ) -> None:
        self.stream = stream
        self.setup = setup
        self.payload = payload(same_interpreter=True)
        self._bwrap = bwrap
        self._pid, self._pidfd = first
        self._group = group
        self._complaint = ""

    def end(self) -> None:
        if self._pidfd >= 0:
            # the first process of the namespace: the kernel has ended all others by the time that this one is gone
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = -1
        reap(self._bwrap)
        self.last_words()
        if self._group is not None:
            self._group.remove()

    def last_words(self) -> str:
        self._complaint = self._complaint or complaint_of(self._bwrap)
        return self._complaint

    def oom_kills(self) -> int:
        return 0 if self._group is None else self._group.oom_kills()

    def keep(self, slot: SlotSetup) -> KeptSlot:
        module = [sys.executable, "-m", "pytest_sandboxes.backends.enter"]
        os.close(self._pidfd)
        self._pidfd = -1
        disown(self._bwrap)
        enter = shlex.join([*module, str(self._pid), slot.workspace])
        return KeptSlot(enter, f"kill -9 {self._pid}", self._end_kept)

    def _end_kept(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(self._pid, signal.SIGKILL)


class Launcher:
    """Starts isolated sandboxes, all from the one thread that calls `prepare` and `launch`.

    As root that thread gets a mount namespace of its own.

    Not bubblewrap's --die-with-parent, but the agent itself ends its sandbox with this process: a bwrap killed between
    making its child and letting it go leaves that waiting for ever.
    """

    def __init__(self) -> None:
        self._prepared: tuple[bubblewrap.Interpreter, str, str] | None = None
        self._setpriv: str | None = None
        self._stage = Stage()
        self._passable: dict[Path, Path] = {}

    def _prepare(self) -> tuple[bubblewrap.Interpreter, str, str]:
        """The interpreter, the program and where the interpreter's prefix is found, for whoever runs the program."""
        if self._prepared is None:
            interpreter = bubblewrap.Interpreter.current()
            program, prefix = bubblewrap.find(), Path(interpreter.prefix)
            if os.geteuid() == 0:
                self._setpriv = bubblewrap.find_setpriv()
                prefix = self._stage.passable(prefix) / prefix.name
                package = program.parents[1]
                libraries = package.with_name(f"{package.name}.libs")
                if libraries.is_dir():  # the bundled program finds them by its own place
                    program = self._stage.passable(package, libraries) / program.relative_to(package.parent)
            self._prepared = (interpreter, str(program), str(prefix))
        return self._prepared

    def _reachable(self, source: Path) -> str:
        """Where whoever runs the program finds a directory of this user's own."""
        if os.geteuid() != 0:
            return str(source)
        if source not in self._passable:
            self._passable[source] = self._stage.passable(source) / source.name
        return str(self._passable[source])

    def launch(self, profile: Profile, group: Group | None, source: StagedSource | None) -> Isolated:
        """Start a sandbox in `group`, if any, with workspaces like `source`, if any.

        Raises `IsolationUnavailableError` when this machine cannot isolate, `SandboxStartError` with another cause.
        """
        interpreter, program, prefix_source = self._prepare()
        with contextlib.ExitStack() as child_side:
            info_read, info_write = os.pipe()
            child_side.callback(os.close, info_write)
            descriptors = {"--info-fd": info_write, "--seccomp": _filled(child_side, seccomp.program())}
            etc = {path: _filled(child_side, text.encode()) for path, text in bubblewrap.ETC_FILES.items()}
            gate = None
            if group is not None:
                gate_read, gate = os.pipe()
                child_side.callback(os.close, gate_read)
                descriptors["--block-fd"] = gate_read
            words = bubblewrap.arguments(
                interpreter,
                prefix_source,
                profile.workspace_base,
                profile.disk or DEFAULT_DISK_MEGABYTES,
                descriptors=descriptors,
                etc_descriptors=etc,
                source=None if source is None else self._reachable(source.directory),
            )
            words += ["--", interpreter.executable, "-I", "-S", "-E", "-c", bootstrap(same_interpreter=True)]
            identity: dict[str, Any] = {}
            if os.geteuid() == 0:
                uid = _host_uid()
                if self._setpriv is None:
                    identity = {"user": uid, "group": uid, "extra_groups": []}
                else:
                    rights = (f"--reuid={uid}", f"--regid={uid}", "--clear-groups")
                    words = ["setpriv", *rights, program, *words[1:]]
                    program = self._setpriv
            ours, theirs = socket.socketpair()
            child_side.callback(theirs.close)
            try:
                bwrap = subprocess.Popen(
                    words,
                    executable=program,
                    stdin=theirs.fileno(),
                    stdout=child_side.enter_context(own_pidfd()),
                    stderr=subprocess.PIPE,
                    # the reading end too: a bwrap that writes to nobody dies, and leaves its child waiting for ever
                    pass_fds=(info_read, *descriptors.values(), *etc.values()),
                    cwd="/",
                    env=_NO_ENVIRONMENT,
                    start_new_session=True,
                    **identity,
                )
            except OSError as error:
                ours.close()
                raise SandboxStartError(bubblewrap.explained(f"cannot run {program}: {error}")) from error
        try:
            first = self._meet(bwrap, info_read)
            if group is not None and gate is not None:
                group.add(first[0])
            _prefer(first[0])
            if gate is not None:
                os.write(gate, b"\n")
        except BaseException:
            ours.close()
            reap(bwrap)
            raise
        finally:
            os.close(info_read)
            if gate is not None:
                os.close(gate)
        setup = AgentSetup(
            (SlotSetup(profile.workspace_base, directories=(bubblewrap.HOME,)),),
            {
                "PATH": interpreter.path,
                "HOME": bubblewrap.HOME,
                "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's own
                "LANG": "C.UTF-8",
                "USER": "sandbox",
            },
            process_limit=_PROCESS_LIMIT if _limits_count_per_namespace() else 0,
            sacrifice_children=group is not None,
            source=None if source is None else Source(bubblewrap.SOURCE, source.content),
        )
        return Isolated(ours, setup, bwrap, first, group)

    def _meet(self, bwrap: subprocess.Popen[bytes], info: int) -> tuple[int, int]:
        """The sandbox's first process, as (pid, pidfd), once bwrap has made it."""
        said = b""
        deadline = time.monotonic() + START_TIMEOUT
        while not said.rstrip().endswith(b"}"):
            ready = select.select([info], [], [], max(0.0, deadline - time.monotonic()))[0]
            piece = os.read(info, 4096) if ready else b""
            if not piece:
                reap(bwrap)
                raise _start_error(complaint_of(bwrap) or "bwrap said nothing")
            said += piece
        pid = int(json.loads(said)["child-pid"])
        try:
            return pid, os.pidfd_open(pid)
        except ProcessLookupError:
            reap(bwrap)
            raise _start_error(complaint_of(bwrap) or "it ended at once") from None


def _host_uid() -> int:
    """An unprivileged user id for a sandbox of root's: nobody's, and another for each sandbox where there is room."""
    try:
        ranges = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    except OSError:
        return _NOBODY
    if any(
        int(first) <= _HOST_UIDS.start and int(first) + int(size) >= _HOST_UIDS.stop
        for first, _, size in ranges
    ):
        return SystemRandom().choice(_HOST_UIDS)
    return _NOBODY


def _prefer(agent: int) -> None:
    """Run an agent before everything that it starts, or a fork bomb would have it notice deadlines late.

    Takes privileges; without them the agent asks for short turns by itself, where the kernel knows them.
    """
    policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK  # its children are back to normal
    with contextlib.suppress(OSError):
        os.sched_setscheduler(agent, policy, os.sched_param(1))


def _limits_count_per_namespace() -> bool:
    numbers = os.uname().release.split(".")
    try:
        return (int(numbers[0]), int(numbers[1])) >= _PER_NAMESPACE_LIMITS
    except (ValueError, IndexError):
        return False


def _filled(stack: contextlib.ExitStack, content: bytes) -> int:
    """The reading end of a pipe that holds `content`, which has to be less than a pipe takes."""
    read, write = os.pipe()
    stack.callback(os.close, read)
    os.write(write, content)
    os.close(write)
    return read


def _start_error(complaint: str) -> Exception:
    advice = bubblewrap.explain(complaint)
    if advice is not None:
        return IsolationUnavailableError(f"backend local cannot isolate sandboxes: {complaint}: {advice}")
    return SandboxStartError(f"a local sandbox did not start: {bubblewrap.explained(complaint)}")

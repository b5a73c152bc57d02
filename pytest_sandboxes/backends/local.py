"""Backend `local`: sandboxes on this machine, by bubblewrap, one slot in each, thrown away after every lease."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from random import SystemRandom
from typing import Any

from pytest_sandboxes.backends import bubblewrap, seccomp
from pytest_sandboxes.backends.base import AgentSetup, Backend, BackendOptions, Launched
from pytest_sandboxes.backends.cgroups import Group, Groups, Limits
from pytest_sandboxes.backends.ownership import Claim, remove_tree, sweep
from pytest_sandboxes.backends.staging import Stage
from pytest_sandboxes.errors import IsolationUnavailableError, SandboxStartError, UnsupportedError
from pytest_sandboxes.payload import bootstrap, payload
from pytest_sandboxes.profiles import Profile

_START_TIMEOUT = 20.0
_END_TIMEOUT = 5.0
_PROCESS_LIMIT = 1024
"""Processes and threads of a sandbox whose profile sets no limit: a brake on fork bombs."""
_PER_NAMESPACE_LIMITS = (
    5,
    14,
)  # the kernel from which RLIMIT_NPROC counts a user namespace, not the whole machine
# Unallocated by the conventions of systemd and the Linux distributions; one at random for each sandbox of root's.
_HOST_UIDS = range(1_879_048_192, 2_147_483_647)
_NOBODY = 65534
_NO_ENVIRONMENT: dict[str, str] = {}
_SCRATCH_PREFIX = "pytest-sandboxes-"
_RECIPES = ("image", "cpu", "app_name", "max_lifetime", "idle_timeout", "max_uses", "scaledown_window")
_NOT_HERE = {
    "gpu": "backends docker and modal can",
    "user": "code always runs as an unprivileged user there; backend docker can choose one",
    "secrets": "pass values with exec(env=…)",
    "setup": "run the commands in a fixture",
    "workspace_source": "use sandbox.upload() in a fixture",
}


class _Isolated(Launched):
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

    def end(self) -> None:
        if self._pidfd >= 0:
            # the first process of the namespace: the kernel has ended all others by the time that this one is gone
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.close(self._pidfd)
            self._pidfd = -1
        _reap(self._bwrap)
        if self._group is not None:
            self._group.remove()

    def last_words(self) -> str:
        return _read_complaint(self._bwrap)

    def oom_kills(self) -> int:
        return 0 if self._group is None else self._group.oom_kills()

    def keep(self) -> tuple[str, str]:
        enter = f"nsenter --target {self._pid} --user --preserve-credentials --mount --pid --net --ipc --uts"
        os.close(self._pidfd)
        self._pidfd = -1
        return f"{enter} --wd={shlex.quote(self.setup.workspace)} /bin/sh", f"kill -9 {self._pid}"


class _Bare(Launched):
    """A sandbox in name only: `isolation: none`."""

    def __init__(
        self, stream: socket.socket, setup: AgentSetup, process: subprocess.Popen[bytes], scratch: Claim
    ) -> None:
        self.stream = stream
        self.setup = setup
        self.payload = payload(same_interpreter=True)
        self._process = process
        self._scratch = scratch

    def end(self) -> None:
        # its agent ends all that it has started when its stream ends, which it has
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT)
        _reap(self._process)
        with contextlib.suppress(FileNotFoundError):
            remove_tree(self._scratch.path)
        self._scratch.release()

    def last_words(self) -> str:
        return _read_complaint(self._process)

    def keep(self) -> tuple[str, str]:
        return f"cd {shlex.quote(self.setup.workspace)}", f"kill -9 {self._process.pid}"


class LocalBackend(Backend):
    """Starts sandboxes from one thread of its own, because they die with the thread that started them."""

    name = "local"

    def __init__(self, options: BackendOptions) -> None:
        self._options = options
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix="sandboxes-local")
        self._stage = Stage()
        self._program: tuple[str, str] | None = None
        self._interpreter: bubblewrap.Interpreter | None = None
        self._groups: Groups | None = None
        self._swept = False

    # -- promises

    def check(self, profile: Profile) -> tuple[str, ...]:
        """See `Backend.check`."""
        default = Profile()
        for field, who in _NOT_HERE.items():
            if getattr(profile, field) != getattr(default, field):
                self._refuse(profile, field, f"backend local has none: {who}")
        if profile.local:
            self._refuse(profile, "local", "backend local has no settings of its own")
        if self._isolated(profile):
            if profile.network != "none":
                self._refuse(
                    profile, "network", "backend local cannot give a sandbox a network without your own"
                )
            limits = Limits(profile.memory, profile.pids)
            if limits and not self._control_groups().can(limits):
                field = "memory" if profile.memory is not None else "pids"
                self._refuse(
                    profile,
                    field,
                    "this user may not make control groups here: run pytest as root or under systemd-run --user --scope "
                    "-p Delegate=yes, or use backend docker",
                )
        else:
            for field in ("memory", "pids", "disk"):
                if getattr(profile, field) is not None:
                    self._refuse(profile, field, "nothing is limited with isolation none")
        unused = [field for field in _RECIPES if getattr(profile, field) != getattr(default, field)]
        if profile.slots_per_sandbox > 1:
            unused.append("slots_per_sandbox")
        return tuple(unused)

    def _refuse(self, profile: Profile, field: str, why: str) -> None:
        if not self._options.best_effort:
            raise UnsupportedError(
                f"{profile.source(field)}: {field} of profile {profile.name!r} cannot be kept: {why}; "
                "--sandbox-enforcement best-effort goes without"
            )

    def check_machine(self) -> None:
        """See `Backend.check_machine`."""
        if self._options.isolation == "none":
            return
        launched = self.launch(Profile())
        try:
            launched.stream.settimeout(_START_TIMEOUT)
            launched.stream.sendall(launched.payload)
            greeting = launched.stream.recv(1)
        except OSError:
            greeting = b""
        finally:
            launched.stream.close()
            launched.end()
        if not greeting:
            raise IsolationUnavailableError(
                f"Python does not start in a local sandbox: {launched.last_words() or 'it gave no reason'}; {bubblewrap.REMEDIES}"
            )

    def _isolated(self, profile: Profile) -> bool:
        return (self._options.isolation or profile.isolation) != "none"

    def _control_groups(self) -> Groups:
        if self._groups is None:
            self._groups = Groups()
        return self._groups

    # -- starting

    def launch(self, profile: Profile) -> Launched:
        """See `Backend.launch`."""
        start: Callable[[Profile], Launched] = (
            self._launch_isolated if self._isolated(profile) else self._launch_bare
        )
        future: Future[Launched] = self._spawner.submit(start, profile)
        return future.result(_START_TIMEOUT + _END_TIMEOUT)

    def _launch_isolated(self, profile: Profile) -> Launched:
        as_root = os.geteuid() == 0
        if self._interpreter is None:
            self._interpreter = bubblewrap.Interpreter.current()
        interpreter = self._interpreter
        if self._program is None:
            program, prefix = bubblewrap.find(), interpreter.prefix
            if as_root:
                # the bundled program needs the libraries that lie two levels above it
                above = self._stage.passable(str(program.parents[2]))
                program = Path(above, *program.parts[-3:])
                prefix = self._stage.passable(prefix)
            self._program = (str(program), prefix)
        limits = Limits(profile.memory, profile.pids)
        group = None
        if limits and self._control_groups().can(limits):
            try:
                group = self._control_groups().make(limits)
            except OSError as error:
                raise SandboxStartError(f"cannot limit a sandbox: {error}") from error
        try:
            return self._run_bwrap(profile, interpreter, group, as_root=as_root)
        except BaseException:
            if group is not None:
                group.remove()
            raise

    def _run_bwrap(
        self, profile: Profile, interpreter: bubblewrap.Interpreter, group: Group | None, *, as_root: bool
    ) -> Launched:
        assert self._program is not None
        program, prefix_source = self._program
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
                profile.disk or bubblewrap.DEFAULT_DISK_MEGABYTES,
                die_with_parent=not self._options.survives,
                descriptors=descriptors,
                etc_descriptors=etc,
            )
            words += ["--", interpreter.executable, "-I", "-S", "-E", "-c", bootstrap(same_interpreter=True)]
            identity: dict[str, Any] = {}
            if as_root:
                uid = _host_uid()
                identity = {"user": uid, "group": uid, "extra_groups": []}
            ours, theirs = socket.socketpair()
            child_side.callback(theirs.close)
            try:
                bwrap = subprocess.Popen(
                    words,
                    executable=program,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=(*descriptors.values(), *etc.values()),
                    cwd="/",
                    env=_NO_ENVIRONMENT,
                    start_new_session=True,
                    **identity,
                )
            except OSError as error:
                ours.close()
                raise SandboxStartError(f"cannot run {program}: {error}") from error
        try:
            first = self._meet(bwrap, info_read)
            if group is not None and gate is not None:
                group.add(first[0])
                os.write(gate, b"\n")
        except BaseException:
            ours.close()
            _reap(bwrap)
            raise
        finally:
            os.close(info_read)
            if gate is not None:
                os.close(gate)
        setup = AgentSetup(
            profile.workspace_base,
            {
                "PATH": interpreter.path,
                "HOME": bubblewrap.HOME,
                "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's own
                "LANG": "C.UTF-8",
                "USER": "sandbox",
            },
            directories=(bubblewrap.HOME,),
            process_limit=_PROCESS_LIMIT if _limits_count_per_namespace() else 0,
            sacrifice_children=group is not None,
        )
        return _Isolated(ours, setup, bwrap, first, group)

    def _meet(self, bwrap: subprocess.Popen[bytes], info: int) -> tuple[int, int]:
        """The sandbox's first process, as (pid, pidfd), once bwrap has made it."""
        said = b""
        deadline = time.monotonic() + _START_TIMEOUT
        while not said.rstrip().endswith(b"}"):
            ready = select.select([info], [], [], max(0.0, deadline - time.monotonic()))[0]
            piece = os.read(info, 4096) if ready else b""
            if not piece:
                _reap(bwrap)
                raise _start_error(_read_complaint(bwrap) or "bwrap said nothing")
            said += piece
        pid = int(json.loads(said)["child-pid"])
        try:
            return pid, os.pidfd_open(pid)
        except ProcessLookupError:
            _reap(bwrap)
            raise _start_error(_read_complaint(bwrap) or "it ended at once") from None

    def _launch_bare(self, profile: Profile) -> Launched:
        parent = Path(tempfile.gettempdir())
        if not self._swept:
            sweep(parent, _SCRATCH_PREFIX, remove_tree)
            self._swept = True
        scratch = Claim(Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX)))
        folders = {name: str(scratch.path / name) for name in ("workspace", "home", "tmp")}
        interpreter = bubblewrap.Interpreter.current()
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [interpreter.executable, "-I", "-S", "-E", "-c", bootstrap(same_interpreter=True)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",
                env=_NO_ENVIRONMENT,
                start_new_session=True,
            )
        setup = AgentSetup(
            folders["workspace"],
            {
                "PATH": interpreter.path,
                "HOME": folders["home"],
                "TMPDIR": folders["tmp"],
                "LANG": "C.UTF-8",
            },
            directories=tuple(folders.values()),
            die_with_parent=not self._options.survives,
        )
        return _Bare(ours, setup, process, scratch)

    def close(self) -> None:
        """See `Backend.close`."""
        self._spawner.shutdown()


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


def _reap(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_TIMEOUT)


def _read_complaint(process: subprocess.Popen[bytes]) -> str:
    if process.stderr is None or process.stderr.closed:
        return ""
    os.set_blocking(process.stderr.fileno(), False)
    text = (process.stderr.read(4096) or b"").decode("utf-8", "replace").strip()
    process.stderr.close()
    return text


def _start_error(complaint: str) -> Exception:
    advice = bubblewrap.explain(complaint)
    if advice is not None:
        return IsolationUnavailableError(f"backend local cannot isolate sandboxes: {complaint}: {advice}")
    return SandboxStartError(f"a local sandbox did not start: {complaint}")

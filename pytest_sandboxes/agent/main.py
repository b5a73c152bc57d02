"""The agent itself: takes requests, runs jobs, keeps deadlines, and ends everything when its controller is gone."""

from __future__ import annotations

import os
import resource
import select
import stat
import sys
import time

from pytest_sandboxes.agent import cleaning, confinement, files, processes, spawn, wire
from pytest_sandboxes.agent.identity import Identity, UserIdentity
from pytest_sandboxes.agent.jobs import Job, Pipes
from pytest_sandboxes.agent.link import Link, Poller

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any, NoReturn
else:
    import _signal as signal

_TICK = 1.0  # seconds between looks at the heartbeat's age
_END_DEADLINE = 2.0  # seconds that killed processes may take to be gone before a reset has failed
_FAST_TICK = 0.005  # seconds between looks at processes that have been killed and are not gone yet


class Agent:
    """One thread, one poll loop, no slow work in it: what may take long is done by a child."""

    def __init__(self) -> None:
        self._poller = Poller()
        self._jobs: dict[int, Job] = {}
        self._by_pid: dict[int, Job] = {}
        self._workspace = b"/"
        self._environment: dict[bytes, bytes] = dict(os.environb)
        self._environment.pop(b"PWD", None)  # ours: a command has its own
        self._heartbeat_deadline = 30.0
        self._sacrifice = processes.Sacrifice()
        self._identity = Identity()
        self._oom_kills: Callable[[], int] = lambda: 0
        self._shared: list[bytes] = []
        self._directories: list[bytes] = []
        self._kept_until = 0.0
        self._paused_at: float | None = None
        self._controller = -1
        self._is_first = os.getpid() == 1
        incoming, outgoing = self._take_channel()
        wakeup_read, wakeup_write = os.pipe()
        os.set_blocking(wakeup_read, False)
        os.set_blocking(wakeup_write, False)
        self._wakeup = wakeup_read
        self._poller.watch(wakeup_read, select.POLLIN, self._children_changed)
        # Python's own handler would let code in the sandbox interrupt us; without one, the kernel keeps signals from
        # process 1
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # a handler has to be there for the wake-up descriptor to be written
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        self._heard = time.monotonic()
        self._next_look = 0.0
        self._link = Link(incoming, outgoing, self._poller, self._received, self._controller_gone)

    def _take_channel(self) -> tuple[int, int]:
        """Move the channel out of the children's reach and put /dev/null where they would inherit it.

        It is a socket at descriptor 0, or a pipe at each of 0 and 1.
        """
        for fd in range(2, spawn.RESERVED_FDS):
            try:
                os.fstat(fd)
            except OSError:
                os.open("/dev/null", os.O_RDWR)
        incoming = os.dup(0)
        outgoing = os.dup(0 if stat.S_ISSOCK(os.fstat(0).st_mode) else 1)
        if os.readlink("/proc/self/fd/1") == "anon_inode:[pidfd]":
            # the controller's process: streams can be held open by its forks, which this tells apart
            self._controller = os.dup(1)
            self._poller.watch(self._controller, select.POLLIN, self._controller_gone)
        self._null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 3):
            os.dup2(self._null, fd, inheritable=fd < 3)
        return incoming, outgoing

    def run(self) -> NoReturn:
        """Serve until the controller is gone; never returns."""
        version = ".".join(map(str, sys.version_info[:3]))
        self._link.send(
            wire.HELLO, 0, wire.encode({"protocol": 1, "python": version, "first": self._is_first})
        )
        while True:
            wait = self._keep_deadlines()
            self._link.flush()
            self._poller.wait(wait)

    # -- the controller's side

    def _received(self, kind: int, request: int, payload: bytes) -> None:
        self._heard = time.monotonic()
        if kind == wire.REQUEST:
            self._start(request, payload)
        elif kind == wire.PING:
            self._link.send(wire.PONG, request, payload)
        elif kind == wire.PAUSE:
            self._paused_at = self._paused_at or self._heard
        elif kind == wire.RESUME:
            self._resume()
        else:
            job = self._jobs.get(request)
            if job is not None:  # else it ended while this frame was under way
                self._steer(job, kind, payload)

    def _steer(self, job: Job, kind: int, payload: bytes) -> None:
        if kind == wire.STDIN and job.stdin is not None:
            job.stdin.put(payload)
        elif kind == wire.STDIN_END and job.stdin is not None:
            job.stdin.end()
        elif kind == wire.CREDIT:
            amount = int.from_bytes(payload[1:], "big")
            for output in job.outputs:
                if output.kind == payload[0]:
                    output.grant(amount)
        elif kind == wire.KILL:
            if job.announced:  # only its output was still wanted, and now is not
                self._forget(job)
            else:
                self._kill(job)

    def _resume(self) -> None:
        if self._paused_at is not None:
            lost = time.monotonic() - self._paused_at
            self._paused_at = None
            for job in self._jobs.values():
                if job.deadline is not None:
                    job.deadline += lost

    def _controller_gone(self) -> None:
        if time.monotonic() >= self._kept_until:
            self._exit()
        self._poller.unwatch(self._controller)
        self._link.close()

    def _exit(self) -> NoReturn:
        """End at once. As the first process of a namespace we take everything in it along."""
        if not self._is_first:
            processes.kill_descendants(os.getpid())
        os._exit(0)

    # -- requests

    def _start(self, request: int, payload: bytes) -> None:
        try:
            message: dict[str, Any] = wire.decode_dict(payload)
            operation: Callable[[int, dict[str, Any]], None] = getattr(self, "_do_" + message["op"])
            operation(request, message)
        except Exception as error:  # noqa: BLE001 - the agent outlives whatever one request runs into
            self._answer(request, spawn.describe_error(error))

    def _answer(self, request: int, result: dict[str, object]) -> None:
        self._link.send(wire.RESULT, request, wire.encode(result))

    def _do_configure(self, request: int, message: dict[str, Any]) -> None:
        """Set up the slot; the first request, answered before any other is sent."""
        self._workspace = message["workspace"]
        for name, value in message["environment"]:
            if value is None:
                self._environment.pop(name, None)
            else:
                self._environment[name] = value
        self._heartbeat_deadline = message["heartbeat_deadline"]
        if message["counts_oom_kills"]:
            self._oom_kills = processes.oom_kills
        if message["sacrifice_children"]:
            self._sacrifice = processes.FirstVictims()
        self._directories = message["directories"]
        if message["user"] is not None:
            self._identity = UserIdentity(*message["user"])
            self._shared = message["shared"]
            confinement.bound_capabilities()
        else:
            for path in self._directories:
                os.makedirs(path, 0o755, exist_ok=True)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        processes_limit = message["process_limit"]
        if processes_limit:
            allowed = resource.getrlimit(resource.RLIMIT_NPROC)[1]
            if (
                allowed != resource.RLIM_INFINITY
            ):  # the shell that runs pytest may have a lower one, not to be raised
                processes_limit = min(processes_limit, allowed)
            resource.setrlimit(resource.RLIMIT_NPROC, (processes_limit, processes_limit))
        if not self._is_first:
            processes.adopt_orphans()
        processes.forbid_tracing()
        processes.take_short_turns()
        if message["filter"]:
            confinement.refuse_calls(message["filter"])
        os.dup2(self._null, 2)  # what the launcher prints has been printed
        os.umask(0o022)
        self._answer(request, {"pid": os.getpid()})

    def _do_keep(self, request: int, message: dict[str, Any]) -> None:
        """Live on for some seconds without a controller, for somebody to look inside."""
        self._kept_until = time.monotonic() + message["seconds"]
        self._heartbeat_deadline = message["seconds"]
        self._answer(request, {})

    def _do_exec(self, request: int, message: dict[str, Any]) -> None:
        self._run_command(request, message, "exec")

    def _do_popen(self, request: int, message: dict[str, Any]) -> None:
        self._run_command(request, message, "popen")

    def _run_command(self, request: int, message: dict[str, Any], kind: str) -> None:
        environment = dict(self._environment)
        environment.update(message["env"])
        cwd = os.path.join(self._workspace, message["cwd"])
        # One command at a time can be ended by ending whatever is not somebody else's. All others, and all that are
        # to live on, get a supervisor that keeps their descendants together.
        if kind == "exec" and any(job.kind != "file" for job in self._jobs.values()):
            kind = "supervised"
        pipes = Pipes(self._null, message["stdin"], kind != "exec")
        oom_kills = self._oom_kills()
        try:
            command = spawn.Command(message["argv"], environment, cwd, pipes.child, self._identity)
            with self._sacrifice:
                pid = command.start() if kind == "exec" else spawn.supervised(command, pipes.report_write)
        except BaseException:
            pipes.close()
            raise
        self._adopt(Job(request, kind, pid, message["timeout"], oom_kills), pipes, message["limit"])

    def _do_file(self, request: int, message: dict[str, Any]) -> None:
        path = os.path.join(self._workspace, message["path"])
        limit = message["limit"]
        tasks: dict[str, Callable[[], dict[str, object]]] = {
            "read": lambda: files.read_file(path, limit),
            "write": lambda: files.write_file(path, message["mode"]),
            "list": lambda: files.list_tree(
                path, message["recursive"], message["digests"], message["entries"]
            ),
            "send": lambda: files.send_tree(path, message["entries"]),
            "receive": lambda: files.receive_tree(path),
            "archive": lambda: files.archive(path, message["format"], message["entries"]),
        }
        self._start_worker(request, message, files.named(path, tasks[message["action"]]), self._identity)

    def _do_reset(self, request: int, message: dict[str, Any]) -> None:
        """End all that runs and remove all that it has left; the answer is an error when anything stays."""
        if not isinstance(self._identity, UserIdentity) or not self._is_first:
            raise RuntimeError("this sandbox cannot be reset, only replaced")
        deadline = time.monotonic() + _END_DEADLINE
        processes.kill_everything()
        while self._reap():
            if time.monotonic() > deadline:
                raise RuntimeError("processes do not end")
            processes.kill_everything()
            time.sleep(_FAST_TICK / 5)
        for job in list(self._jobs.values()):  # whoever asked for them has given them up
            self._forget(job)
        workspace, identity = self._workspace, self._identity
        self._start_worker(
            request,
            {**message, "stdin": False, "limit": 0},
            lambda: cleaning.clean(workspace, self._shared, self._directories, identity),
            Identity(),
        )

    def _start_worker(
        self,
        request: int,
        message: dict[str, Any],
        task: Callable[[], dict[str, object]],
        identity: Identity,
    ) -> None:
        pipes = Pipes(self._null, message["stdin"], True)
        oom_kills = self._oom_kills()
        try:
            stdin, stdout, _ = pipes.child
            with self._sacrifice:
                pid = spawn.worker(task, (stdin, stdout, self._null), pipes.report_write, identity)
        except BaseException:
            pipes.close()
            raise
        self._adopt(Job(request, "file", pid, message["timeout"], oom_kills), pipes, message["limit"])

    def _adopt(self, job: Job, pipes: Pipes, limit: int) -> None:
        job.connect(pipes, limit, self._link, self._poller)
        self._jobs[job.request] = job
        self._by_pid[job.pid] = job

    # -- ends

    def _children_changed(self) -> None:
        try:
            while len(os.read(self._wakeup, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass
        self._reap()

    def _reap(self) -> bool:
        """Collect dead children; return whether any child is left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            job = self._by_pid.pop(pid, None)
            if job is not None:  # else an orphan that was ours to bury
                job.reaped = True
                if job.kind == "exec":
                    cpu = usage.ru_utime + usage.ru_stime
                    job.end({"status": status, "cpu": cpu, "peak": usage.ru_maxrss * 1024})

    def _others(self, job: Job) -> frozenset[int]:
        return frozenset(pid for pid, other in self._by_pid.items() if other is not job)

    def _kill(self, job: Job) -> None:
        """Kill a job with everything it has started."""
        if job.kind == "file":
            if not job.reaped:
                processes.send_signal(job.pid, signal.SIGKILL)
        elif job.kind != "exec" and not job.reaped:
            job.victims |= processes.kill_descendants(job.pid)
            processes.send_signal(job.pid, signal.SIGKILL)
        elif job.kind == "exec" or not any(other.kind == "exec" for other in self._jobs.values()):
            # what has no supervisor, or has killed its own, is all that is nobody else's
            others = self._others(job)
            if self._is_first and not others:
                processes.kill_everything()
            else:
                processes.kill_descendants(os.getpid(), others)

    def _is_gone(self, job: Job) -> bool:
        """None of the job's processes is left."""
        if not job.reaped or job.kind == "file":
            return job.reaped
        if job.kind != "exec" and any(other.kind == "exec" for other in self._jobs.values()):
            # what has escaped its supervisor cannot be told from what is that other's, and ends with it
            self._reap()
            return not any(processes.exists(victim) for victim in job.victims)
        others = self._others(job)
        return not (processes.descendants(os.getpid(), others) if others else self._reap())

    def _advance(self, job: Job) -> None:
        """Take a job towards its end as far as it goes now."""
        if job.kind == "file" and job.outputs[0].cut:
            self._kill(job)  # the rest, perhaps the zeros of a huge sparse file, is for nobody
        if not job.find_outcome():
            return
        if job.announced:
            if job.closed():
                self._forget(job)
            return
        gone = self._is_gone(job)
        if not gone:
            self._kill(job)  # what it has left running
        # what has been killed runs no code any more, even where the kernel takes its time to bury it
        if (gone or job.overdue()) and (job.kind == "popen" or job.drained()):
            job.announced = True
            job.end_input()
            self._answer(job.request, {"oom_killed": self._oom_kills() > job.oom_kills, **job.result()})
            if job.kind != "popen" or job.closed():
                self._forget(job)

    def _forget(self, job: Job) -> None:
        job.close()
        self._jobs.pop(job.request, None)

    def _keep_deadlines(self) -> float:
        """Do what is due; return the seconds until something else may be."""
        now = time.monotonic()
        if now - self._heard > self._heartbeat_deadline:
            self._exit()
        if now >= self._next_look:
            self._next_look = now + _TICK
            for job in self._jobs.values():
                if job.kind == "file" and not job.reaped:  # code of the same user may have stopped it
                    processes.send_signal(job.pid, signal.SIGCONT)
        wait = _TICK
        for job in list(self._jobs.values()):
            self._advance(job)
            if job.outcome is not None:
                if not job.announced:
                    wait = min(wait, _FAST_TICK)
            elif job.deadline is not None and self._paused_at is None:
                if now < job.deadline:
                    wait = min(wait, job.deadline - now)
                elif not job.timed_out:
                    job.timed_out = True
                    job.late = now - job.deadline
                    self._kill(job)
        return wait

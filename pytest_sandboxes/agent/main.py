"""The agent itself: takes requests, runs jobs, keeps deadlines, and ends everything when its controller is gone."""

from __future__ import annotations

import os
import resource
import select
import stat
import sys
import time

from pytest_sandboxes.agent import confinement, files, parking, processes, routes, spawn, wire
from pytest_sandboxes.agent.clock import Clock
from pytest_sandboxes.agent.identity import Identity, UserIdentity
from pytest_sandboxes.agent.jobs import Job, Pipes
from pytest_sandboxes.agent.link import Link, Poller
from pytest_sandboxes.agent.slots import Children, Slot, make_slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any, NoReturn
else:
    import _signal as signal

_FIRST_RANK, _LAST_RANK = -20, 19  # nice values
_TICK = 1.0  # seconds between looks at the heartbeat's age
_FAST_TICK = 0.005  # seconds between looks at processes that have been killed and are not gone yet


class Agent:
    """One thread, one poll loop, no slow work in it: what may take long is done by a child."""

    def __init__(self) -> None:
        self._poller = Poller()
        self._jobs: dict[int, Job] = {}
        self._children = Children()
        self._slots: list[Slot] = []
        self._heartbeat_deadline = 30.0
        self._sacrifice = processes.Sacrifice()
        self._oom_kills: Callable[[], int] = lambda: 0
        self._niceness = 0
        self._shared: list[bytes] = []
        self._kept_until = 0.0
        self._clock = Clock()
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
            self._clock.stop()
        elif kind == wire.RESUME:
            self._clock.go_on()
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
                job.slot.kill(job)

    def _controller_gone(self) -> None:
        if time.monotonic() >= self._kept_until:
            self._exit()
        self._forget_controller()
        self._link.close()

    def _forget_controller(self) -> None:
        if self._controller >= 0:
            self._poller.unwatch(self._controller)
            os.close(self._controller)
            self._controller = -1

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
        """Set up the sandbox; the first request, answered before any other is sent."""
        self._heartbeat_deadline = message["heartbeat_deadline"]
        if message["internet_only"]:
            routes.leave_internet_only()
            confinement.give_up(confinement.NET_ADMIN)
        if message["counts_oom_kills"]:
            self._oom_kills = processes.oom_kills
        if message["sacrifice_children"]:
            self._sacrifice = processes.FirstVictims()
        self._shared = message["shared"]
        self._slots = make_slots(
            message["environment"], message["slots"], self._children, is_first=self._is_first
        )
        for slot in self._slots:
            slot.source = message["source"]
        if any(isinstance(slot.identity, UserIdentity) for slot in self._slots):
            confinement.bound_capabilities()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if message["process_limit"]:
            processes.limit_processes(message["process_limit"])
        if not self._is_first:
            processes.adopt_orphans()
        processes.forbid_tracing()
        processes.take_short_turns(*([_FIRST_RANK] if message["comes_first"] else []), 0)
        if message["comes_first"]:
            confinement.give_up(confinement.SYS_NICE)
            if os.getpriority(os.PRIO_PROCESS, 0) >= 0:  # it may not go first, so that others have to go last
                self._niceness = _LAST_RANK
        if message["filter"]:
            confinement.refuse_calls(message["filter"])
        os.dup2(self._null, 2)  # what the launcher prints has been printed
        os.umask(0o022)
        self._answer(request, {"pid": os.getpid()})

    def _do_keep(self, request: int, message: dict[str, Any]) -> None:
        """Live on for some seconds without a controller, for somebody to look inside."""
        self._kept_until = time.monotonic() + message["seconds"]
        self._heartbeat_deadline = message["seconds"]
        if not self._is_first:  # whose end is that of all others, too
            signal.signal(signal.SIGTERM, lambda *_: self._exit())
        self._answer(request, {})

    def _do_rely_on(self, request: int, message: dict[str, Any]) -> None:
        """End with another process here that is not ours: it ends with the controller, where our input does not."""
        controller = processes.descriptor_of(message["pid"])
        self._forget_controller()
        self._controller = controller
        self._poller.watch(controller, select.POLLIN, self._controller_gone)
        self._answer(request, {})

    def _do_park(self, request: int, message: dict[str, Any]) -> None:
        """Wait some seconds, without a controller, for the next one. Nothing may run here, now or meanwhile."""
        if self._jobs:
            raise RuntimeError("something still runs in it")
        key, identity, usual = message["key"], message["identity"], self._heartbeat_deadline
        watchword = parking.watchword(key)  # before anything changes, for it may fail

        def taken_over(nonce: bytes) -> None:
            self._heard = time.monotonic()
            self._heartbeat_deadline = usual
            self._link.send_bare(parking.proof(key, nonce, identity))

        self._answer(request, {})
        self._forget_controller()
        self._clock.go_on()
        self._heartbeat_deadline = message["seconds"]
        self._link.wait_for(watchword, parking.NONCE_SIZE, taken_over)

    def _do_exec(self, request: int, message: dict[str, Any]) -> None:
        self._run_command(request, message, "exec")

    def _do_popen(self, request: int, message: dict[str, Any]) -> None:
        self._run_command(request, message, "popen")

    def _run_command(self, request: int, message: dict[str, Any], kind: str) -> None:
        slot = self._slots[message["slot"]]
        environment = dict(slot.environment)
        environment.update(message["env"])
        cwd = os.path.join(slot.workspace, message["cwd"])
        # One command at a time can be ended by ending whatever is not somebody else's. All others, and all that are
        # to live on, get a supervisor that keeps their descendants together.
        if kind == "exec" and slot.runs_command:
            kind = "supervised"
        # Who may signal the agent while it acts as a user never sees it act as one.
        forks = kind == "exec" and not self._is_first and slot.is_users
        pipes = Pipes(self._null, message["stdin"], forks or kind != "exec")
        oom_kills = self._oom_kills()
        started = self._clock.now()
        try:
            command = spawn.Command(
                message["argv"], environment, cwd, pipes.child, slot.identity, self._niceness
            )
            with self._sacrifice:
                if forks:
                    pid = spawn.forked(command, pipes.report_write)
                elif kind == "exec":
                    pid = command.start()
                else:
                    pid = spawn.supervised(command, pipes.report_write, announce=kind == "popen")
        except BaseException:
            pipes.close()
            raise
        job = Job(request, slot, kind, pid, self._clock, started, message["timeout"], oom_kills)
        self._adopt(job, pipes, message["limit"])

    def _do_file(self, request: int, message: dict[str, Any]) -> None:
        slot = self._slots[message["slot"]]
        path = os.path.join(slot.workspace, message["path"])
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
        self._start_worker(request, message, files.named(path, tasks[message["action"]]), slot, slot.identity)

    def _do_reset(self, request: int, message: dict[str, Any]) -> None:
        """End all that runs in a slot and remove all that it has left; the answer is an error when anything stays."""
        slot = self._slots[message["slot"]]
        clean = slot.cleaner(self._shared)
        slot.kill_all()
        for job in list(slot.jobs.values()):  # whoever asked for them has given them up
            self._forget(job)
        self._start_worker(request, {**message, "stdin": False, "limit": 0}, clean, slot, Identity())

    def _do_fill(self, request: int, message: dict[str, Any]) -> None:
        """Fill the workspace of a slot that is new, and cannot be reset."""
        slot = self._slots[message["slot"]]
        self._start_worker(request, {**message, "stdin": False, "limit": 0}, slot.fill, slot, slot.identity)

    def _start_worker(
        self,
        request: int,
        message: dict[str, Any],
        task: Callable[[], dict[str, object]],
        slot: Slot,
        identity: Identity,
    ) -> None:
        pipes = Pipes(self._null, message["stdin"], True)
        oom_kills = self._oom_kills()
        started = self._clock.now()
        try:
            stdin, stdout, _ = pipes.child
            with self._sacrifice:
                pid = spawn.worker(task, (stdin, stdout, self._null), pipes.report_write, identity)
        except BaseException:
            pipes.close()
            raise
        job = Job(request, slot, "file", pid, self._clock, started, message["timeout"], oom_kills)
        self._adopt(job, pipes, message["limit"])

    def _adopt(self, job: Job, pipes: Pipes, limit: int) -> None:
        job.connect(pipes, limit, self._link, self._poller)
        self._jobs[job.request] = job.slot.jobs[job.request] = job
        self._children.jobs[job.pid] = job

    # -- ends

    def _children_changed(self) -> None:
        try:
            while len(os.read(self._wakeup, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass
        self._children.reap()

    def _advance(self, job: Job) -> None:
        """Take a job towards its end as far as it goes now."""
        if job.kind == "file" and job.outputs[0].cut:
            job.slot.kill(job)  # the rest, perhaps the zeros of a huge sparse file, is for nobody
        if not job.find_outcome():
            return
        if job.announced:
            if job.closed():
                self._forget(job)
            return
        gone = job.slot.end_rest(job)
        # what has been killed runs no code any more, even where the kernel takes its time to bury it
        if (gone or job.overdue()) and (job.kind == "popen" or job.drained()):
            job.announced = True
            job.end_input()
            oom_kills = self._oom_kills()
            killed = {"oom_kills": oom_kills, "oom_killed": oom_kills > job.oom_kills}
            self._answer(job.request, {**killed, **job.result()})
            if job.kind != "popen" or job.closed():
                self._forget(job)

    def _forget(self, job: Job) -> None:
        job.close()
        self._jobs.pop(job.request, None)
        job.slot.jobs.pop(job.request, None)

    def _keep_deadlines(self) -> float:
        """Do what is due; return the seconds until something else may be."""
        now = time.monotonic()
        if now - self._heard > self._heartbeat_deadline:
            self._link.flush()  # what it was asked for last may be the very deadline
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
            elif job.deadline is not None and not self._clock.is_stopped:
                left = job.deadline - self._clock.now()
                if left > 0:
                    wait = min(wait, left)
                elif not job.timed_out:
                    job.timed_out = True
                    job.late = -left
                    job.slot.kill(job)
        return wait

"""Slots: who the code of each runs as, where, and what of it is under way; and the end of all that it has started.

Where a sandbox has one slot, whatever is not the agent's own is that slot's. Where it has several, each is a user of
its own. A user's processes cannot become another's, and the kernel lets nobody but the agent signal across users: so
what is one slot's is told by the user, whatever becomes of parents, sessions and groups.
"""

from __future__ import annotations

import os

from pytest_sandboxes.agent import cleaning, copying, processes
from pytest_sandboxes.agent.identity import Identity, UserIdentity

TYPE_CHECKING = False  # `typing` is not worth its import time here
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any

    from pytest_sandboxes.agent.jobs import Job

    Variables = list[tuple[bytes, bytes | None]]
else:
    import _signal as signal

_CROWD = 32  # processes


class Children:
    """The children of this process: those that it has started, by pid, and orphans that are its to bury."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}

    def reap(self) -> bool:
        """Collect those that are dead; return whether any child is left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            job = self.jobs.pop(pid, None)
            if job is not None:
                job.reaped = True
                if job.kind == "exec":
                    cpu = usage.ru_utime + usage.ru_stime
                    job.end_as_reaped({"status": status, "cpu": cpu, "peak": usage.ru_maxrss * 1024})

    def others(self, job: Job) -> frozenset[int]:
        """Those that were started for anything but `job`."""
        return frozenset(pid for pid, other in self.jobs.items() if other is not job)

    def orphans_of(self, uid: int) -> bool:
        """Whether there is a child of a user's that nobody has started here."""
        self.reap()
        return any(pid not in self.jobs and processes.user_of(pid) == uid for pid in processes.children())


class Slot:
    """The only slot of its sandbox: all that is not somebody else's is its code's."""

    def __init__(
        self,
        workspace: bytes,
        environment: dict[bytes, bytes],
        directories: list[bytes],
        identity: Identity,
        children: Children,
    ) -> None:
        self.workspace = workspace
        self.environment = environment
        self.directories = directories
        self.identity = identity
        self.source = b""
        """Directory with what is in each fresh workspace; empty if nothing is."""
        self.jobs: dict[int, Job] = {}
        """Under way, by the number of the request."""
        self._children = children
        self._is_first = os.getpid() == 1

    @property
    def runs_command(self) -> bool:
        """Some command is under way, or lives on."""
        return any(job.kind != "file" for job in self.jobs.values())

    @property
    def is_users(self) -> bool:
        """Its code runs as a user of its own."""
        return isinstance(self.identity, UserIdentity)

    def cleaner(self, shared: list[bytes]) -> Callable[[], dict[str, object]]:
        """What removes all traces of its code, its processes having been killed; for a worker that is root.

        Raises RuntimeError for a slot that only a new sandbox makes as new.
        """
        if not isinstance(self.identity, UserIdentity) or not self._is_first:
            raise RuntimeError("this sandbox cannot be reset, only replaced")
        identity = self.identity
        return lambda: cleaning.clean(self.workspace, self.directories, shared, identity, self.fill)

    def fill(self) -> dict[str, object]:
        """Put into the empty workspace what is in each fresh one, in a worker."""
        if not self.source:
            return {"done": True}
        identity = self.identity
        owner = (identity.uid, identity.gid) if isinstance(identity, UserIdentity) else None
        return copying.fill(self.source, self.workspace, owner)

    def kill(self, job: Job) -> None:
        """Kill a job with everything it has started."""
        if job.kind == "file":
            if not job.reaped:
                processes.send_signal(job.pid, signal.SIGKILL)
        elif job.kind != "exec" and not job.reaped:
            job.victims |= processes.kill_descendants(job.pid)
            processes.send_signal(job.pid, signal.SIGKILL)
        elif job.kind == "exec" or not self._runs_exec():
            # what has no supervisor, or has killed its own, is all that is nobody else's
            if self._is_beside_others(job):
                self._kill_strangers(job)
            else:
                self.kill_all()

    def end_rest(self, job: Job) -> bool:
        """Kill what is left of a job that has ended; return whether nothing was."""
        if not job.reaped or job.kind == "file":
            is_gone = job.reaped
        elif job.kind != "exec" and self._runs_exec():
            # what has escaped its supervisor cannot be told from what is that other's, and ends with it
            self._children.reap()
            is_gone = not any(processes.exists(victim) for victim in job.victims)
        else:
            is_gone = not self._has_strangers(job)
        if not is_gone:
            self.kill(job)
        return is_gone

    def kill_all(self) -> None:
        """Kill every process of its code, in one step where the kernel can."""
        if self._is_first and isinstance(self.identity, UserIdentity):
            self._kill_user(self.identity)  # and not what a container's engine may have started here
        elif self._is_first:
            processes.kill_everything()
        else:
            processes.kill_descendants(os.getpid())

    def _kill_user(self, user: UserIdentity) -> None:
        for job in self.jobs.values():
            if not job.reaped:  # what has just been forked is not the user's yet
                processes.send_signal(job.pid, signal.SIGKILL)
        user.signal_all(signal.SIGKILL)

    def _runs_exec(self) -> bool:
        return any(job.kind == "exec" for job in self.jobs.values())

    def _is_beside_others(self, job: Job) -> bool:
        """Other processes of the agent's are at work in the slot."""
        return any(other is not job for other in self._children.jobs.values())

    def _kill_strangers(self, job: Job) -> None:
        processes.kill_descendants(os.getpid(), self._children.others(job))

    def _has_strangers(self, job: Job) -> bool:
        """Processes are left that are no other job's, or of a job that has ended."""
        if not self._is_beside_others(job):
            return self._children.reap()
        return bool(processes.descendants(os.getpid(), self._children.others(job)))


class SharedSlot(Slot):
    """One of several slots: what is its user's is its code's.

    All of that is below a directory which code may pass through and not change. What it does to its workspace, such as
    opening it to everybody, lets nobody in.
    """

    def __init__(
        self,
        workspace: bytes,
        environment: dict[bytes, bytes],
        directories: list[bytes],
        identity: UserIdentity,
        children: Children,
    ) -> None:
        super().__init__(workspace, environment, directories, identity, children)
        self._user = identity

    def cleaner(self, shared: list[bytes]) -> Callable[[], dict[str, object]]:
        """See `Slot.cleaner`."""
        top, places = os.path.dirname(self.workspace), [self.workspace, *self.directories]
        return lambda: cleaning.clean_beside_others(top, places, shared, self._user, self.fill)

    def kill(self, job: Job) -> None:
        """See `Slot.kill`."""
        if job.kind == "file":
            super().kill(job)
        elif not self._is_beside_others(job):
            self.kill_all()  # in one step: to look for descendants takes many, and code forks meanwhile
        elif len(processes.descendants(job.pid)) < _CROWD:
            super().kill(job)
        else:  # more than can be looked at while they fork, and take all turns
            self._user.signal_all(signal.SIGSTOP)
            super().kill(job)
            self._user.signal_all(signal.SIGCONT)

    def kill_all(self) -> None:
        """See `Slot.kill_all`."""
        self._kill_user(self._user)

    def _is_beside_others(self, job: Job) -> bool:
        return any(other is not job and not other.reaped for other in self.jobs.values())

    def _kill_strangers(self, job: Job) -> None:
        processes.kill_descendants(os.getpid(), self._children.others(job), self._user.uid)

    def _has_strangers(self, job: Job) -> bool:
        if not self._is_beside_others(job):
            # a list of children may miss some while others come and go: first, nothing runs any more
            self.kill_all()
            return self._children.orphans_of(self._user.uid)
        return bool(processes.descendants(os.getpid(), self._children.others(job), self._user.uid))


def make_slots(
    environment: Variables, setups: list[list[Any]], children: Children, *, is_first: bool
) -> list[Slot]:
    """The slots that are asked for; `is_first` says that this is the first process of its namespace."""
    slots: list[Slot] = []
    for workspace, own_environment, directories, user in setups:
        variables = dict(os.environb)
        variables.pop(b"PWD", None)  # ours: a command has its own
        for name, value in environment + own_environment:
            if value is None:
                variables.pop(name, None)
            else:
                variables[name] = value
        if user is None:
            for path in directories:
                os.makedirs(path, 0o755, exist_ok=True)
            slots.append(Slot(workspace, variables, directories, Identity(), children))
        else:
            # as the first process, the agent can tell what is not its own without asking whose it is
            kind = Slot if len(setups) == 1 and is_first else SharedSlot
            slots.append(kind(workspace, variables, directories, UserIdentity(*user), children))
    return slots

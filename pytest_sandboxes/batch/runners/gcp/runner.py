"""The runner: one job for the shards of a run, one more for those that have to run again, and what they say."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from pytest_sandboxes.batch.runners import handover
from pytest_sandboxes.batch.runners.base import Arrived, Begun, Ended, Happened, Order, Runner
from pytest_sandboxes.batch.runners.gcp import janitor, job
from pytest_sandboxes.batch.runners.gcp.inbox import Heard, Inbox
from pytest_sandboxes.batch.runners.gcp.lease import Lease
from pytest_sandboxes.batch.runners.gcp.machine.main import NO_ACCESS, NO_ORDER
from pytest_sandboxes.batch.runners.gcp.naming import new_run
from pytest_sandboxes.batch.runners.gcp.objects import Objects
from pytest_sandboxes.batch.runners.gcp.sending import Sending
from pytest_sandboxes.batch.runners.gcp.service import Service
from pytest_sandboxes.batch.runners.gcp.signals import Deferred
from pytest_sandboxes.batch.runners.gcp.watching import Watch
from pytest_sandboxes.batch.runners.handover import Project
from pytest_sandboxes.errors import BackendUnavailableError
from pytest_sandboxes.wording import counted

_STOP_TIMEOUT = 60.0
"""Seconds for a shard to end that is told to."""
_END_PATIENCE = 30.0
"""Seconds for each call at the end."""
_DELETION = 60.0
"""Seconds for jobs to be deleted with their VMs."""
_DELETION_PAUSE = 0.5
_LATE_PAUSE = 0.5
_OUTPUT_KEPT = 16_384
_SAID = {
    NO_ACCESS: "its VM was refused what it had to write into the bucket",
    NO_ORDER: "its VM could not read its order in the bucket, or somebody has removed that",
}
"""What exit codes of tasks mean, of which nothing else is known."""


class _LastWords(msgspec.Struct, forbid_unknown_fields=True):
    """What the last part of a shard has."""

    status: int
    output: str


@dataclass
class _Shard:
    name: str
    wave: int = -1
    """Which job it is in, and as which task."""
    task: int = -1
    is_stopped: bool = False
    """Nobody wants to know any more what it says."""
    deadline: float | None = None
    """When it is taken for ended, of one that was told to end, or whose task has."""
    code: int | None = None
    """The exit code of its task."""


class GcpRunner(Runner):
    """Shards of Google Cloud Batch. Nothing is made there before the first `wait` after a `start`.

    Whatever the service refuses for good, each method raises as `BackendUnavailableError`.
    """

    name = "gcp"
    seconds_worthwhile = 60.0
    queues = True

    def __init__(self, service: Service, project: Project, width: int, tell: Callable[[str], None]) -> None:
        """`width`: shards at once. `tell` has lines for people."""
        self._service = service
        self._project = project
        self._width = width
        self._tell = tell
        self._run = new_run()
        self._objects = Objects(service, self._run)
        self._lease = Lease(self._objects, service.section.controller_timeout)
        self._inbox = Inbox(self._objects)
        self._ordered: list[tuple[int, Order]] = []
        self._count = 0
        self._shards: dict[int, _Shard] = {}  # that have not ended, by number
        self._names: list[str] = []
        """Jobs that are there, or may be, even if that is never known."""
        self._jobs: list[Watch] = []
        """Those of them that are known to be there."""
        self._sending: Sending | None = None
        self._swept = 0
        """Runs of which something was removed, and nobody told."""
        self._signals: Deferred | None = None
        self._is_closed = False

    @property
    def width(self) -> int:
        """See `Runner.width`."""
        return self._width

    # -- to the shards

    def start(self, order: Order) -> None:
        """See `Runner.start`."""
        self._shards[self._count] = _Shard(order.name)
        self._ordered.append((self._count, order))
        self._count += 1

    def stop(self, name: str) -> None:
        """See `Runner.stop`."""
        for number, shard in self._shards.items():
            if shard.name == name:
                shard.is_stopped, shard.deadline = True, time.monotonic() + _STOP_TIMEOUT
                self._lease.stop(number)

    def _send(self) -> None:
        """Begin to make a job of the orders that have come together."""
        wave, orders, self._ordered = len(self._names), self._ordered, []
        project, environment = (
            _archive(each.sha256) for each in (self._project.archive, self._project.environment)
        )
        contents = []
        for task, (number, order) in enumerate(orders):
            self._shards[number].wave, self._shards[number].task = wave, task
            made = self._project.job(
                order, project=project, environment=environment, variables=handover.variables()
            )
            contents.append(json.dumps({"shard": number, "job": made}).encode())
        if self._signals is None:
            self._signals = Deferred()
        self._names.append(f"{self._service.parent}/jobs/pytest-sandboxes-{self._run}-{wave}")
        self._sending = Sending(lambda cancelled: self._make(wave, contents, cancelled))
        self._sending.begin()

    def _make(self, wave: int, contents: Sequence[bytes], cancelled: threading.Event) -> None:
        """In a thread of its own; what it changes is read when it is done."""
        service = self._service.cancelled_by(cancelled)
        objects = Objects(service, self._run)
        if wave == 0:
            self._lease.begin()
            self._swept = janitor.sweep(service, self._run, self._lease.now)
            for archive in (self._project.archive, self._project.environment):
                objects.put_file(_archive(archive.sha256), archive.path)
        for task, content in enumerate(contents):
            objects.put(f"orders/{wave}-{task}.json", content)
        made = job.definition(
            service.section,
            run=self._run,
            prefix=objects.prefix,
            wave=wave,
            tasks=len(contents),
            parallelism=self._width,
        )
        job.create(service, self._names[wave], made)

    # -- from the shards

    def wait(self, timeout: float) -> list[Happened]:
        """See `Runner.wait`."""
        self._lease.check()
        if self._lease.is_late:
            time.sleep(min(timeout, _LATE_PAUSE))
            return []
        if self._sending is None and self._ordered:
            self._send()
        if self._sending is not None and self._sending.wait(0 if self._jobs else timeout):
            self._jobs.append(Watch(self._service, self._names[len(self._jobs)], self._tell))
            self._sending = None
            if self._swept:
                self._tell(f"removed what {counted(self._swept, 'killed run')} of yours had left")
                self._swept = 0
        if not self._jobs:
            return []
        time.sleep(min(timeout, self._inbox.pause()))
        self._watch()
        now = time.monotonic()
        late = {
            number
            for number, shard in self._shards.items()
            if shard.deadline is not None and now >= shard.deadline
        }
        self._inbox.look(self._shards, self._lease.now, everything=bool(late))
        if self._lease.is_late:  # the machine may have slept in the middle of this
            late.clear()
        stopped = {number for number, shard in self._shards.items() if shard.is_stopped}
        found: list[Happened] = []
        for heard in self._inbox.read(self._shards, stopped):
            found += self._take(heard, is_late=heard.shard in late)
        return found

    def _watch(self) -> None:
        """Look after the jobs: tasks that have ended, and jobs that never begin."""
        now = time.monotonic()
        for wave, watch in enumerate(self._jobs):
            codes = watch.look()
            for shard in self._shards.values():
                if shard.wave == wave and shard.deadline is None and (watch.has_ended or shard.task in codes):
                    # what it has written was there before its end, and is listed from then on
                    shard.deadline, shard.code = now, codes.get(shard.task)
            is_late = now - watch.created > self._service.section.start_timeout
            if not watch.has_begun and (is_late or watch.has_ended):
                self._give_up(wave, watch)

    def _give_up(self, wave: int, watch: Watch) -> None:
        """A job has never run. The first one ends the run; the tests of a later one are lost once more."""
        if not any(shard.wave == wave for shard in self._shards.values()):
            return
        if wave == 0:
            seconds = self._service.section.start_timeout
            why = "has ended without a VM" if watch.has_ended else f"got no VM within {seconds:.0f} s"
            raise BackendUnavailableError(
                f"backend gcp: job {watch.name.rpartition('/')[2]} {why}"
                f"{f' ({watch.trouble})' if watch.trouble else ''}: ask for quota, or choose another gcp.region or "
                "gcp.machine_type"
            )
        for shard in self._shards.values():
            if shard.wave == wave and shard.deadline is None:
                shard.deadline = time.monotonic()

    def _take(self, heard: Heard, *, is_late: bool) -> Iterator[Happened]:
        """What a shard has said; one that is late says nothing more."""
        shard = self._shards[heard.shard]
        for part, begins, content in heard.parts:
            if begins:
                yield Begun(shard.name)
            if part.is_end:
                del self._shards[heard.shard]
                yield _ended(shard.name, content)
                return
            if content:
                yield Arrived(shard.name, content)
        if heard.is_too_much:
            del self._shards[heard.shard]
            self._lease.stop(heard.shard)
            yield Ended(shard.name, None, "it has written more than any shard does")
        elif is_late and heard.is_all:
            del self._shards[heard.shard]
            self._check_access(shard)
            yield Ended(shard.name, shard.code, _SAID.get(shard.code or 0, ""), is_pytests=False)

    def _check_access(self, shard: _Shard) -> None:
        """Raise `BackendUnavailableError` where it was no mishap of one shard: none has written anything ever."""
        if shard.code not in _SAID or not self._inbox.is_empty:
            return
        if shard.code == NO_ACCESS or self._objects.list(f"orders/{shard.wave}-{shard.task}.json"):
            raise BackendUnavailableError(
                f"backend gcp: the account of its VMs may not use bucket {self._service.section.bucket}: "
                f"{self._service.grant_to_machines()}"
            )

    # -- the end

    def close(self) -> None:
        """See `Runner.close`. What fails is told, and left to the service: shards end without the lease."""
        if self._is_closed or self._signals is None:
            return
        with self._signals:
            if self._sending is not None and not self._sending.cancel(_END_PATIENCE):
                self._tell("a call is not answered yet; what it makes, shards or the next run remove")
            steps = (
                self._lease.end,
                lambda: self._inbox.close(_END_PATIENCE),
                self._delete_jobs,
                lambda: self._objects.remove_all(_END_PATIENCE),
            )
            for step in steps:
                try:
                    step()
                except BackendUnavailableError as error:
                    self._tell(f"{error}; shards end within {self._service.section.controller_timeout:.0f} s")
            self._is_closed = True

    def _delete_jobs(self) -> None:
        for name in self._names:
            janitor.delete(self._service, name, _END_PATIENCE)
        deadline = time.monotonic() + _DELETION
        for name in self._names:
            while janitor.is_there(self._service, name) and time.monotonic() < deadline:
                time.sleep(_DELETION_PAUSE)


def _archive(digest: str) -> str:
    return f"archives/{digest}.tar"


def _ended(name: str, content: bytes) -> Ended:
    """The last words are hostile as well."""
    try:
        said = msgspec.json.decode(content, type=_LastWords)
    except msgspec.MsgspecError:
        return Ended(name, None, "")
    return Ended(name, said.status if 0 <= said.status <= 255 else None, said.output[-_OUTPUT_KEPT:])

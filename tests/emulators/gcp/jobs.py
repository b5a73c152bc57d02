"""A job: its tasks, their states and events, and the VMs that work them off."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.emulators.events import EventLog
from tests.emulators.gcp.allocation import Allocation
from tests.emulators.gcp.attempts import Attempt
from tests.emulators.gcp.barriers import Barriers
from tests.emulators.gcp.job_checks import parallelism, task_count
from tests.emulators.gcp.machines import Host, Machine, Machines, to_the_end
from tests.emulators.gcp.states import (
    ENDED_JOBS,
    LEAVING_JOBS,
    OTHER_FAILURE,
    Event,
    JobState,
    TaskState,
    event,
    now,
    task_event,
)
from tests.emulators.gcp.strikes import Strike, Strikes

_RETRY_TASK, _FAIL_TASK = (1, "RETRY_TASK"), (2, "FAIL_TASK")


@dataclass(frozen=True)
class Site:
    """What all jobs share."""

    machines: Machines
    hosts: Mapping[str, Host]
    allocation: Allocation
    strikes: Strikes
    events: EventLog
    logs: Path
    environment: Mapping[str, str]
    """What is in a VM's environment here, and not on the service: where the other emulators are."""
    queue_delay: float
    """Seconds that a job is QUEUED."""
    machine_delay: float
    """Seconds that a VM takes to be made."""


@dataclass
class Task:
    """One of a job."""

    index: int
    name: str
    state: TaskState = TaskState.PENDING
    events: list[Event] = field(default_factory=list)
    attempts: int = 0
    running: Attempt | None = None

    def resource(self) -> dict[str, Any]:
        """A Task, in JSON."""
        return {"name": self.name, "status": {"state": int(self.state), "statusEvents": self.events}}


class Job:
    """Belongs to the emulator's loop; works itself off in a task of it."""

    def __init__(self, name: str, uid: str, definition: Mapping[str, Any], site: Site) -> None:
        """`definition` has been checked."""
        self.name = name
        self.uid = uid
        self.definition = definition
        self._site = site
        self._group: Mapping[str, Any] = definition["taskGroups"][0]
        count = task_count(self._group)
        self.group_name = f"{name}/taskGroups/group0"
        self.tasks = [Task(index, f"{self.group_name}/tasks/{index}") for index in range(count)]
        self._pending = deque(range(count))
        self._barriers = Barriers(count)
        self._at_once = asyncio.Semaphore(parallelism(self._group))
        self._counts = Counter({TaskState.PENDING: count})
        self.state = JobState.QUEUED
        self._events: list[Event] = []
        self.created = self._updated = now()
        self._began: float | None = None
        self._lasted: float | None = None
        self.logs = site.logs / uid
        self.logs.mkdir()
        self._work = asyncio.create_task(self._run(), name=f"job {name}")
        site.events.record("job_created", job=name, uid=uid, tasks=count)

    @property
    def job_id(self) -> str:
        """The last part of its name."""
        return self.name.rsplit("/", 1)[1]

    def resource(self) -> dict[str, Any]:
        """A Job, in JSON."""
        counts = {state.name: number for state, number in self._counts.items() if number}
        status: dict[str, Any] = {
            "state": int(self.state),
            "statusEvents": self._events,
            "taskGroups": {"group0": {"counts": counts}},
        }
        if self._lasted is not None:
            status["runDuration"] = f"{self._lasted:.6f}s"
        group = {
            **self._group,
            "name": self.group_name,
            "taskCount": len(self.tasks),
            "parallelism": parallelism(self._group),
        }
        return {
            **self.definition,
            "name": self.name,
            "uid": self.uid,
            "createTime": self.created,
            "updateTime": self._updated,
            "taskGroups": [group],
            "status": status,
        }

    async def stop(self, ending: JobState) -> None:
        """End all that it does, and return when its VMs are gone. `ending` is what it is meanwhile."""
        self._become(ending)
        self._work.cancel()
        await asyncio.wait([self._work])
        self._abandon()
        if ending is JobState.CANCELLATION_IN_PROGRESS:
            self._become(JobState.CANCELLED)

    def _abandon(self) -> None:
        for task in self.tasks:
            if task.state in {TaskState.PENDING, TaskState.ASSIGNED}:
                self._change(task, TaskState.UNEXECUTED)
            elif task.state is TaskState.RUNNING:
                self._change(task, TaskState.FAILED, code=OTHER_FAILURE)

    async def strike(self, strike: Strike) -> None:
        """Strike an attempt that runs. Raises `LookupError` if it does not."""
        for task in self.tasks:
            if task.running and strike.index in {None, task.index} and task.attempts - 1 == strike.attempt:
                await self._strike(task.running, strike, task)
                return
        raise LookupError(f"attempt {strike.attempt} at task {strike.index} of {self.name} does not run")

    async def _run(self) -> None:
        await asyncio.sleep(self._site.queue_delay)
        self._become(JobState.SCHEDULED)
        at_once = min(parallelism(self._group), len(self.tasks))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(math.ceil(at_once / self._per_machine)):
                    group.create_task(self._supply())
        except* _NoMachinesError:
            self._abandon()
            self._become(JobState.FAILED)
        else:
            self._finish()

    def _finish(self) -> None:
        if self._began is not None:
            self._lasted = time.monotonic() - self._began
        failed = [task for task in self.tasks if task.state is TaskState.FAILED]
        if not failed:
            self._become(JobState.SUCCEEDED)
            return
        why = failed[0].events[-1]["description"]
        self._become(
            JobState.FAILED,
            f" Job failed due to task failures. For example, task with index {failed[0].index} failed, failed task event "
            f"description is {why}",
        )

    @property
    def _per_machine(self) -> int:
        return int(self._group.get("taskCountPerNode", 0)) or 1

    async def _supply(self) -> None:
        """Have one VM after the other as long as there are tasks for it: one, unless it is lost."""
        site = self._site
        region = self.name.split("/")[3]
        while self._pending:
            await self._wait_for_machines(region)
            await asyncio.sleep(site.machine_delay)
            if not self._pending:
                return
            machine = await site.machines.start(self.name, self.uid, f"{region}-a")
            site.events.record("machine_started", machine=machine.name, job=self.name)
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._per_machine):
                        group.create_task(self._work_off(machine))
            finally:
                try:
                    await to_the_end(site.machines.end(machine))
                finally:
                    site.events.record(
                        "machine_ended", machine=machine.name, job=self.name, lost=machine.lost
                    )

    async def _wait_for_machines(self, region: str) -> None:
        allocation = self._site.allocation
        while allocation.shortage is not None:
            project = self.name.split("/")[1]
            sentence = allocation.sentence(project, region, f"{self.uid}-group0-0-{len(self._events):04x}")
            self._events.append(event(sentence, "OPERATIONAL_INFO"))
            self._site.events.record("fault", kind=allocation.shortage, job=self.name)
            if allocation.shortage == "invalid":
                raise _NoMachinesError
            await allocation.wait_for_change()

    async def _work_off(self, machine: Machine) -> None:
        while machine.lost is None:
            async with self._at_once:
                if not self._pending or machine.lost is not None:
                    return
                task = self.tasks[self._pending.popleft()]
                code = await self._attempt(task, machine)
            if code and self._is_tried_again(task, code):
                self._change(task, TaskState.PENDING)
                self._pending.append(task.index)
            else:
                await self._barriers.leave(task.index)

    async def _attempt(self, task: Task, machine: Machine) -> int:
        spec = self._group["taskSpec"]
        attempt = Attempt(
            task=task.name,
            index=task.index,
            number=task.attempts,
            spec=spec,
            environment=self._environment(task, machine),
            machine=machine,
            hosts=self._site.hosts,
            logs=self.logs,
            events=self._site.events,
            barriers=self._barriers,
        )
        self._change(task, TaskState.ASSIGNED, machine)
        if self.state is JobState.SCHEDULED:
            self._began = time.monotonic()
            self._become(JobState.RUNNING)
        task.attempts += 1
        task.running = attempt
        self._change(task, TaskState.RUNNING, machine)
        planned = self._site.strikes.take(self.job_id, task.index, task.attempts - 1)
        coming = None if planned is None else asyncio.create_task(self._strike_later(attempt, planned, task))
        try:
            code = await attempt.run()
        finally:
            task.running = None
            if coming is not None:
                coming.cancel()
        self._change(task, TaskState.FAILED if code else TaskState.SUCCEEDED, machine, code)
        return code

    async def _strike_later(self, attempt: Attempt, strike: Strike, task: Task) -> None:
        await asyncio.sleep(strike.after)
        await asyncio.shield(self._strike(attempt, strike, task))

    async def _strike(self, attempt: Attempt, strike: Strike, task: Task) -> None:
        machine = attempt.machine
        self._site.events.record(
            "fault",
            kind="strike",
            task=task.name,
            attempt=strike.attempt,
            code=strike.code,
            machine=machine.name,
        )
        if strike.takes_machine:
            await machine.lose(strike.code)
        else:
            await attempt.strike(strike.code)

    def _environment(self, task: Task, machine: Machine) -> dict[str, str]:
        """The variables of https://cloud.google.com/batch/docs/create-run-job, over those that the job sets."""
        spec = self._group["taskSpec"]
        environments = self._group.get("taskEnvironments", ())
        return {
            **self._site.environment,
            "GCE_METADATA_HOST": machine.metadata,
            "GCE_METADATA_IP": machine.metadata,
            **spec.get("environments", {}),
            **spec.get("environment", {}).get("variables", {}),
            **(environments[task.index].get("variables", {}) if environments else {}),
            "BATCH_TASK_INDEX": str(task.index),
            "BATCH_TASK_COUNT": str(len(self.tasks)),
            "BATCH_TASK_RETRY_ATTEMPT": str(task.attempts),
            "BATCH_JOB_ID": self.job_id,
            "BATCH_JOB_UID": self.uid,
        }

    def _is_tried_again(self, task: Task, code: int) -> bool:
        spec = self._group["taskSpec"]
        if task.attempts > int(spec.get("maxRetryCount", 0)):
            return False
        policies = spec.get("lifecyclePolicies", [])
        if not policies:
            return True
        hits = code in policies[0].get("actionCondition", {}).get("exitCodes", ())
        action = policies[0].get("action")
        return action in _RETRY_TASK if hits else action in _FAIL_TASK

    def _become(self, state: JobState, why: str = "") -> None:
        before, self.state = self.state, state
        sentence = f"Job state is set from {before.name} to {state.name} for job {self.name}.{why}"
        self._events.append(event(sentence))
        self._updated = now()
        self._site.events.record("job_state", job=self.name, state=state.name)

    def _change(self, task: Task, state: TaskState, machine: Machine | None = None, code: int = 0) -> None:
        before, task.state = task.state, state
        self._counts[before] -= 1
        self._counts[state] += 1
        exit_code = code if state is TaskState.FAILED else None
        task.events.append(task_event(before, state, machine.instance if machine else "", exit_code))
        self._updated = now()
        self._site.events.record(
            "task_state",
            job=self.name,
            index=task.index,
            attempt=max(task.attempts - 1, 0),
            state=state.name,
            code=code,
        )

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more, or is about to."""
        return self.state in ENDED_JOBS

    @property
    def is_leaving(self) -> bool:
        """Whether it is being cancelled or deleted."""
        return self.state in LEAVING_JOBS


class _NoMachinesError(Exception):
    """There will never be a VM for this job."""

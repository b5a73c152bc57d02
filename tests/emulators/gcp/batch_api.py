"""The REST API of Batch: jobs, their tasks, and operations.

Paths are those of google/cloud/batch_v1/services/batch_service/transports/rest_base.py, answers those of types/batch.py and
google/longrunning/operations_pb2.py.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from tests.emulators.gcp import errors
from tests.emulators.gcp.calls import Call, Reply, answers
from tests.emulators.gcp.errors import ServiceError
from tests.emulators.gcp.job_checks import check, check_id
from tests.emulators.gcp.jobs import Job, Site, Task
from tests.emulators.gcp.states import JobState, TaskState, now

_LOCATION = "/v1/projects/{project}/locations/{location}"
_JOB = f"{_LOCATION}/jobs/{{job}}"
_TASKS = f"{_JOB}/taskGroups/{{group}}/tasks"
_OPERATION = f"{_LOCATION}/operations/{{operation}}"
_REGION = re.compile(r"[a-z]+-[a-z]+\d+")
_REMEMBERED = 3600
"""Seconds for which a request's id is known: "at least 60 minutes" (types/batch.py)."""
_PAGE = 1000
_NO_REQUEST = "00000000-0000-0000-0000-000000000000"
_TYPES = "type.googleapis.com"
_LABEL_FILTER = re.compile(r'labels\.(?P<name>[\w-]+)\s*[=:]\s*"?(?P<value>[\w-]*)"?')
_STATE_FILTER = re.compile(r'(?:status\.)?state\s*[=:]\s*"?(?P<state>[A-Z_]+)"?', re.IGNORECASE)
_ORDERS: Mapping[str, tuple[Callable[[Job], str], bool]] = {
    "name": (lambda job: job.name, False),
    "name desc": (lambda job: job.name, True),
    "create_time": (lambda job: job.created, False),
    "create_time desc": (lambda job: job.created, True),
}

_Item = TypeVar("_Item")


class Batch:
    """Of one project. Belongs to the emulator's loop."""

    def __init__(self, project: str, site: Site, may: Callable[[str, str], bool]) -> None:
        """`may` tells whether an account has a permission in the project."""
        self._project = project
        self._site = site
        self._may = may
        self.jobs: dict[str, Job] = {}
        self._operations: dict[str, dict[str, Any]] = {}
        self._known: dict[tuple[str, str], tuple[float, str]] = {}
        self._endings: set[asyncio.Task[None]] = set()

    async def end_all(self) -> None:
        """End all jobs."""
        running = [job for job in self.jobs.values() if not job.has_ended and not job.is_leaving]
        await asyncio.gather(
            *(job.stop(JobState.CANCELLATION_IN_PROGRESS) for job in running), *self._endings
        )

    def find(self, name: str) -> Job:
        """A job by its name, or by its id alone. Raises `ServiceError`."""
        for job in self.jobs.values():
            if name in {job.name, job.job_id}:
                return job
        raise errors.not_found(name)

    @answers(
        "batch.jobs.create",
        "POST",
        f"{_LOCATION}/jobs",
        lambda names, request: _created(names, request.query),
    )
    async def create_job(self, call: Call) -> Reply:
        """CreateJob."""
        parent = self._location(call, "batch.jobs.create")
        if known := self._recall(call):
            return Reply.of(self.find(known).resource())
        job_id = call.request.query.get("jobId") or f"j-{secrets.token_hex(16)}"
        check_id(job_id)
        definition = call.request.json()
        self._check_act_as(call.caller, definition)
        check(definition, len(call.request.body), self._site.hosts)
        name = f"{parent}/jobs/{job_id}"
        if name in self.jobs:
            raise ServiceError(409, f"Resource '{name}' already exists")
        uid = f"{job_id[:30].rstrip('-')}-{secrets.token_hex(8)}"
        job = self.jobs[name] = Job(name, uid, definition, self._site)
        self._remember(call, name)
        return Reply.of(job.resource())

    def _check_act_as(self, caller: str, definition: Mapping[str, Any]) -> None:
        """The words are those of cloud.google.com/batch/docs/troubleshooting, the code is that of any permission."""
        account = definition.get("allocationPolicy", {}).get("serviceAccount", {}).get("email", "default")
        if not self._may(caller, "iam.serviceAccounts.actAs"):
            denial = errors.denied("iam.serviceAccounts.actAs", account)
            denial.message = (
                f'caller does not have access to act as the specified service account: "{account}"'
            )
            raise denial

    @answers("batch.jobs.get", "GET", _JOB)
    async def get_job(self, call: Call) -> Reply:
        """GetJob."""
        return Reply.of(self._job(call).resource())

    @answers("batch.jobs.list", "GET", f"{_LOCATION}/jobs")
    async def list_jobs(self, call: Call) -> Reply:
        """ListJobs: filters on labels and states, joined by AND."""
        parent = self._location(call, "batch.jobs.list")
        fits = _filter(call.request.query.get("filter", ""))
        order = call.request.query.get("orderBy", "create_time")
        if order not in _ORDERS:
            raise errors.invalid("order_by", f"{order!r} is none of {', '.join(_ORDERS)}")
        key, is_reversed = _ORDERS[order]
        jobs = [job for job in self.jobs.values() if job.name.startswith(f"{parent}/jobs/") and fits(job)]
        page, token = _page(call, sorted(jobs, key=key, reverse=is_reversed))
        return Reply.of({"jobs": [job.resource() for job in page], "nextPageToken": token})

    @answers("batch.jobs.delete", "DELETE", _JOB)
    async def delete_job(self, call: Call) -> Reply:
        """DeleteJob: it can be got until its VMs are gone."""
        if known := self._recall(call):
            return Reply.of(self._operations[known])
        job = self._job(call)
        if job.is_leaving:
            raise _precondition(f"Job {job.name} is in state {job.state.name}")

        async def work() -> dict[str, Any]:
            await job.stop(JobState.DELETION_IN_PROGRESS)
            del self.jobs[job.name]
            self._site.events.record("job_deleted", job=job.name)
            return {"@type": f"{_TYPES}/google.protobuf.Empty"}

        return self._begin(call, job, "delete", work())

    @answers("batch.jobs.cancel", "POST", f"{_JOB}:cancel", _JOB)
    async def cancel_job(self, call: Call) -> Reply:
        """CancelJob, which a job that has ended refuses."""
        if known := self._recall(call):
            return Reply.of(self._operations[known])
        job = self._job(call)
        if job.has_ended or job.is_leaving:
            raise _precondition(f"Job {job.name} is in state {job.state.name}")

        async def work() -> dict[str, Any]:
            await job.stop(JobState.CANCELLATION_IN_PROGRESS)
            return {"@type": f"{_TYPES}/google.cloud.batch.v1.CancelJobResponse"}

        return self._begin(call, job, "cancel", work())

    @answers("batch.tasks.get", "GET", f"{_TASKS}/{{task}}")
    async def get_task(self, call: Call) -> Reply:
        """GetTask."""
        tasks = self._tasks(call)
        number = call.names["task"]
        if not number.isdecimal() or int(number) >= len(tasks):
            raise errors.not_found(call.request.path.removeprefix("/v1/"))
        return Reply.of(tasks[int(number)].resource())

    @answers("batch.tasks.list", "GET", _TASKS)
    async def list_tasks(self, call: Call) -> Reply:
        """ListTasks: a filter on the state."""
        tasks: Sequence[Task] = self._tasks(call)
        wanted = call.request.query.get("filter", "")
        if wanted:
            found = _STATE_FILTER.fullmatch(wanted.strip())
            if found is None or found["state"] not in TaskState.__members__:
                raise errors.unimplemented(f"the filter {wanted!r} of tasks")
            tasks = [task for task in tasks if task.state is TaskState[found["state"]]]
        page, token = _page(call, tasks)
        return Reply.of({"tasks": [task.resource() for task in page], "nextPageToken": token})

    @answers("batch.operations.get", "GET", _OPERATION)
    async def get_operation(self, call: Call) -> Reply:
        """GetOperation."""
        name = call.request.path.removeprefix("/v1/")
        if name not in self._operations:
            raise errors.not_found(name)
        return Reply.of(self._operations[name])

    @answers("batch.operations.list", "GET", f"{_LOCATION}/operations")
    async def list_operations(self, call: Call) -> Reply:
        """ListOperations."""
        parent = self._location(call, "batch.operations.list")
        names = sorted(name for name in self._operations if name.startswith(f"{parent}/"))
        page, token = _page(call, names)
        return Reply.of({"operations": [self._operations[name] for name in page], "nextPageToken": token})

    def _location(self, call: Call, permission: str) -> str:
        project, location = call.names["project"], call.names["location"]
        if project != self._project:
            raise errors.denied(permission, f"projects/{project}/locations/{location}")
        if not _REGION.fullmatch(location):
            raise ServiceError(404, f"Location {location} is not found or access is unauthorized.")
        return f"projects/{project}/locations/{location}"

    def _job(self, call: Call) -> Job:
        parent = self._location(call, call.method)
        name = f"{parent}/jobs/{call.names['job']}"
        if name not in self.jobs:
            raise errors.not_found(name)
        return self.jobs[name]

    def _tasks(self, call: Call) -> list[Task]:
        job = self._job(call)
        if call.names["group"] != "group0":
            raise errors.not_found(f"{job.name}/taskGroups/{call.names['group']}")
        return job.tasks

    def _begin(self, call: Call, job: Job, verb: str, work: Coroutine[Any, Any, dict[str, Any]]) -> Reply:
        name = f"{job.name.rsplit('/', 2)[0]}/operations/operation-{secrets.token_hex(12)}"
        metadata = {
            "@type": f"{_TYPES}/google.cloud.batch.v1.OperationMetadata",
            "createTime": now(),
            "target": job.name,
            "verb": verb,
            "apiVersion": "v1",
        }
        operation: dict[str, Any] = {"name": name, "metadata": metadata, "done": False}
        self._operations[name] = operation

        async def finish() -> None:
            response = await work
            operation.update(done=True, response=response)
            metadata["endTime"] = now()

        ending = asyncio.create_task(finish(), name=f"{verb} {job.name}")
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        self._remember(call, name)
        return Reply.of(operation)

    def _recall(self, call: Call) -> str | None:
        """What an earlier request with the same id has made."""
        request_id = call.request.query.get("requestId", "")
        if request_id == _NO_REQUEST:
            raise errors.invalid("request_id", "The zero UUID is not supported")
        made, name = self._known.get((call.method, request_id), (0.0, ""))
        return name if request_id and name and time.monotonic() - made < _REMEMBERED else None

    def _remember(self, call: Call, name: str) -> None:
        self._known[call.method, call.request.query.get("requestId", "")] = (time.monotonic(), name)


def _created(names: Mapping[str, str], query: Mapping[str, str]) -> str:
    return f"projects/{names['project']}/locations/{names['location']}/jobs/{query.get('jobId', '')}"


def _precondition(message: str) -> ServiceError:
    return ServiceError(400, message, code="FAILED_PRECONDITION", reason="failedPrecondition")


def _filter(text: str) -> Callable[[Job], bool]:
    labels: dict[str, str] = {}
    states: list[str] = []
    for term in re.split(r"\s+AND\s+", text.strip()) if text.strip() else ():
        if found := _LABEL_FILTER.fullmatch(term):
            labels[found["name"]] = found["value"]
        elif (found := _STATE_FILTER.fullmatch(term)) and found["state"] in JobState.__members__:
            states.append(found["state"])
        else:
            raise errors.unimplemented(f"the filter {term!r} of jobs")

    def fits(job: Job) -> bool:
        own = job.definition.get("labels", {})
        return all(own.get(name) == value for name, value in labels.items()) and all(
            job.state.name == state for state in states
        )

    return fits


def _page(call: Call, items: Sequence[_Item]) -> tuple[Sequence[_Item], str]:
    """One page of them, and the token of the next."""
    token = call.request.query.get("pageToken") or "0"
    if not token.isdecimal():
        raise errors.invalid("page_token", f"{token!r} is none")
    start = int(token)
    end = start + call.page("pageSize", _PAGE)
    return items[start:end], str(end) if end < len(items) else ""

"""States of jobs and tasks, with the numbers that the client parses, and what their changes say.

`JobStatus.State` and `TaskStatus.State` of google/cloud/batch_v1/types/{job,task}.py. The REST client asks for numbers, by
`$alt=json;enum-encoding=int`. Sentences are those of https://cloud.google.com/batch/docs/troubleshooting, and of jobs that
users of the service have shown: nextflow-io/nextflow issues 4225 and 5550.
"""

from __future__ import annotations

import time
from enum import IntEnum
from typing import Any


class JobState(IntEnum):
    """Of a job."""

    QUEUED = 1
    SCHEDULED = 2
    RUNNING = 3
    SUCCEEDED = 4
    FAILED = 5
    DELETION_IN_PROGRESS = 6
    CANCELLATION_IN_PROGRESS = 7
    CANCELLED = 8


class TaskState(IntEnum):
    """Of a task."""

    PENDING = 1
    ASSIGNED = 2
    RUNNING = 3
    FAILED = 4
    SUCCEEDED = 5
    UNEXECUTED = 6


ENDED_JOBS = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
LEAVING_JOBS = frozenset({JobState.DELETION_IN_PROGRESS, JobState.CANCELLATION_IN_PROGRESS})

OTHER_FAILURE, PREEMPTED, SILENT, REBOOTED, UNCANCELLABLE, OVERTIME, RECREATED = range(50000, 50007)
CAUSES = {
    OTHER_FAILURE: "an unknown failure",
    PREEMPTED: "Spot Preemption",
    SILENT: "Batch no longer receives VM updates",
    REBOOTED: "VM is rebooted during task execution",
    UNCANCELLABLE: "tasks cannot be canceled",
    OVERTIME: "task runs over the maximum runtime",
    RECREATED: "VM is recreated during task execution",
}
"""Exit codes that are the service's own."""

Event = dict[str, Any]


def now() -> str:
    """A google.protobuf.Timestamp in JSON."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}Z"


def event(description: str, kind: str = "STATUS_CHANGED", **fields: Any) -> Event:
    """A StatusEvent."""
    return {"type": kind, "eventTime": now(), "description": description, **fields}


def task_event(
    before: TaskState, after: TaskState, instance: str = "", exit_code: int | None = None
) -> Event:
    """That of a task's change. Only one that fails has a `taskExecution` (StatusEvent of types/task.py)."""
    sentence = f"Task state is updated from {before.name} to {after.name}"
    if instance:
        sentence += f" on {instance}"
    if exit_code is None:
        return event(f"{sentence}.", taskState=int(after))
    if exit_code in CAUSES:
        sentence += f" due to {CAUSES[exit_code]}"
    execution = {"exitCode": exit_code}
    return event(f"{sentence} with exit code {exit_code}.", taskState=int(after), taskExecution=execution)

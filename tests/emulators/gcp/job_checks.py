"""What Batch refuses in a job, and what the emulator refuses because it cannot do it.

Limits are those of https://cloud.google.com/batch/quotas#job_limits and of the fields' documentation in
google/cloud/batch_v1/types/{job,task}.py. The wording of refusals is ours, their form is the service's.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from tests.emulators.gcp import errors
from tests.emulators.gcp.container_options import OptionError, parse_options
from tests.emulators.gcp.errors import ServiceError

MOST_TASKS = 100_000
MOST_PARALLEL = 5_000
_MOST_RETRIES = 10
_MOST_LABELS = 64
_LARGEST = 1_000_000
"""Bytes of a job's definition: the quota is 1 MB, "roughly the size of the REST request"."""
_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL_NAME = re.compile(r"[a-z][\w-]{0,62}")
_LABEL_VALUE = re.compile(r"[\w-]{0,63}")
_DURATION = re.compile(r"(\d{1,12})(\.\d{1,9})?s")

NOTED = None
"""A field that is taken and given back, and has no effect here."""
_DONE = None
"""A field that does what it says."""
_ENVIRONMENT = {"variables": _DONE}
_RUNNABLE = {
    "container": {
        **dict.fromkeys(("imageUri", "commands", "entrypoint", "volumes", "options"), _DONE),
        "blockExternalNetwork": _DONE,
    },
    "script": {"path": _DONE, "text": _DONE},
    "barrier": {"name": NOTED},
    **dict.fromkeys(("ignoreExitStatus", "background", "alwaysRun", "timeout"), _DONE),
    **dict.fromkeys(("displayName", "labels"), NOTED),
    "environment": _ENVIRONMENT,
}
_JOB: Mapping[str, Any] = {
    "priority": NOTED,
    "labels": _DONE,
    "logsPolicy": NOTED,
    "allocationPolicy": NOTED,
    "taskGroups": {
        **dict.fromkeys(("taskCount", "parallelism", "taskCountPerNode"), _DONE),
        **dict.fromkeys(("schedulingPolicy", "permissiveSsh", "runAsNonRoot"), NOTED),
        "taskEnvironments": _ENVIRONMENT,
        "taskSpec": {
            "runnables": _RUNNABLE,
            "computeResource": NOTED,
            **dict.fromkeys(("maxRunDuration", "maxRetryCount", "environments"), _DONE),
            "lifecyclePolicies": {"action": _DONE, "actionCondition": {"exitCodes": _DONE}},
            "environment": _ENVIRONMENT,
        },
    },
}
_OUTPUT_ONLY = ("name", "uid", "status", "createTime", "updateTime")


def check_id(job_id: str) -> None:
    """Raise for a name that no job can have."""
    if not _ID.fullmatch(job_id):
        raise errors.invalid("job_id", f"Job ID {job_id!r} does not match ^{_ID.pattern}$")


def check(job: Mapping[str, Any], size: int, kinds: Container[str]) -> None:
    """Raise `ServiceError` for a job that the service would not take, or the emulator cannot run.

    `kinds` are those of runnables for which there is something to run them on.
    """
    if size > _LARGEST:
        raise errors.invalid("job", f"The job definition has {size} bytes, and can have {_LARGEST}")
    groups = job.get("taskGroups", [])
    if len(groups) != 1:
        raise errors.invalid("job.task_groups", f"There have to be 1, and there are {len(groups)}")
    _check_fields({name: value for name, value in job.items() if name not in _OUTPUT_ONLY}, _JOB, "job")
    _check_labels(job.get("labels", {}))
    _check_numbers(groups[0])
    spec = groups[0].get("taskSpec", {})
    runnables = spec.get("runnables", [])
    if not runnables:
        raise errors.invalid("job.task_groups[0].task_spec.runnables", "There has to be one at least")
    for number, runnable in enumerate(runnables):
        if "container" in runnable and "container" not in kinds:
            raise errors.unimplemented("containers, unless it is started with them")
        _check_runnable(runnable, f"job.task_groups[0].task_spec.runnables[{number}]")
    if any("barrier" in runnable for runnable in runnables):
        count = task_count(groups[0])
        if parallelism(groups[0]) < count:
            raise errors.invalid(
                "job.task_groups[0].parallelism", f"A barrier needs all {count} tasks at once"
            )
    if len(spec.get("lifecyclePolicies", [])) > 1:
        raise errors.invalid("job.task_groups[0].task_spec.lifecycle_policies", "There can be one at most")


def task_count(group: Mapping[str, Any]) -> int:
    """How many tasks a group has."""
    return int(group.get("taskCount", 0)) or len(group.get("taskEnvironments", ())) or 1


def parallelism(group: Mapping[str, Any]) -> int:
    """How many of them run at a time."""
    return int(group.get("parallelism", 0)) or min(task_count(group), MOST_PARALLEL)


def seconds(duration: str, field: str) -> float:
    """Of a google.protobuf.Duration in JSON."""
    found = _DURATION.fullmatch(duration)
    if found is None:
        raise errors.invalid(field, f"{duration!r} is no duration")
    return float(duration[:-1])


def _check_fields(value: Any, known: Mapping[str, Any], where: str) -> None:
    if isinstance(value, list):
        for number, each in enumerate(value):
            _check_fields(each, known, f"{where}[{number}]")
        return
    for name, inner in value.items():
        if name not in known:
            raise errors.unimplemented(f"{where}.{name}")
        if known[name] is not None:
            _check_fields(inner, known[name], f"{where}.{name}")


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > _MOST_LABELS:
        raise errors.invalid("job.labels", f"There can be {_MOST_LABELS}, and there are {len(labels)}")
    for name, value in labels.items():
        if name.startswith(("goog-", "google-")):
            raise errors.invalid("job.labels", f"Label name {name!r} is reserved")
        for text, pattern in ((name, _LABEL_NAME), (value, _LABEL_VALUE)):
            if not pattern.fullmatch(text) or text != text.lower():
                raise errors.invalid(
                    "job.labels", f"{text!r} in label {name!r} does not match ^{pattern.pattern}$"
                )


def _check_numbers(group: Mapping[str, Any]) -> None:
    spec = group.get("taskSpec", {})
    limits = {
        "task_count": (task_count(group), 1, MOST_TASKS),
        "parallelism": (parallelism(group), 1, MOST_PARALLEL),
        "task_count_per_node": (int(group.get("taskCountPerNode", 0)) or 1, 1, MOST_TASKS),
        "task_spec.max_retry_count": (int(spec.get("maxRetryCount", 0)), 0, _MOST_RETRIES),
    }
    for name, (number, least, most) in limits.items():
        if not least <= number <= most:
            raise errors.invalid(f"job.task_groups[0].{name}", f"{number} is not in [{least}, {most}]")
    environments = group.get("taskEnvironments")
    if environments and len(environments) != task_count(group):
        raise errors.invalid("job.task_groups[0].task_environments", "There has to be one for each task")
    if "maxRunDuration" in spec:
        seconds(spec["maxRunDuration"], "job.task_groups[0].task_spec.max_run_duration")


def _check_runnable(runnable: Mapping[str, Any], where: str) -> None:
    if "timeout" in runnable:
        seconds(runnable["timeout"], f"{where}.timeout")
    if "script" in runnable:
        if bool(runnable["script"].get("path")) == bool(runnable["script"].get("text")):
            raise errors.invalid(f"{where}.script", "It has to have a text or a path")
    elif "container" in runnable:
        _check_container(runnable["container"], f"{where}.container")
    elif "barrier" not in runnable:
        raise errors.invalid(where, "It has to be a script, a container or a barrier")


def _check_container(container: Mapping[str, Any], where: str) -> None:
    if not container.get("imageUri"):
        raise errors.invalid(f"{where}.image_uri", "It has to be given")
    try:
        options = parse_options(container.get("options", ""))
    except OptionError as error:
        raise ServiceError(501, f"The emulator cannot do {where}.options: {error}") from error
    if options.network and container.get("blockExternalNetwork"):
        raise errors.invalid(f"{where}.options", "No network can be given with block_external_network")
    for volume in container.get("volumes", ()):
        parts = volume.split(":")
        if not 2 <= len(parts) <= 3 or not parts[0].startswith("/") or not parts[1].startswith("/"):
            raise errors.invalid(f"{where}.volumes", f"{volume!r} is not /there:/here or /there:/here:ro")

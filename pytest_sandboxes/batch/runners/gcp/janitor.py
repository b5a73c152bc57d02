"""What killed runs of this user on this machine have left: jobs, by their labels, and objects, by their names."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pytest_sandboxes.batch.runners.gcp import lease
from pytest_sandboxes.batch.runners.gcp.job import OWNER_LABEL, RUN_LABEL
from pytest_sandboxes.batch.runners.gcp.naming import owner
from pytest_sandboxes.batch.runners.gcp.objects import Objects, runs
from pytest_sandboxes.batch.runners.gcp.service import CALL_TIMEOUT, Service

if TYPE_CHECKING:
    from google.cloud import batch_v1

_PATIENCE = 20.0
_MOST = 100
"""Jobs that one start looks at."""


def sweep(service: Service, own: str, now: datetime) -> int:
    """Remove what is left of runs that have given no sign of life for twice the time that their shards wait for one.

    `own` is the run that sweeps, `now` the service's time. Returns how many. Raises `BackendUnavailableError`.
    """
    jobs: defaultdict[str, list[str]] = defaultdict(list)
    for job in service.call(
        "batch", "it cannot look for jobs that killed runs have left", lambda: _jobs(service)
    ):
        jobs[job.labels.get(RUN_LABEL, "")].append(job.name)
    swept = 0
    for run in sorted({*jobs, *runs(service)} - {"", own}):
        objects = Objects(service, run)
        if not _lives(objects, now):
            for name in jobs[run]:
                delete(service, name)
            objects.remove_all(_PATIENCE)
            swept += 1
    return swept


def _jobs(service: Service) -> list[batch_v1.Job]:
    request: Any = {"parent": service.parent, "filter": f"labels.{OWNER_LABEL}={owner()}", "page_size": _MOST}
    pager = service.batch.list_jobs(request=request, timeout=CALL_TIMEOUT, retry=None)
    return list(next(iter(pager.pages)).jobs)


def _lives(objects: Objects, now: datetime) -> bool:
    """The lease is the first thing that a run writes. Where there is none, it was removed: the run is over.

    Its controller has done that, or a shard that has missed the controller.
    """
    found = objects.list(lease.NAME)
    if not found:
        return False
    age: timedelta = now - found[0].updated
    return age.total_seconds() < 2 * lease.lasts(objects.get(lease.NAME, found[0].generation))


def delete(service: Service, name: str, patience: float = _PATIENCE) -> None:
    """Have a job deleted, with its VMs, if it is there. Raises `BackendUnavailableError`."""
    from google.api_core.exceptions import FailedPrecondition, NotFound

    try:
        service.call(
            "batch",
            f"it cannot delete job {name}",
            lambda: service.batch.delete_job(name=name, timeout=CALL_TIMEOUT, retry=None),
            patience=patience,
            passes=(NotFound, FailedPrecondition),  # gone, or going
        )
    except (NotFound, FailedPrecondition):
        return


def is_there(service: Service, name: str) -> bool:
    """Whether there is a job of this name. Raises `BackendUnavailableError`."""
    from google.api_core.exceptions import NotFound

    try:
        service.call(
            "batch",
            f"it cannot look at job {name}",
            lambda: service.batch.get_job(name=name, timeout=CALL_TIMEOUT, retry=None),
            patience=_PATIENCE,
            passes=(NotFound,),
        )
    except NotFound:
        return False
    return True

"""The definition of a job: one task for each shard."""

from __future__ import annotations

import platform
import uuid
from typing import Any

from pytest_sandboxes import shipped
from pytest_sandboxes.batch.runners.gcp.naming import owner
from pytest_sandboxes.batch.runners.gcp.section import Section, cores_of
from pytest_sandboxes.batch.runners.gcp.service import CALL_TIMEOUT, Service

RUN_LABEL, OWNER_LABEL = "pytest-sandboxes-run", "pytest-sandboxes-owner"
RETRIES = 5
"""How often the service begins a task anew that has lost its VM."""
LOST = (50001, 50002, 50003, 50006)
"""Exit codes of such tasks: preempted, not heard of, rebooted, VM made anew. Not 50005, which is over time."""
_MODULES = ("bucket", "lease", "removal", "parts", "main")  # of the machine's program
_DOCKER_SOCKET = "/var/run/docker.sock:/var/run/docker.sock"


def runner_image(section: Section) -> str:
    """The container image in which shards run, where they do."""
    return section.runner_image or f"docker.io/library/python:{platform.python_version()}-slim"


def definition(
    section: Section, *, run: str, prefix: str, wave: int, tasks: int, parallelism: int
) -> dict[str, Any]:
    """A job, as the client takes it. `wave` tells the jobs of a run apart."""
    config = {
        "bucket": section.bucket,
        "prefix": prefix,
        "wave": wave,
        "ttl": section.controller_timeout,
        "bootstrap": shipped.sources("pytest_sandboxes.batch", ("bootstrap",))[0][1],
    }
    per_machine = min(section.tasks_per_machine, tasks)
    start = f"sys.exit(last.main({config!r}))"
    program = shipped.program(f"{__package__}.machine", _MODULES, start)
    cores = cores_of(section.machine_type) * 1000 // per_machine
    spec = {
        "runnables": [_runnable(section, program)],
        "compute_resource": {"cpu_milli": max(1, cores), "memory_mib": 512},
        "max_run_duration": {"seconds": int(section.max_run_duration)},
        "max_retry_count": RETRIES,
        "lifecycle_policies": [{"action": "RETRY_TASK", "action_condition": {"exit_codes": list(LOST)}}],
    }
    return {
        "labels": {**(section.labels or {}), RUN_LABEL: run, OWNER_LABEL: owner()},
        "task_groups": [
            {
                "task_spec": spec,
                "task_count": tasks,
                "parallelism": min(parallelism, tasks),
                "task_count_per_node": per_machine,
            }
        ],
        "allocation_policy": _allocation(section),
        "logs_policy": {"destination": "CLOUD_LOGGING"},
    }


def create(service: Service, name: str, made: dict[str, Any]) -> None:
    """Have a job of this name; it is one job, however often it is asked for. Raises `BackendUnavailableError`."""
    from google.cloud import batch_v1

    request = batch_v1.CreateJobRequest(
        parent=service.parent,
        job=batch_v1.Job(made),
        job_id=name.rpartition("/")[2],
        request_id=str(uuid.uuid4()),
    )
    service.call(
        "batch",
        f"it cannot create a job in project {service.project}",
        lambda: service.batch.create_job(request=request, timeout=CALL_TIMEOUT, retry=None),
    )


def _runnable(section: Section, program: str) -> dict[str, Any]:
    if section.vm_python is not None:
        return {"script": {"text": f"#!{section.vm_python} -IS\n{program}"}}
    volumes = [_DOCKER_SOCKET] if section.backend == "docker" else []
    return {
        "container": {
            "image_uri": runner_image(section),
            "entrypoint": "python3",
            "commands": ["-I", "-S", "-c", program],
            "volumes": volumes,
            "options": "--init",
        }
    }


def _allocation(section: Section) -> dict[str, Any]:
    policy: dict[str, Any] = {
        "machine_type": section.machine_type,
        "provisioning_model": "SPOT" if section.spot else "STANDARD",
        "boot_disk": {"size_gb": section.disk, **({"image": section.vm_image} if section.vm_image else {})},
    }
    found: dict[str, Any] = {"instances": [{"policy": policy}]}
    where = f"zones/{section.zone}" if section.zone else f"regions/{section.region}"
    found["location"] = {"allowed_locations": [where]}
    if section.service_account:
        found["service_account"] = {"email": section.service_account}
    interface: dict[str, Any] = {"no_external_ip_address": True} if not section.external_ip else {}
    if section.network:
        interface["network"] = section.network
    if section.subnetwork:
        interface["subnetwork"] = section.subnetwork
    if interface:
        found["network"] = {"network_interfaces": [interface]}
    return found

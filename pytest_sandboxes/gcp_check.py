"""The command `gcp-check`: whether backend `gcp` has all that it needs; a line each, with the command that mends it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from shlex import quote
from typing import TYPE_CHECKING, Any

from pytest_sandboxes.errors import BackendUnavailableError, SandboxesError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _SubParsersAction

    from pytest_sandboxes.batch.runners.gcp.project import Project
    from pytest_sandboxes.batch.runners.gcp.service import Service

_DAYS = 7
"""Within which a rule of the bucket has to delete what a run has left."""
_RULE = {"action": {"type": "Delete"}, "condition": {"age": 1, "matchesPrefix": ["pytest-sandboxes/"]}}
_MACHINE_ROLES = ("roles/batch.agentReporter", "roles/logging.logWriter")


def add_command(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add it to the command line."""
    text = (
        "say what backend gcp has of all that it needs, and how to mend what is missing; it changes nothing"
    )
    parser = commands.add_parser("gcp-check", help=text, description=text)
    parser.add_argument("--bucket", required=True, help="as in gcp: {bucket: NAME} of the profile")
    parser.add_argument("--project", help="default: GOOGLE_CLOUD_PROJECT, or that of the credentials")
    parser.add_argument("--region", help="default: us-central1")
    parser.add_argument("--service-account", help="whose VMs are; default: the project's for Compute Engine")
    parser.add_argument("--machine-type", help="default: e2-standard-4")
    parser.add_argument("--machines", type=int, help="default: 10")
    parser.add_argument("--spot", action="store_true", default=None, help="VMs with a quota of their own")
    parser.set_defaults(run=run)


def run(asked: Namespace) -> int:
    """Check; the status is 1 where something is missing."""
    from pytest_sandboxes.batch.runners.gcp import section
    from pytest_sandboxes.batch.runners.gcp.project import Project
    from pytest_sandboxes.batch.runners.gcp.service import Service
    from pytest_sandboxes.profiles.profile import Profile

    given = {
        name: value for name, value in vars(asked).items() if name in section.FIELDS and value is not None
    }
    try:
        service = Service(section.read(Profile().override({"gcp": given}, "gcp-check")))
    except SandboxesError as error:
        return _missing(str(error))
    with closing(service), closing(Project(service)) as project:
        if _try(f"credentials, project {service.project}", service.authenticate):
            return 1
        return max(check() for check in _checks(service, project))


def _say(word: str, text: str) -> int:
    sys.stdout.write(f"{word:<9}{text}\n")
    return int(word == "missing")


def _missing(why: str) -> int:
    return _say("missing", why)


def _checks(service: Service, project: Project) -> Iterator[Callable[[], int]]:
    region, bucket = service.section.region, service.section.bucket
    yield lambda: _try(f"API of Batch in {region}", service.look_at_jobs)
    yield lambda: _roles(service, project)
    yield lambda: _try(f"bucket {bucket} and what this account may do there", service.check_bucket)
    yield lambda: _bucket(service)
    yield lambda: _machines(service, project)
    yield lambda: _quota(service, project)


def _try(what: str, check: Callable[[], object]) -> int:
    try:
        check()
    except SandboxesError as error:
        return _missing(str(error))
    return _say("ok", what)


def _known(what: str, has: Callable[[], bool], command: str) -> int:
    """What a command makes sure of, said as missing where that is known."""
    try:
        if has():
            return _say("ok", what)
    except BackendUnavailableError as error:
        return _say("unknown", f"{what}: {error}; this makes sure: {command}")
    return _missing(f"{what}: {command}")


def _roles(service: Service, project: Project) -> int:
    from pytest_sandboxes.batch.runners.gcp.errors import grant_jobs
    from pytest_sandboxes.batch.runners.gcp.project import PERMISSIONS

    return _known(
        f"roles/batch.jobsEditor of this account in project {service.project}",
        lambda: not project.lacks(PERMISSIONS),
        grant_jobs(service.about("batch")),
    )


def _machines(service: Service, project: Project) -> int:
    """What the account of VMs may do, and whether this account may have them."""
    from pytest_sandboxes.batch.runners.gcp.errors import grant_machines

    about = service.about("batch")
    try:
        account = project.machine_account
        about = replace(about, machines=account)
    except BackendUnavailableError as error:
        account = service.machine_account()
        _say("unknown", f"whose VMs are: {error}")
    member = f'--member="serviceAccount:{account}"'
    return max(
        _known(
            f"roles/iam.serviceAccountUser of this account on {account}",
            lambda: project.may_run_as(account),
            grant_machines(about),
        ),
        *(
            _known(
                f"{role} of {account}",
                lambda role=role: not project.machines_lack([role]),  # type: ignore[misc]
                f"gcloud projects add-iam-policy-binding {service.project} {member} --role={role}",
            )
            for role in _MACHINE_ROLES
        ),
        _known(
            f"roles/storage.objectUser of {account} on bucket {service.section.bucket}",
            project.machines_may_use_the_bucket,
            service.grant_to_machines(),
        ),
    )


def _bucket(service: Service) -> int:
    """What the bucket does with what a run has left; no run needs it, so that it is advice where it is not known."""
    name = service.section.bucket
    try:
        service.call("storage", f"it cannot look at bucket {name}", lambda: service.bucket.reload(retry=None))
    except SandboxesError as error:
        return _say("unknown", f"lifecycle and soft delete of bucket {name}: {error}")
    status = 0
    rules = [dict(rule) for rule in service.bucket.lifecycle_rules]
    if any(map(_deletes_what_is_left, rules)):
        _say("ok", "a lifecycle rule deletes what killed runs have left")
    else:
        wanted = json.dumps(
            {"rule": [*rules, _RULE]}, separators=(",", ":")
        )  # the file takes the place of all rules
        status = _missing(
            f"no lifecycle rule of bucket {name} deletes what killed runs have left: echo {quote(wanted)} > rule.json "
            f"&& gcloud storage buckets update gs://{name} --lifecycle-file=rule.json"
        )
    seconds = service.bucket.soft_delete_policy.retention_duration_seconds or 0
    if seconds:
        return _missing(
            f"soft delete keeps, and bills, objects of bucket {name} for {seconds // 86_400} days: gcloud storage "
            f"buckets update gs://{name} --clear-soft-delete"
        )
    _say("ok", "soft delete is off")
    return status


def _deletes_what_is_left(rule: dict[str, Any]) -> bool:
    condition = rule.get("condition", {})
    prefixes = condition.get("matchesPrefix", ["pytest-sandboxes/"])
    others = condition.keys() - {"age", "matchesPrefix"}
    return (
        rule.get("action", {}).get("type") == "Delete"
        and condition.get("age", _DAYS + 1) <= _DAYS
        and any("pytest-sandboxes/".startswith(prefix) for prefix in prefixes)
        and not others
    )


def _quota(service: Service, project: Project) -> int:
    """Whether all VMs fit; Batch tells what does not only when it needs them."""
    from pytest_sandboxes.batch.runners.gcp.section import cores_of

    section = service.section
    needed = section.machines * cores_of(section.machine_type)
    what = (
        f"quota for {section.machines} {section.machine_type}, which have {needed} cores, in {section.region}"
    )
    try:
        found = project.free_cores()
    except BackendUnavailableError as error:
        found, why = None, str(error)
    else:
        why = "Compute Engine tells none for them"
    if found is None:
        return _say(
            "unknown",
            f"{what}: {why}; this tells all: gcloud compute regions describe {section.region} "
            f"--project={service.project} --format='table(quotas)'",
        )
    metric, free, limit = found
    if free >= needed:
        return _say("ok", f"{what}: {free:g} of {limit:g} {metric} are free")
    return _missing(
        f"{what}: {free:g} of {limit:g} {metric} are free: gcloud beta quotas preferences create "
        f"--service=compute.googleapis.com --quota-id={metric.replace('_', '-')}-per-project-region "
        f"--preferred-value={limit - free + needed:g} --dimensions=region={section.region} "
        f"--project={service.project}, or --machines={max(1, int(free // cores_of(section.machine_type)))}"
    )

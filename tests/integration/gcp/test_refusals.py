"""What is missing ends the run with one sentence and the command that mends it, before anything is made."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest

from tests.integration.conftest import Run
from tests.integration.gcp.conftest import OWNER, GcpProject, ended
from tests.waiting import DEADLINE

PLAIN = "def test_it(): pass\n"


def complaint(run: Run) -> str:
    """The one sentence."""
    assert run.exit_code == 4, run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("ERROR: ")]
    assert run.verdicts == {}
    return line


def foreign(gcp: GcpProject) -> None:
    gcp.control.add_foreign_bucket(f"not-{gcp.bucket}")
    gcp.configure(bucket=f"not-{gcp.bucket}")


def nobody(gcp: GcpProject) -> None:
    """Have no credentials but those that nobody knows."""
    for method in ("metadata.ping", "metadata.get", "metadata.token"):
        gcp.control.inject(method, "unavailable", times=None)


CASES: dict[str, tuple[Callable[[GcpProject], object], str]] = {
    "no such bucket": (
        lambda gcp: gcp.configure(bucket="nowhere"),
        "there is no bucket nowhere, .*: gcloud storage buckets create gs://nowhere --project=emulated --location=us-c",
    ),
    "somebody else's bucket": (
        foreign,
        "this account lacks storage.objects.create, .* in bucket not-.*: gcloud storage buckets add-iam-policy-binding ",
    ),
    "no name of a bucket": (
        lambda gcp: gcp.configure(bucket="gs://mine"),
        "'gs://mine' in gcp.bucket is not the name of a bucket: .* without gs://; correct it",
    ),
    "no backend inside": (
        lambda gcp: gcp.configure(backend="locl"),
        "sandboxes.yaml:6, gcp.backend: there is no backend 'locl', .*; did you mean 'local'",
    ),
    "no permission": (
        lambda gcp: gcp.control.inject("batch.jobs.list", "permission_denied", times=None),
        "gcloud projects add-iam-policy-binding emulated .*--role=roles/batch.jobsEditor",
    ),
    "no role to create jobs": (
        lambda gcp: gcp.control.give_roles(OWNER, "roles/iam.serviceAccountUser"),
        "this account lacks batch.jobs.create, .* in project emulated: gcloud projects add-iam-policy-binding emulated ",
    ),
    "no role to have VMs": (
        lambda gcp: gcp.control.give_roles(OWNER, "roles/batch.jobsEditor"),
        'may not have VMs that are 123456789012-compute@.*: gcloud iam service-accounts add-iam-policy-binding "1234',
    ),
    "no API": (
        lambda gcp: gcp.control.inject("batch.jobs.list", "api_disabled", times=None),
        "gcloud services enable batch.googleapis.com --project=emulated",
    ),
    "another project": (
        lambda gcp: gcp.configure(project="not-emulated"),
        "may not do that in project not-emulated .*: gcloud projects add-iam-policy-binding not-emulated ",
    ),
    "no credentials": (
        nobody,
        "there are no Application Default Credentials: gcloud auth application-default login",
    ),
    "credentials that are not accepted": (
        lambda gcp: gcp.control.inject("batch.jobs.list", "expired_token", times=None),
        r"the credentials are not accepted \(.*\): gcloud auth application-default login",
    ),
    "a bundle that is too large": (
        lambda gcp: os.truncate(gcp.project.write("large", ""), 600 << 20),
        r"the files that git tracks have 629.1 MB, and at most 512 MB are sent; the largest are large \(629.1 MB\)",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_made(here: GcpProject, case: str) -> None:
    spoil, expected = CASES[case]
    here.project.write("test_it.py", PLAIN)
    spoil(here)
    found = complaint(here.run_here())
    assert re.search(expected, found), found
    assert here.control.events("call", method="storage.objects.insert") == []
    assert here.control.events("call", method="batch.jobs.create") == []


def test_roles_that_nobody_may_look_at_stop_nothing_and_the_service_is_understood(here: GcpProject) -> None:
    here.project.write("test_it.py", PLAIN)
    here.control.give_roles(OWNER, "roles/batch.jobsEditor")
    for method in ("cloudresourcemanager.*", "iam.*"):
        here.control.inject(method, "permission_denied", times=None)
    found = complaint(here.run_here())
    assert (
        "it cannot create a job in project emulated: this account may not have VMs that are another ("
        in found
    )
    assert "gcloud iam service-accounts add-iam-policy-binding " in found
    assert "--role=roles/iam.serviceAccountUser" in found
    assert len(here.control.events("call", method="batch.jobs.create")) == 1


def test_a_suite_without_tests_asks_nobody_for_anything(here: GcpProject) -> None:
    here.project.write("test_it.py", "")
    assert here.run_here().exit_code == 5
    methods = {each["method"] for each in here.control.events("call")}
    assert methods == {"storage.buckets.insert", "storage.buckets.setIamPolicy"}  # this test's own


def test_a_job_that_gets_no_vm_is_given_up(gcp: GcpProject) -> None:
    gcp.configure(start_timeout=10)
    gcp.project.write("test_it.py", PLAIN)
    gcp.control.withhold_machines("quota")
    with gcp.begin() as process:
        gcp.control.wait("fault", kind="quota", timeout=DEADLINE)
        gcp.control.withhold_machines("stockout")
        output = ended(process)
    assert process.returncode == 4, output
    assert "ERROR: backend gcp: job pytest-sandboxes-" in output
    assert " got no VM within 10 s (stockout: VM in Managed Instance Group meets error: " in output
    assert "sandboxes: quota: VM in Managed Instance Group meets error: " in output
    assert gcp.finished(output) == {}


def test_a_job_that_never_gets_a_vm(here: GcpProject) -> None:
    here.project.write("test_it.py", PLAIN)
    here.control.withhold_machines("invalid")
    found = complaint(here.run_here())
    assert "has ended without a VM (Job gets non-retryable information" in found
    assert "ask for quota, or choose another gcp.region or gcp.machine_type" in found


def test_vms_whose_account_may_not_use_the_bucket(here: GcpProject) -> None:
    here.project.write("test_it.py", PLAIN)
    here.restrict("elsewhere/")
    found = complaint(here.run_here())
    assert (
        f"the account of its VMs may not use bucket {here.bucket}: gcloud storage buckets add-iam-policy-"
        in found
    )
    assert "--role=roles/storage.objectUser --condition=" in found

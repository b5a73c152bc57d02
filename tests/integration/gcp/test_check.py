"""`python -m pytest_sandboxes gcp-check`: one line each, right, or with what mends it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable

import pytest

from pytest_sandboxes.__main__ import main
from tests.integration.gcp.conftest import ACCOUNT, OWNER, GcpProject

Check = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def check(here: GcpProject, capsys: pytest.CaptureFixture[str]) -> Check:
    """Exit status and lines, and that nothing was changed."""

    def run(*arguments: str) -> tuple[int, list[str]]:
        here.control.forget()
        status = main(["gcp-check", *arguments])
        verbs = {each["method"].rpartition(".")[2] for each in here.control.events("call")}
        assert verbs <= {"ping", "get", "token", "list", "testIamPermissions", "getIamPolicy"}
        said = capsys.readouterr().out.splitlines()
        assert [each for each in said if not re.match("(ok|missing|unknown)  +", each)] == []
        return status, said

    return run


def test_what_is_right_and_what_a_bucket_lacks(here: GcpProject, check: Check) -> None:
    status, said = check(f"--bucket={here.bucket}", f"--service-account={ACCOUNT}", "--machines=6")
    rule = r"missing  no lifecycle rule of bucket .*: echo .* --lifecycle-file=rule.json"
    assert re.match(rule, said.pop(4))
    kept = (
        f"missing  soft delete keeps, and bills, objects of bucket {here.bucket} for 7 days: "
        f"gcloud storage buckets update gs://{here.bucket} --clear-soft-delete"
    )
    assert said == [
        "ok       credentials, project emulated",
        "ok       API of Batch in us-central1",
        "ok       roles/batch.jobsEditor of this account in project emulated",
        f"ok       bucket {here.bucket} and what this account may do there",
        kept,
        f"ok       roles/iam.serviceAccountUser of this account on {ACCOUNT}",
        f"ok       roles/batch.agentReporter of {ACCOUNT}",
        f"ok       roles/logging.logWriter of {ACCOUNT}",
        f"ok       roles/storage.objectUser of {ACCOUNT} on bucket {here.bucket}",
        "ok       quota for 6 e2-standard-4, which have 24 cores, in us-central1: 24 of 24 CPUS are free",
    ]
    assert status == 1


@pytest.mark.parametrize(
    ("kind", "mends"),
    [
        ("api_disabled", "gcloud services enable batch.googleapis.com --project=emulated"),
        ("permission_denied", "gcloud projects add-iam-policy-binding emulated "),
    ],
)
def test_what_is_missing_and_how_to_mend_it(here: GcpProject, check: Check, kind: str, mends: str) -> None:
    here.control.inject("batch.jobs.list", kind, times=None)  # type: ignore[arg-type]
    here.control.give_roles(OWNER, "roles/viewer")
    status, said = check("--bucket=nowhere")
    assert status == 1
    assert [each.split()[0] for each in said[1:4]] == ["missing"] * 3
    assert mends in said[1]
    assert (
        f"gcloud projects add-iam-policy-binding emulated --member=serviceAccount:{OWNER} --role=roles/batch.jobsEditor"
        in said[2]
    )
    assert "gcloud storage buckets create gs://nowhere --project=emulated --location=us-central1" in said[3]
    account = "123456789012-compute@developer.gserviceaccount.com"
    commands = [
        f'gcloud iam service-accounts add-iam-policy-binding "{account}" --project=emulated --member=serviceAccount:{OWNER} --role=roles/iam.serviceAccountUser',
        f'gcloud projects add-iam-policy-binding emulated --member="serviceAccount:{account}" --role=roles/batch.agentReporter',
        f'gcloud projects add-iam-policy-binding emulated --member="serviceAccount:{account}" --role=roles/logging.logWriter',
        "--role=roles/storage.objectUser --condition=",
        "which have 40 cores, in us-central1: 24 of 24 CPUS are free: gcloud beta quotas preferences create ",
    ]
    for line, command in zip(said[-5:], commands, strict=True):
        assert command in line


def test_credentials_that_are_there_and_that_nobody_accepts_are_missing(
    here: GcpProject, check: Check
) -> None:
    here.control.inject("metadata.token", "permission_denied", times=None)
    status, (line,) = check(f"--bucket={here.bucket}")
    assert status == 1
    assert line.startswith(
        "missing  backend gcp: it cannot use the credentials: the credentials are not accepted ("
    )
    assert line.endswith(": gcloud auth application-default login")


def test_what_cannot_be_looked_at_is_unknown_and_no_failure(here: GcpProject, check: Check) -> None:
    for method in ("cloudresourcemanager.*", "iam.*", "compute.*"):
        here.control.inject(method, "api_disabled", times=None)
    _, said = check(f"--bucket={here.bucket}")
    unknown = [each for each in said if each.startswith("unknown")]
    assert len(unknown) == 7, said
    assert (
        "is not enabled in project emulated: gcloud services enable cloudresourcemanager.googleapis.com"
        in unknown[0]
    )
    assert unknown[0].endswith(
        f"; this makes sure: gcloud projects add-iam-policy-binding emulated --member=serviceAccount:{OWNER} --role=roles/batch.jobsEditor"
    )


@pytest.mark.parametrize(
    ("prefix", "word"),
    [
        ("", "ok"),
        ("pytest-", "ok"),
        ("elsewhere/", "missing"),
        ("pytest-sandboxes/one-run/", "missing"),
    ],
)
def test_a_role_of_vms_that_holds_for_other_objects_is_none(
    here: GcpProject, check: Check, prefix: str, word: str
) -> None:
    here.restrict(prefix)
    _, said = check(f"--bucket={here.bucket}", f"--service-account={ACCOUNT}")
    (line,) = [each for each in said if f"roles/storage.objectUser of {ACCOUNT} on bucket" in each]
    assert line.split()[0] == word


def test_the_command_for_a_lifecycle_rule_keeps_those_that_are_there(here: GcpProject, check: Check) -> None:
    other = {"action": {"type": "Delete"}, "condition": {"age": 30, "matchesPrefix": ["it's mine/"]}}
    here.set_rules(other)
    _, said = check(f"--bucket={here.bucket}")
    (line,) = [each for each in said if "no lifecycle rule" in each]
    words = shlex.split(line.partition(" have left: ")[2])
    assert words[0] == "echo"
    ours = {"action": {"type": "Delete"}, "condition": {"age": 1, "matchesPrefix": ["pytest-sandboxes/"]}}
    rules = json.loads(words[1])["rule"]
    assert rules == [other, ours]
    here.set_rules(*rules)
    _, said = check(f"--bucket={here.bucket}")
    assert "ok       a lifecycle rule deletes what killed runs have left" in said

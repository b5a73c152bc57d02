"""What a profile's section `gcp` may say."""

from __future__ import annotations

import re

import pytest

from pytest_sandboxes.batch.runners.gcp.job import definition
from pytest_sandboxes.batch.runners.gcp.section import Section, read
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.profile import Profile


def profile(**fields: object) -> Profile:
    return Profile().override({"gcp": fields}, "here")


def test_a_bucket_is_enough() -> None:
    assert read(profile(bucket="results")) == Section("results")


def test_a_zone_says_which_region() -> None:
    assert read(profile(bucket="results", zone="europe-west4-b")).region == "europe-west4"


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        (
            {},
            "backend gcp needs a bucket .*: gcloud storage buckets create gs://NAME --location=us-central1 ",
        ),
        ({"region": "us-east1"}, "--location=us-east1 "),
        ({"buckets": "x"}, "^here, profile 'default': unknown field of gcp 'buckets'; did you mean 'bucket'"),
        ({"bucket": "gs://x"}, "'gs://x' in gcp.bucket is not the name of a bucket: .* without gs://"),
        (
            {"bucket": "abc", "zone": "us-east1"},
            "'us-east1' in gcp.zone is not a zone, such as us-central1-a",
        ),
        (
            {"bucket": "abc", "zone": "us-east1-b", "region": "us-west1"},
            "'us-east1-b', which is not in gcp.region",
        ),
        ({"bucket": "abc", "backend": "gcp"}, "'gcp' in gcp.backend is not one for shards on VMs"),
        (
            {"bucket": "abc", "backend": "modal"},
            "'modal' in gcp.backend .* which get no credentials of Modal",
        ),
        ({"bucket": "abc", "machines": 0}, "gcp.machines is 0 .*, but must be a whole number from 1 to 2000"),
        ({"bucket": "abc", "spot": "yes"}, "gcp.spot is 'yes' .*, but must be true or false"),
        ({"bucket": "abc", "vm_python": "/usr/bin/python3", "runner_image": "x"}, "remove one of them"),
        ({"bucket": "abc", "vm_python": "/bin/sh\n# "}, "is not an absolute path"),
        (
            {"bucket": "abc", "service_account": "me"},
            "'me' in gcp.service_account is not the email address of",
        ),
        (
            {"bucket": "abc", "network": "a\nb"},
            "in gcp.network is not the name of a network, such as projects/",
        ),
        (
            {"bucket": "abc", "vm_image": "$(id)"},
            r"'\$\(id\)' in gcp.vm_image is not the name of an image of VMs",
        ),
        ({"bucket": "abc", "labels": {"Team": "x"}}, "'Team' in gcp.labels is not what a label may be"),
        ({"bucket": "abc", "labels": {"pytest-sandboxes-run": "x"}}, "is not yours to set"),
        ({"bucket": "abc", "controller_timeout": 1}, "but must be a number of seconds from 5 to 86400"),
    ],
)
def test_mistakes(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(profile(**fields))
    assert re.search(complaint, str(caught.value))


def test_a_job_has_a_task_for_each_shard() -> None:
    section = Section("results", spot=True, external_ip=False, service_account="a@b", zone="us-central1-a")
    job = definition(section, run="r", prefix="p/", wave=0, tasks=50, parallelism=20)
    (group,) = job["task_groups"]
    assert (group["task_count"], group["parallelism"], group["task_count_per_node"]) == (50, 20, 2)
    (policy,) = group["task_spec"]["lifecycle_policies"]
    assert policy == {
        "action": "RETRY_TASK",
        "action_condition": {"exit_codes": [50001, 50002, 50003, 50006]},
    }
    allocation = job["allocation_policy"]
    assert allocation["instances"][0]["policy"]["provisioning_model"] == "SPOT"
    assert allocation["network"]["network_interfaces"] == [{"no_external_ip_address": True}]
    assert allocation["location"] == {"allowed_locations": ["zones/us-central1-a"]}
    container = group["task_spec"]["runnables"][0]["container"]
    assert container["volumes"] == ["/var/run/docker.sock:/var/run/docker.sock"]
    compile(container["commands"][-1], "the program", "exec")

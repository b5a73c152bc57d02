"""Buckets, their settings and their policies, as the Storage client sees them."""

from __future__ import annotations

import pytest

from tests.emulators.gcp.conftest import Service, Start, error_info, new_name, storage_client

DAY = 86_400


def test_from_creation_to_deletion(service: Service) -> None:
    from google.api_core.exceptions import Conflict, NotFound

    name = new_name()
    bucket = service.storage.bucket(name)
    assert not bucket.exists()
    bucket.labels = {"owner": "tests"}
    created = service.storage.create_bucket(bucket, location="europe-west4")
    assert (created.location, created.labels, created.metageneration) == (
        "europe-west4",
        {"owner": "tests"},
        1,
    )
    assert name in [each.name for each in service.storage.list_buckets(prefix=name[:4])]
    with pytest.raises(Conflict, match="you already own it"):
        service.storage.create_bucket(name)
    created.blob("x").upload_from_string("")
    with pytest.raises(Conflict, match="not empty"):
        created.delete()
    created.delete(force=True)
    with pytest.raises(NotFound, match="The specified bucket does not exist"):
        service.storage.get_bucket(name)
    with pytest.raises(NotFound):
        bucket.blob("x").upload_from_string("")
    with pytest.raises(NotFound):
        list(bucket.list_blobs())


def test_names_of_others(service: Service) -> None:
    from google.api_core.exceptions import BadRequest, Conflict, Forbidden

    name = new_name()
    service.control.add_foreign_bucket(name)
    with pytest.raises(Conflict, match="is not available"):
        service.storage.create_bucket(name)
    with pytest.raises(Forbidden) as denied:
        service.storage.get_bucket(name)
    assert error_info(denied.value)["metadata"]["permission"] == "storage.buckets.get"
    with pytest.raises(BadRequest, match="Invalid bucket name"):
        service.storage.create_bucket("a..b")
    with pytest.raises(Forbidden):
        service.storage.create_bucket(new_name(), project="other")


def test_lifecycle_and_soft_delete(service: Service) -> None:
    bucket = service.bucket()
    assert bucket.soft_delete_policy.retention_duration_seconds == 7 * DAY
    bucket.add_lifecycle_delete_rule(age=2, matches_prefix=["run/"])
    bucket.patch()
    bucket.reload()
    (rule,) = bucket.lifecycle_rules
    assert rule["condition"] == {"age": 2, "matchesPrefix": ["run/"]}
    for name in ("run/1", "kept"):
        bucket.blob(name).upload_from_string("")
    assert service.control.pass_days(1) == []
    assert service.control.pass_days(2) == [f"{bucket.name}/run/1"]
    assert [blob.name for blob in bucket.list_blobs()] == ["kept"]
    assert [blob.name for blob in bucket.list_blobs(soft_deleted=True)] == ["run/1"]
    assert f"{bucket.name}/run/1" in service.control.remains().soft_deleted
    bucket.soft_delete_policy.retention_duration_seconds = 0
    bucket.patch()
    bucket.blob("kept").delete()
    assert f"{bucket.name}/kept" not in service.control.remains().soft_deleted


def test_a_change_that_was_overtaken(service: Service) -> None:
    from google.api_core.exceptions import PreconditionFailed

    bucket = service.bucket()
    bucket.labels = {"a": "1"}
    bucket.patch(if_metageneration_match=1)
    with pytest.raises(PreconditionFailed):
        bucket.patch(if_metageneration_match=1)


def test_policies(service: Service) -> None:
    from google.api_core.exceptions import MethodNotImplemented, PreconditionFailed

    bucket = service.bucket()
    policy, overtaken = (bucket.get_iam_policy(requested_policy_version=3) for _ in range(2))
    binding = {"role": "roles/storage.objectUser", "members": {"serviceAccount:vm@x.iam.gserviceaccount.com"}}
    policy.version = 3
    expression = f'resource.name.startsWith("projects/_/buckets/{bucket.name}/objects/run/")'
    policy.bindings = [{**binding, "condition": {"title": "run", "expression": expression}}]
    bucket.set_iam_policy(policy)
    assert bucket.get_iam_policy(requested_policy_version=3).bindings == policy.bindings
    with pytest.raises(PreconditionFailed):
        bucket.set_iam_policy(overtaken)
    policy.bindings = [{**binding, "condition": {"title": "time", "expression": "request.time < x"}}]
    policy.etag = None
    with pytest.raises(MethodNotImplemented, match="request.time"):
        bucket.set_iam_policy(policy)
    wanted = ["storage.objects.create", "storage.objects.delete"]
    assert bucket.test_iam_permissions(wanted) == wanted


def test_a_vm_may_do_what_the_policy_says(start: Start) -> None:
    from google.api_core.exceptions import Forbidden
    from google.oauth2.credentials import Credentials

    service = start(machines_by_policies=True)
    bucket = service.bucket()
    own = f'resource.name.startsWith("projects/_/buckets/{bucket.name}/objects/mine/")'
    policy = bucket.get_iam_policy(requested_policy_version=3)
    policy.version = 3
    policy.bindings = [
        {
            "role": "roles/storage.objectUser",
            "members": {"serviceAccount:batch-vm@emulated.iam.gserviceaccount.com"},
            "condition": {"title": "own", "expression": own},
        }
    ]
    bucket.set_iam_policy(policy)
    bucket.blob("other/secret").upload_from_string("")
    job = service.run(
        "#!/usr/bin/env python3\nimport json, os, urllib.request\n"
        "url = f\"http://{os.environ['GCE_METADATA_HOST']}/computeMetadata/v1/instance/service-accounts/default/token\"\n"
        'request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})\n'
        'print(json.load(urllib.request.urlopen(request))["access_token"])'
    )
    token = service.log(job).strip()
    machine = storage_client(service.environment, Credentials(token))
    its = machine.bucket(bucket.name)
    its.blob("mine/1").upload_from_string("x")
    assert [blob.name for blob in its.list_blobs(prefix="mine/")] == ["mine/1"]
    for attempt in (
        lambda: its.blob("other/secret").download_as_bytes(),
        lambda: its.blob("mine2").upload_from_string("x"),
        lambda: its.blob("mine/2").compose([its.blob("other/secret")]),
        lambda: its.blob("mine/2").rewrite(its.blob("other/secret")),
        lambda: its.rename_blob(its.blob("mine/1"), "other/1"),
        lambda: list(its.list_blobs()),
        its.reload,
    ):
        with pytest.raises(Forbidden) as denied:
            attempt()
        assert "batch-vm@emulated.iam.gserviceaccount.com does not have storage." in str(denied.value)
    assert its.test_iam_permissions(["storage.objects.get"]) == []
    machine.close()

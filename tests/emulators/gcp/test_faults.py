"""Faults, as the unmodified clients meet them, and what the log says of each."""

from __future__ import annotations

import datetime as dt
import gc
import io
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from tests.emulators.control import ControlError
from tests.emulators.gcp.allocation import Shortage
from tests.emulators.gcp.conftest import (
    PARENT,
    Service,
    Start,
    batch_client,
    error_info,
    new_name,
    storage_client,
)
from tests.emulators.gcp.faults import Kind
from tests.processes import carrying
from tests.waiting import wait_until

RETRIED = {"action": "RETRY_TASK", "action_condition": {"exit_codes": [50001, 50002, 50003, 50006]}}


def soon() -> Any:
    """The clients' own policy of retries, without its pauses."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_delay(initial=0.01, maximum=0.05).with_timeout(20)


@contextmanager
def leaving_connections() -> Iterator[None]:
    """The Storage client does not close the answer to a download if it is an error; the collector does, with a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def hits(service: Service, resource: str) -> list[tuple[str, str]]:
    """The faults that have hit a call about something."""
    return [(each["method"], each["kind"]) for each in service.control.events("fault", resource=resource)]


@pytest.mark.parametrize(
    "kind", ["unavailable", "throttled", "lost_request", "lost_reply", "unavailable_reply"]
)
def test_the_storage_client_tries_again(service: Service, kind: Kind) -> None:
    blob = service.bucket().blob("x")
    about = f"{blob.bucket.name}/x"
    service.control.inject("storage.objects.insert", kind, resource=about, times=2)
    blob.upload_from_string(b"content", retry=soon())
    assert hits(service, about) == [("storage.objects.insert", kind)] * 2
    service.control.inject("storage.objects.get", kind, resource=about, times=2)
    with leaving_connections():
        assert blob.download_as_bytes(retry=soon()) == b"content"
    assert len(hits(service, about)) == 4
    generations = {"lost_reply": 3, "unavailable_reply": 3}.get(kind, 1)
    assert (
        len(service.control.events("call", method="storage.objects.insert", resource=about, status=200))
        == generations
    )


def test_a_lost_reply_looks_like_an_object_that_is_there(service: Service) -> None:
    from google.api_core.exceptions import PreconditionFailed

    blob = service.bucket().blob("x")
    service.control.inject("storage.objects.insert", "lost_reply", resource=f"{blob.bucket.name}/x")
    with pytest.raises(PreconditionFailed):
        blob.upload_from_string(b"content", if_generation_match=0, retry=soon())
    assert blob.download_as_bytes() == b"content"


@pytest.mark.parametrize("kind", ["lost_reply", "unavailable"])
def test_an_upload_goes_on_where_it_was(service: Service, kind: Kind) -> None:
    content = bytes(range(256)) * 1024 * 3
    blob = service.bucket().blob("large", chunk_size=256 * 1024)
    about = f"{blob.bucket.name}/large"
    service.control.inject("storage.objects.insert", kind, resource=about, skip=2)
    blob.upload_from_file(io.BytesIO(content), retry=soon())
    assert hits(service, about) == [("storage.objects.insert", kind)]
    assert blob.download_as_bytes() == content


def test_in_the_middle_of_several_calls(service: Service) -> None:
    from google.api_core.exceptions import ServiceUnavailable

    bucket = service.bucket()
    for name in "ab":
        bucket.blob(name).upload_from_string("")
    service.control.inject("storage.objects.delete", "unavailable", resource=f"{bucket.name}/b")
    with pytest.raises(ServiceUnavailable), service.storage.batch():
        bucket.blob("a").delete()
        bucket.blob("b").delete()
    assert [blob.name for blob in bucket.list_blobs()] == ["b"]


def test_the_batch_client_reads_again_but_does_not_create(service: Service) -> None:
    from google.api_core import exceptions, retry

    quickly = retry.Retry(
        retry.if_exception_type(exceptions.ServiceUnavailable), initial=0.01, maximum=0.05, timeout=20
    )
    job = service.run("true")
    service.control.inject("batch.jobs.get", "unavailable", resource=job.name, times=2)
    assert service.batch.get_job(name=job.name, retry=quickly).name == job.name
    assert hits(service, job.name) == [("batch.jobs.get", "unavailable")] * 2
    service.control.inject("batch.jobs.create", "unavailable")
    with pytest.raises(exceptions.ServiceUnavailable, match="currently unavailable"):
        service.create("true")


def test_a_lost_reply_of_a_creation(service: Service) -> None:
    from google.cloud import batch_v1
    from requests.exceptions import ConnectionError as NoConnectionError

    job_id = new_name()
    job = batch_v1.Job(task_groups=[{"task_spec": {"runnables": [{"script": {"text": "true"}}]}}])
    request = batch_v1.CreateJobRequest(parent=PARENT, job=job, job_id=job_id, request_id="3" * 36)
    kinds: tuple[Kind, ...] = ("lost_request", "lost_reply")
    for kind in kinds:
        service.control.inject("batch.jobs.create", kind, resource=f"{PARENT}/jobs/{job_id}")
        before = len(service.control.events("job_created"))
        with pytest.raises(NoConnectionError):
            service.batch.create_job(request)
        assert len(service.control.events("job_created")) == before + (kind == "lost_reply")
    made = service.batch.create_job(request)
    service.jobs.append(made)
    assert len(service.control.events("job_created", job=made.name)) == 1


def test_too_many_requests(service: Service) -> None:
    from google.api_core.exceptions import TooManyRequests

    service.control.inject("batch.jobs.create", "throttled", retry_after=7)
    with pytest.raises(TooManyRequests) as refused:
        service.create("true")
    assert error_info(refused.value)["reason"] == "RATE_LIMIT_EXCEEDED"
    assert refused.value.response.headers["Retry-After"] == "7"


@pytest.mark.parametrize(
    ("kind", "reason"), [("permission_denied", "IAM_PERMISSION_DENIED"), ("api_disabled", "SERVICE_DISABLED")]
)
def test_not_allowed(service: Service, kind: Kind, reason: str) -> None:
    from google.api_core.exceptions import Forbidden

    calls: dict[str, Callable[[], object]] = {
        "batch.jobs.create": lambda: service.create("true"),
        "storage.buckets.get": lambda: service.storage.get_bucket("any"),
    }
    for method, call in calls.items():
        service.control.inject(method, kind)
        with pytest.raises(Forbidden) as denied:
            call()
        said = error_info(denied.value)
        assert said["reason"] == reason
        if kind == "permission_denied":
            assert said["metadata"]["permission"] == method
        else:
            assert said["metadata"]["service"] == f"{method.split('.')[0]}.googleapis.com"
            assert "Enable it by visiting https://console.developers.google.com/apis/api/" in str(
                denied.value
            )


def test_a_token_that_is_refused_is_renewed(service: Service) -> None:
    from google.api_core.exceptions import Unauthorized
    from google.oauth2.credentials import Credentials

    renewed = []

    def renew(request: object, scopes: object) -> tuple[str, dt.datetime]:
        renewed.append(token_of(service))
        return renewed[-1], dt.datetime.now() + dt.timedelta(days=2)  # noqa: DTZ005 - as google-auth wants it

    credentials = Credentials(token_of(service), refresh_handler=renew)
    name = service.bucket().name
    with (
        closing(storage_client(service.environment, credentials)) as storage,
        batch_client(service.environment, credentials) as batch,
    ):
        assert storage.get_bucket(name).name == name
        for call in (lambda: storage.get_bucket(name), lambda: batch.list_jobs(parent=PARENT)):
            service.control.revoke_tokens()
            call()
        assert len(set(renewed)) == 2
        service.control.inject("batch.jobs.list", "expired_token", times=None)
        with pytest.raises(Unauthorized):
            batch.list_jobs(parent=PARENT)


def token_of(service: Service) -> str:
    """The owner's, from the metadata server."""
    import urllib.request

    url = f"http://{service.environment['GCE_METADATA_HOST']}/computeMetadata/v1/instance/service-accounts/default/token"
    with urllib.request.urlopen(
        urllib.request.Request(url, headers={"Metadata-Flavor": "Google"}), timeout=20
    ) as reply:
        token: str = json.load(reply)["access_token"]
    return token


def test_one_mutation_a_second(service: Service) -> None:
    from google.api_core.exceptions import TooManyRequests

    bucket = service.bucket()
    service.control.limit_mutations(seconds=3600)  # longer than the calls take on however busy a machine
    bucket.blob("x").upload_from_string("", retry=None)
    bucket.blob("y").upload_from_string("", retry=None)
    with pytest.raises(TooManyRequests, match="exceeded the rate limit for object mutation"):
        bucket.blob("x").upload_from_string("", retry=None)
    with pytest.raises(TooManyRequests):
        bucket.blob("y").delete(retry=None)
    service.control.limit_mutations()
    bucket.blob("x").upload_from_string("later", retry=soon())
    assert bucket.blob("x").download_as_bytes() == b"later"


def test_latency(service: Service) -> None:
    bucket = service.bucket()
    service.control.inject("storage.*", "slow", delay=0.3, times=None, resource=f"{bucket.name}*")
    began = time.monotonic()
    bucket.reload()
    assert time.monotonic() - began >= 0.3
    assert hits(service, bucket.name) == [("storage.buckets.get", "slow")]


def test_a_call_that_was_given_up_is_not_in_a_log_that_has_begun_since(service: Service) -> None:
    from requests.exceptions import ReadTimeout

    blob = service.bucket().blob("late")
    service.control.inject("storage.objects.insert", "slow", delay=3)
    with pytest.raises(ReadTimeout):
        blob.upload_from_string("", timeout=0.1, retry=None)
    service.control.wait("fault", kind="slow")
    service.control.forget()
    wait_until(blob.exists)
    assert service.control.events("call", method="storage.objects.insert") == []


def test_a_service_that_is_away(service: Service) -> None:
    from requests.exceptions import ConnectionError as NoConnectionError

    for port, call in (
        ("batch", lambda: service.batch.list_jobs(parent=PARENT, retry=None)),
        (
            "storage",
            lambda: (
                service.storage.list_buckets(retry=None).next_page_token
                or list(service.storage.list_buckets(retry=None))
            ),
        ),
    ):
        service.control.disconnect(port)
        with pytest.raises(NoConnectionError):
            call()
        service.control.connect(port)
        call()


@pytest.mark.parametrize(
    ("shortage", "code"), [("quota", "QUOTA_EXCEEDED"), ("stockout", "ZONE_RESOURCE_POOL_EXHAUSTED")]
)
def test_no_machines_for_a_while(service: Service, shortage: Shortage, code: str) -> None:
    service.control.withhold_machines(shortage)
    job = service.create("echo here")
    service.control.wait("fault", kind=shortage, job=job.name)
    status = service.batch.get_job(name=job.name).status
    assert status.state.name == "SCHEDULED"
    assert status.status_events[-1].type_ == "OPERATIONAL_INFO"
    assert f"code - CODE_GCE_{code}," in status.status_events[-1].description
    assert [task.status.state.name for task in service.tasks(job)] == ["PENDING"]
    service.control.release_machines()
    service.finish(job)
    waiting = service.create("echo here")
    service.control.withhold_machines(shortage)
    service.batch.delete_job(name=waiting.name)
    service.control.wait("job_deleted", job=waiting.name)


def test_no_machines_ever(service: Service) -> None:
    service.control.withhold_machines("invalid")
    job = service.run("echo here", state="FAILED", task_count=2)
    assert [event.description.split(" for job")[0] for event in job.status.status_events][-1] == (
        "Job state is set from SCHEDULED to FAILED"
    )
    assert "CODE_GCE_INVALID_FIELD_VALUE" in job.status.status_events[-2].description
    assert job.status.task_groups["group0"].counts == {"UNEXECUTED": 2}


def test_preempted_twice_and_done_at_last(service: Service) -> None:
    job_id = new_name()
    for index in (0, 3):
        for attempt in (0, 1):
            service.control.plan_strike(index=index, attempt=attempt, after=0.05, job=job_id)
    from google.cloud import batch_v1

    text = "if [ $BATCH_TASK_RETRY_ATTEMPT -lt 2 ] && [ $((BATCH_TASK_INDEX % 3)) = 0 ]; then setsid sleep 1000 & sleep 1000; fi; echo $BATCH_TASK_RETRY_ATTEMPT"
    spec = {"runnables": [{"script": {"text": text}}], "max_retry_count": 3, "lifecycle_policies": [RETRIED]}
    definition = batch_v1.Job(task_groups=[{"task_count": 5, "task_spec": spec}])
    job = service.batch.create_job(parent=PARENT, job=definition, job_id=job_id)
    service.jobs.append(job)
    service.finish(job)
    assert [service.log(job, index) for index in range(5)] == ["2\n", "0\n", "0\n", "2\n", "0\n"]
    events = service.tasks(job)[3].status.status_events
    lost = [event for event in events if "task_execution" in event]
    assert [event.task_execution.exit_code for event in lost] == [50001, 50001]
    assert lost[0].description.endswith(" due to Spot Preemption with exit code 50001.")
    instances = {
        event.description.split("instances/")[1].split()[0].rstrip(".")
        for event in events
        if "instances/" in event.description
    }
    assert len(instances) == 3
    assert (
        len(
            [
                each
                for each in service.control.events("fault", kind="strike")
                if each["task"].startswith(job.name)
            ]
        )
        == 4
    )
    assert not carrying(job.uid, "environ")


def test_a_preemption_takes_all_of_its_machine(service: Service) -> None:
    job = service.create("sleep 1000", task_count=3, task_count_per_node=2, parallelism=3)
    service.running(job, 3)
    with pytest.raises(ControlError, match="attempt 1 at task 0 of .* does not run"):
        service.control.strike(job.name, index=0, attempt=1)
    service.control.strike(job.name, index=0)
    service.control.strike(job.name, index=2, code=50002, takes_machine=False)
    service.finish(job, "FAILED")
    codes = [task.status.status_events[-1].task_execution.exit_code for task in service.tasks(job)]
    assert codes == [50001, 50001, 50002]
    lost = sorted(str(entry["lost"]) for entry in service.control.events("machine_ended", job=job.name))
    assert lost == ["50001", "None"]


def test_a_log_outside(start: Start, tmp_path: Any) -> None:
    log = tmp_path / "log"
    service = start(log=str(log))
    service.control.inject("storage.buckets.insert", "unavailable")
    service.storage.create_bucket("again", retry=soon())
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [entry["event"] for entry in entries] == ["fault", "call", "bucket_created", "call"]
    assert [entry["status"] for entry in entries if entry["event"] == "call"] == [503, 200]


def test_a_mistake_in_a_request_is_told(service: Service) -> None:
    with pytest.raises(ValueError, match="no fault is called 'flood'"):
        service.control.inject("batch.jobs.get", "flood")  # type: ignore[arg-type]
    with pytest.raises(ControlError, match="no shortage is called 'drought'"):
        service.control.withhold_machines("drought")  # type: ignore[arg-type]
    with pytest.raises(ControlError, match="has not come to pass in time"):
        service.control.wait("job_created", timeout=0.01, job="none")

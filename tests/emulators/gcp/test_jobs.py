"""Jobs, from their creation to their end, as the Batch client sees them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.emulators.gcp.conftest import PARENT, Service, error_info, new_name
from tests.processes import carrying
from tests.waiting import wait_until

if TYPE_CHECKING:
    from google.cloud import batch_v1

FOREVER = "sleep 1000 & exec sleep 1000"


def test_the_life_of_a_job(service: Service) -> None:
    from google.cloud.batch_v1 import JobStatus, TaskStatus

    created = service.create("echo $BATCH_TASK_INDEX", task_count=3, job={"labels": {"run": "one"}})
    assert created.status.state == JobStatus.State.QUEUED
    assert created.uid
    job = service.finish(created)
    assert (job.name, job.uid, job.create_time) == (created.name, created.uid, created.create_time)
    assert job.labels == {"run": "one"}
    changes = [event.description.split(" for job")[0] for event in job.status.status_events]
    assert changes == [
        "Job state is set from QUEUED to SCHEDULED",
        "Job state is set from SCHEDULED to RUNNING",
        "Job state is set from RUNNING to SUCCEEDED",
    ]
    assert job.status.task_groups["group0"].counts == {"SUCCEEDED": 3}
    assert job.status.run_duration
    assert (job.task_groups[0].task_count, job.task_groups[0].parallelism) == (3, 3)
    assert [service.log(job, index) for index in range(3)] == ["0\n", "1\n", "2\n"]
    task = service.batch.get_task(name=f"{job.name}/taskGroups/group0/tasks/2")
    states = [event.task_state for event in task.status.status_events]
    assert states == [TaskStatus.State.ASSIGNED, TaskStatus.State.RUNNING, TaskStatus.State.SUCCEEDED]
    assert not any("task_execution" in event for event in task.status.status_events)
    assert re.search(r" on zones/us-central1-a/instances/\d+\.$", task.status.status_events[-1].description)


def test_a_task_that_fails_keeps_no_other_from_its_end(service: Service) -> None:
    from google.cloud.batch_v1 import TaskStatus

    job = service.run("exit $((BATCH_TASK_INDEX * 3))", task_count=3, parallelism=1, state="FAILED")
    assert job.status.task_groups["group0"].counts == {"SUCCEEDED": 1, "FAILED": 2}
    assert "task with index 1 failed" in job.status.status_events[-1].description
    failed = service.tasks(job)[2].status
    assert failed.state == TaskStatus.State.FAILED
    assert failed.status_events[-1].task_execution.exit_code == 6
    assert failed.status_events[-1].description.endswith(" with exit code 6.")


def test_parallelism_and_tasks_of_a_vm(service: Service) -> None:
    script = 'echo . >> /disk; echo "$(wc -l < /disk) $(hostname)"'
    job = service.run(script, task_count=6, parallelism=2)
    assert len(service.control.events("machine_started", job=job.name)) == 2
    assert running_at_most(service, job) <= 2
    together = service.run(script, task_count=6, parallelism=2, task_count_per_node=2)
    assert len(service.control.events("machine_started", job=together.name)) == 1
    places = [service.log(together, index).split() for index in range(6)]
    assert len({machine for _, machine in places}) == 1
    assert max(int(count) for count, _ in places) == 6
    assert running_at_most(service, together) == 2


def running_at_most(service: Service, job: batch_v1.Job) -> int:
    """How many tasks ran at a time."""
    running = most = 0
    for entry in service.control.events("task_state", job=job.name):
        running += {"RUNNING": 1, "SUCCEEDED": -1, "FAILED": -1}.get(entry["state"], 0)
        most = max(most, running)
    return most


def test_pages_and_filters(service: Service) -> None:
    from google.api_core.exceptions import MethodNotImplemented

    job = service.run(
        "exit $((BATCH_TASK_INDEX % 2))", task_count=5, state="FAILED", job={"labels": {"run": "pages"}}
    )
    group = f"{job.name}/taskGroups/group0"
    pages = list(service.batch.list_tasks(request={"parent": group, "page_size": 2}).pages)
    assert [len(page.tasks) for page in pages] == [2, 2, 1]
    assert [task.name for page in pages for task in page.tasks] == [
        f"{group}/tasks/{number}" for number in range(5)
    ]
    failed = service.batch.list_tasks(request={"parent": group, "filter": "State=FAILED"})
    assert [task.name[-1] for task in failed] == ["1", "3"]
    other = service.run("true", job={"labels": {"run": "pages", "more": "1"}})
    found = service.batch.list_jobs(
        request={"parent": PARENT, "filter": 'labels.run="pages"', "page_size": 1}
    )
    assert [each.name for each in found] == [job.name, other.name]
    both = 'labels.run="pages" AND labels.more="1" AND status.state="SUCCEEDED"'
    assert [each.name for each in service.batch.list_jobs(request={"parent": PARENT, "filter": both})] == [
        other.name
    ]
    with pytest.raises(MethodNotImplemented, match="the filter 'uid:x' of jobs"):
        service.batch.list_jobs(request={"parent": PARENT, "filter": "uid:x"})


def test_cancelled(service: Service) -> None:
    from google.api_core.exceptions import BadRequest
    from google.cloud import batch_v1

    job = service.create(FOREVER, task_count=2, parallelism=1)
    service.running(job)
    wait_until(lambda: len(carrying(job.uid, "environ")) >= 2)
    operation = service.batch.cancel_job(name=job.name)
    assert (operation.metadata.target, operation.metadata.verb) == (job.name, "cancel")
    assert operation.result(timeout=30) == batch_v1.CancelJobResponse()
    assert not carrying(job.uid, "environ")
    cancelled = service.batch.get_job(name=job.name).status
    assert cancelled.state == batch_v1.JobStatus.State.CANCELLED
    assert cancelled.task_groups["group0"].counts == {"FAILED": 1, "UNEXECUTED": 1}
    with pytest.raises(BadRequest, match="is in state CANCELLED"):
        service.batch.cancel_job(name=job.name)


def test_deleted_while_it_runs(service: Service) -> None:
    from google.api_core.exceptions import NotFound

    job = service.create(FOREVER, task_count=2)
    service.running(job, 2)
    wait_until(lambda: len(carrying(job.uid, "environ")) >= 4)
    operation = service.batch.delete_job(name=job.name)
    operation.result(timeout=30)
    assert operation.metadata.end_time
    assert not carrying(job.uid, "environ")
    with pytest.raises(NotFound, match=job.name):
        service.batch.get_job(name=job.name)
    with pytest.raises(NotFound):
        service.batch.delete_job(name=job.name)


def test_a_request_that_is_made_again(service: Service) -> None:
    from google.api_core.exceptions import Conflict
    from google.cloud import batch_v1

    job = batch_v1.Job(task_groups=[{"task_spec": {"runnables": [{"script": {"text": "true"}}]}}])
    request = batch_v1.CreateJobRequest(parent=PARENT, job=job, job_id=new_name(), request_id="1" * 36)
    first, second = service.batch.create_job(request), service.batch.create_job(request)
    service.jobs.append(first)
    assert first.uid == second.uid
    with pytest.raises(Conflict, match="already exists"):
        service.batch.create_job(parent=PARENT, job=job, job_id=request.job_id)
    service.finish(first)
    deletion = {"name": first.name, "request_id": "2" * 36}
    operations = [service.batch.delete_job(request=deletion).operation.name for _ in range(2)]
    assert operations[0] == operations[1]
    service.control.wait("job_deleted", job=first.name)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("Bad-Id", {}, "Job ID 'Bad-Id' does not match"),
    ("ends-with-", {}, "Job ID"),
    ("l" * 64, {}, "Job ID"),
    ("", {"task_groups": []}, "There have to be 1"),
    ("", {"group": {"task_count": 100_001}}, "100001 is not in"),
    ("", {"group": {"parallelism": 5_001}}, "5001 is not in"),
    ("", {"spec": {"max_retry_count": 11}}, "11 is not in"),
    ("", {"spec": {"runnables": []}}, "There has to be one at least"),
    ("", {"spec": {"runnables": [{"display_name": "nothing"}]}}, "a script, a container or a barrier"),
    ("", {"spec": {"runnables": [{"script": {"text": "#" * 1_000_000}}]}}, "The job definition has 1000"),
    ("", {"spec": {"lifecycle_policies": [{}, {}]}}, "one at most"),
    (
        "",
        {"spec": {"runnables": [{"barrier": {}}]}, "group": {"task_count": 2, "parallelism": 1}},
        "all 2 tasks at once",
    ),
    ("", {"job": {"labels": {"Upper": "x"}}}, "'Upper' in label"),
    ("", {"job": {"labels": {"goog-x": "x"}}}, "'goog-x' is reserved"),
]


@pytest.mark.parametrize(("job_id", "change", "message"), BAD, ids=[message for _, _, message in BAD])
def test_what_breaks_a_rule_is_refused(
    service: Service, job_id: str, change: dict[str, Any], message: str
) -> None:
    from google.api_core.exceptions import BadRequest
    from google.cloud import batch_v1

    spec = {"runnables": [{"script": {"text": "true"}}], **change.get("spec", {})}
    groups = change.get("task_groups", [{"task_spec": spec, **change.get("group", {})}])
    job = batch_v1.Job({"task_groups": groups, **change.get("job", {})})
    before = service.control.remains().jobs
    with pytest.raises(BadRequest, match=message) as refused:
        service.batch.create_job(parent=PARENT, job=job, job_id=job_id)
    (detail,) = refused.value.details
    assert detail["@type"].endswith("google.rpc.BadRequest")
    assert service.control.remains().jobs == before


def test_what_it_does_not_do_is_unimplemented(service: Service) -> None:
    from google.api_core.exceptions import MethodNotImplemented

    with pytest.raises(MethodNotImplemented, match=r"job.taskGroups\[0\].taskSpec.volumes"):
        service.create("true", volumes=[{"nfs": {"server": "a", "remote_path": "b"}, "mount_path": "/c"}])
    with pytest.raises(MethodNotImplemented, match=r"environment.secretVariables"):
        service.create("true", environment={"secret_variables": {"A": "projects/p/secrets/s/versions/1"}})
    with pytest.raises(MethodNotImplemented, match="containers, unless it is started with them"):
        service.create({"container": {"image_uri": "busybox"}})
    with pytest.raises(MethodNotImplemented, match="GET /v1/projects/emulated/locations/us-central1 "):
        service.batch.get_location({"name": PARENT})


def test_other_projects_and_places(service: Service) -> None:
    from google.api_core.exceptions import Forbidden, NotFound

    with pytest.raises(Forbidden) as denied:
        service.batch.list_jobs(parent="projects/other/locations/us-central1")
    said = error_info(denied.value)
    assert said["reason"] == "IAM_PERMISSION_DENIED"
    assert said["metadata"]["permission"] == "batch.jobs.list"
    with pytest.raises(NotFound, match="Location nowhere is not found"):
        service.batch.list_jobs(parent="projects/emulated/locations/nowhere")
    with pytest.raises(NotFound):
        service.batch.get_job(name=f"{PARENT}/jobs/none")
    job = service.run("true")
    with pytest.raises(NotFound):
        service.batch.get_task(name=f"{job.name}/taskGroups/group0/tasks/1")

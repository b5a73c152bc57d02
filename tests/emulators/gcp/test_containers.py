"""Runnables that are containers, and that nothing of them stays on the Engine."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.emulators.gcp.conftest import Service, batch_client, serve, storage_client
from tests.emulators.gcp.control import Control
from tests.emulators.gcp.starting import Options
from tests.emulators.gcp.test_lifetime import process
from tests.processes import carrying
from tests.waiting import wait_until

if TYPE_CHECKING:
    import docker

LABEL = "pytest-sandboxes.gcp-emulator"


@pytest.fixture(scope="module")
def shared_containers(engine: docker.DockerClient) -> Iterator[Service]:
    with serve(Options(containers=True)) as service:
        yield service


@pytest.fixture
def service(shared_containers: Service) -> Iterator[Service]:
    """An emulator whose jobs can have containers."""
    shared_containers.jobs.clear()
    yield shared_containers
    shared_containers.clean()


def container(image: str, *commands: str, **fields: Any) -> dict[str, Any]:
    return {"container": {"image_uri": image, "commands": commands, **fields}}


def of_job(engine: docker.DockerClient, uid: str) -> list[str]:
    """Containers of a job, whether they run or not."""
    api = engine.api
    found = api.containers(all=True, filters={"label": LABEL})
    return [each["Id"] for each in found if f"BATCH_JOB_UID={uid}" in environment(engine, each["Id"])]


def environment(engine: docker.DockerClient, container_id: str) -> list[str]:
    import docker.errors

    try:
        found: list[str] = engine.api.inspect_container(container_id)["Config"]["Env"]
    except docker.errors.NotFound:
        return []
    return found


def test_with_the_disk_of_the_vm(service: Service, engine: docker.DockerClient, busybox_image: str) -> None:
    look = "echo $A $B $BATCH_TASK_INDEX; cat /there/file; touch /there/x 2>&1; id -u; exit 3"
    job = service.run(
        "mkdir /data; echo content > /data/file",
        {
            **container(
                busybox_image,
                "-c",
                look,
                entrypoint="sh",
                volumes=["/data:/there:ro"],
                options="--user 7 -e B=2",
            ),
            "ignore_exit_status": True,
            "environment": {"variables": {"A": "1"}},
        },
        container(
            busybox_image,
            "sh",
            "-c",
            "echo more > /made/file; ls /sys/class/net",
            volumes=["/made:/made"],
            options="--network none",
        ),
        "cat /made/file",
        container(busybox_image, "sh", "-c", "exit 4"),
        state="FAILED",
    )
    assert service.log(job) == ("1 2 0\ncontent\ntouch: /there/x: Read-only file system\n7\nlo\nmore\n")
    (event,) = [each for each in service.tasks(job)[0].status.status_events if "task_execution" in each]
    assert event.task_execution.exit_code == 4
    assert not of_job(engine, job.uid)


def test_reaches_the_other_services(service: Service, busybox_image: str) -> None:
    ask = "wget -q -O - --header 'Metadata-Flavor: Google' http://$GCE_METADATA_HOST/computeMetadata/v1/project/project-id"
    assert service.log(service.run(container(busybox_image, "sh", "-c", ask))) == "emulated"
    blocked = service.run(
        container(busybox_image, "sh", "-c", ask, block_external_network=True), state="FAILED"
    )
    assert "emulated" not in service.log(blocked)


def test_deleted_and_over_time(service: Service, engine: docker.DockerClient, busybox_image: str) -> None:
    import datetime as dt

    job = service.create(container(busybox_image, "sleep", "1000"))
    service.running(job)
    assert of_job(engine, job.uid)
    wait_until(lambda: carrying(job.uid, "environ"))
    assert service.control.remains().processes == 1
    service.batch.delete_job(name=job.name)
    service.control.wait("job_deleted", job=job.name)
    assert not of_job(engine, job.uid)
    assert not carrying(job.uid, "environ")
    late = service.run(
        container(busybox_image, "sleep", "1000"), max_run_duration=dt.timedelta(seconds=1), state="FAILED"
    )
    assert service.tasks(late)[0].status.status_events[-1].task_execution.exit_code == 50005
    assert not of_job(engine, late.uid)


def test_what_cannot_be(service: Service, busybox_image: str) -> None:
    from google.api_core.exceptions import BadRequest, MethodNotImplemented

    with pytest.raises(MethodNotImplemented, match="unrecognized arguments: --gpus all"):
        service.create(container(busybox_image, options="--gpus all"))
    with pytest.raises(BadRequest, match="No network can be given"):
        service.create(container(busybox_image, options="--network host", block_external_network=True))
    with pytest.raises(BadRequest, match="is not /there:/here"):
        service.create(container(busybox_image, volumes=["data:/x"]))
    job = service.run(
        "ln -s / /out", container(busybox_image, "true", volumes=["/out/etc:/x"]), state="FAILED"
    )
    (refused,) = service.control.events("runnable_refused", task=f"{job.name}/taskGroups/group0/tasks/0")
    assert "is not on the VM's disk" in refused["reason"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays(number: signal.Signals, engine: docker.DockerClient, busybox_image: str) -> None:
    with process("-m", "tests.emulators.gcp", "--containers") as (emulator, said):
        with batch_client(said["environment"]) as batch:
            storage = storage_client(said["environment"])
            service = Service(said["environment"], Control(Path(said["control"])), batch, storage)
            job = service.create(container(busybox_image, "sleep", "1000"), task_count=2)
            service.running(job, 2)
            storage.close()
        assert len(of_job(engine, job.uid)) == 2
        emulator.send_signal(number)
        emulator.wait(60)
    wait_until(lambda: not of_job(engine, job.uid), "the removal of all containers")
    assert not Path(said["control"]).parent.exists()

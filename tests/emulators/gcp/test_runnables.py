"""What the runnables of a task do, where they run, and when they are tried again."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest

from tests.emulators.gcp.conftest import Service, Start
from tests.processes import carrying
from tests.waiting import wait_until

if TYPE_CHECKING:
    from google.cloud import batch_v1


def script(text: str, **fields: Any) -> dict[str, Any]:
    return {"script": {"text": text}, **fields}


def seconds(number: float) -> dt.timedelta:
    return dt.timedelta(seconds=number)


def exit_codes(service: Service, job: batch_v1.Job, index: int = 0) -> list[int]:
    """Of the attempts at a task that have failed."""
    events = service.tasks(job)[index].status.status_events
    return [event.task_execution.exit_code for event in events if "task_execution" in event]


def test_in_order_until_one_fails(service: Service) -> None:
    job = service.run(
        "echo first > /shared",
        script("echo ignored; exit 4", ignore_exit_status=True),
        "cat /shared; exit 5",
        "echo never",
        script("echo always; exit 6", always_run=True),
        state="FAILED",
    )
    assert service.log(job) == "ignored\nfirst\nalways\n"
    assert exit_codes(service, job) == [5]


def test_interpreters(service: Service) -> None:
    job = service.run(
        "#!/usr/bin/env python3\nimport sys; print('python', sys.version_info[0])",
        "echo 'echo from $0' > /home/file",
        {"script": {"path": "/home/file"}},
    )
    assert service.log(job) == "python 3\nfrom /home/file\n"


def test_in_the_background(service: Service) -> None:
    job = service.create(
        script("setsid sleep 1000 & touch /there; sleep 1000", background=True),
        "until [ -e /there ]; do sleep 0.01; done; while [ ! -e /go ]; do sleep 0.01; done",
    )
    service.control.wait("runnable_started", task=f"{job.name}/taskGroups/group0/tasks/0", runnable=1)
    service.control.events()
    wait_until(lambda: len(carrying(job.uid, "environ")) >= 3)
    service.batch.delete_job(name=job.name).result(timeout=30)
    assert not carrying(job.uid, "environ")
    ended = service.run(script("sleep 1000", background=True), "echo done")
    assert service.log(ended) == "done\n"
    assert not carrying(ended.uid, "environ")


def test_what_a_script_leaves_running_ends_with_it(service: Service) -> None:
    job = service.create("setsid sleep 1000 & echo", "while [ ! -e /go ]; do sleep 0.01; done")
    service.control.wait("runnable_ended", task=f"{job.name}/taskGroups/group0/tasks/0", runnable=0)
    processes = [pid for pid in carrying(job.uid, "environ") if b"\x001000\x00" in command_line(pid)]
    assert not processes


def command_line(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_the_environment(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    job = service.run(
        script("env", environment={"variables": {"A": "runnable"}}),
        environment={"variables": {"A": "task", "B": "task", "C": "task", "BATCH_TASK_INDEX": "99"}},
        task_count=2,
        task_environments=[{"variables": {"C": "zero"}}, {"variables": {"C": "one"}}],
    )
    found = dict(line.split("=", 1) for line in service.log(job, 1).splitlines())
    assert (found["A"], found["B"], found["C"]) == ("runnable", "task", "one")
    batch = {name: value for name, value in found.items() if name.startswith("BATCH_")}
    assert batch == {
        "BATCH_TASK_INDEX": "1",
        "BATCH_TASK_COUNT": "2",
        "BATCH_TASK_RETRY_ATTEMPT": "0",
        "BATCH_JOB_ID": job.name.rsplit("/", 1)[1],
        "BATCH_JOB_UID": job.uid,
    }
    of_the_emulator = set(service.environment) - {"CLOUDSDK_CONFIG"}
    assert set(found) == {"A", "B", "C", "PATH", "HOME", "LANG", "PWD", *batch, *of_the_emulator}
    assert found["GCE_METADATA_HOST"] != service.environment["GCE_METADATA_HOST"]


def test_the_machine_is_no_view_of_this_one(service: Service) -> None:
    job = service.run(
        f"ls {__file__}; ls -A /tmp /home; touch /usr/x; id -u; cat /proc/[0-9]*/comm | sort -u",
        state="SUCCEEDED",
    )
    said = service.log(job)
    assert "No such file" in said
    assert "Read-only file system" in said
    assert "\n0\n" not in said
    assert "python" not in said
    assert service.run("ls -A /home").status.state.name == "SUCCEEDED"


def test_over_the_time_of_the_task(service: Service) -> None:
    job = service.run(
        "echo begun; setsid sleep 1000 & sleep 1000",
        script("echo never", always_run=True),
        max_run_duration=seconds(5),  # of which the start of its machine takes some
        state="FAILED",
    )
    assert service.log(job) == "begun\n"
    assert exit_codes(service, job) == [50005]
    said = service.tasks(job)[0].status.status_events[-1].description
    assert said.endswith("due to task runs over the maximum runtime with exit code 50005.")
    assert not carrying(job.uid, "environ")


def test_over_the_time_of_a_runnable(service: Service) -> None:
    job = service.run(
        script("sleep 1000", timeout=seconds(0.3)),
        "echo never",
        script("echo always", always_run=True),
        state="FAILED",
    )
    assert service.log(job) == "always\n"
    assert exit_codes(service, job) == [50005]


def test_killed_by_a_signal(service: Service) -> None:
    assert exit_codes(service, service.run("kill -9 $$", state="FAILED")) == [137]


def test_tried_again_as_often_as_it_may(service: Service) -> None:
    script = "echo $BATCH_TASK_RETRY_ATTEMPT; exit 7"
    job = service.run(script, max_retry_count=2, state="FAILED")
    assert service.log(job) == "0\n1\n2\n"
    assert exit_codes(service, job) == [7, 7, 7]
    assert (
        service.log(
            service.run(
                "echo $BATCH_TASK_RETRY_ATTEMPT; exit $((1 - BATCH_TASK_RETRY_ATTEMPT))", max_retry_count=9
            )
        )
        == "0\n1\n"
    )


@pytest.mark.parametrize(
    ("action", "codes", "attempts"),
    [("RETRY_TASK", [7], 2), ("RETRY_TASK", [50001], 1), ("FAIL_TASK", [7], 1), ("FAIL_TASK", [50005], 2)],
)
def test_tried_again_where_the_policy_says_so(
    service: Service, action: str, codes: list[int], attempts: int
) -> None:
    policy = {"action": action, "action_condition": {"exit_codes": codes}}
    job = service.run("exit 7", max_retry_count=1, lifecycle_policies=[policy], state="FAILED")
    assert exit_codes(service, job) == [7] * attempts


def test_a_barrier(service: Service) -> None:
    job = service.run(
        "echo begun",
        {"barrier": {}},
        "echo $(date +%s%N) passed; exit $BATCH_TASK_INDEX",
        task_count=3,
        state="FAILED",
    )
    events = service.control.events()
    mine = [entry for entry in events if str(entry.get("task", "")).startswith(job.name)]
    first_end = max(
        entry["time"] for entry in mine if entry["event"] == "runnable_ended" and entry["runnable"] == 0
    )
    passed = [
        entry["time"] for entry in mine if entry["event"] == "runnable_started" and entry["runnable"] == 2
    ]
    assert len(passed) == 3
    assert min(passed) >= first_end


def test_a_barrier_does_not_wait_for_those_who_never_come(service: Service) -> None:
    service.run("exit $BATCH_TASK_INDEX", {"barrier": {}}, "echo passed", task_count=2, state="FAILED")


def test_a_vm_has_its_own_metadata_and_the_other_services(start: Start) -> None:
    service = start()
    service.storage.create_bucket("results")
    fetch = """#!/usr/bin/env python3
import json, os, urllib.request
def get(url, **headers):
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20).read()
root = f"http://{os.environ['GCE_METADATA_HOST']}/computeMetadata/v1/"
name = get(root + "instance/name", **{"Metadata-Flavor": "Google"}).decode()
account = get(root + "instance/service-accounts/default/email", **{"Metadata-Flavor": "Google"}).decode()
token = json.loads(get(root + "instance/service-accounts/default/token", **{"Metadata-Flavor": "Google"}))
url = os.environ["STORAGE_EMULATOR_HOST"] + "/storage/v1/b/results"
bucket = json.loads(get(url, Authorization=f"Bearer {token['access_token']}"))
job = get(root + "instance/attributes/batch-job-id", **{"Metadata-Flavor": "Google"}).decode()
print(name == os.uname().nodename, account, bucket["name"], job == os.environ["BATCH_JOB_ID"], token["expires_in"] > 3000)
"""
    job = service.run(fetch)
    assert service.log(job) == "True batch-vm@emulated.iam.gserviceaccount.com results True True\n"

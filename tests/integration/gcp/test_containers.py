"""Shards in clean containers of VMs, with backend docker inside, at the Engine of those VMs, and services that fail."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.gcp.conftest import Start
from tests.integration.test_batch import entries

FLAKY = """
from pytest_sandboxes.backends.docker import DockerBackend
from pytest_sandboxes.errors import SandboxStartError

launch = DockerBackend.launch

def fails_for_one(self, profile):
    if profile.name == "broken":
        raise SandboxStartError("the far end is on strike")
    return launch(self, profile)

DockerBackend.launch = fails_for_one
"""
SURROUNDINGS = '''
"""What is around a shard; true as well where none of this runs in one."""

import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest

OURS = ("GCE_", "GOOGLE_", "STORAGE_", "BATCH_", "CLOUDSDK_")
TASK = {}
if "SANDBOXES_SHARD" in os.environ:  # what only this test knows how to find, because it has the task's own rights
    words = Path("/proc/1/environ").read_text().split("\\0")
    TASK = dict(word.split("=", 1) for word in words if word.startswith(OURS))
ASK = """
import socket, sys
with socket.socket() as asking:
    asking.settimeout(5)
    try:
        asking.connect((sys.argv[1], int(sys.argv[2])))
        asking.sendall(b"GET / HTTP/1.0\\\\r\\\\n\\\\r\\\\n")
        print(asking.recv(12).decode())
    except OSError as error:
        print("no answer")
"""

def test_a_shard_is_told_nothing_of_its_task():
    if TASK:
        assert not [name for name in os.environ if name.startswith(OURS)]
        assert Path("/.dockerenv").exists()

@pytest.mark.sandbox(network="outbound")
def test_code_does_not_reach_the_metadata_server(sandbox):
    host, port = TASK.get("GCE_METADATA_HOST", "127.0.0.1:1").split(":")
    if TASK:
        with urllib.request.urlopen(f"http://{host}:{port}/") as answer:
            assert answer.status == 200
    for address in (host, "169.254.169.254", "127.0.0.1"):
        assert sandbox.exec("python3", "-c", ASK, address, port).stdout == "no answer\\n"

def ask(name="", content=None, token=[]):
    """The status of the answer that the task's account gets."""
    if not token:
        url = f"http://{TASK['GCE_METADATA_HOST']}/computeMetadata/v1/instance/service-accounts/default/token"
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})) as answer:
            token.append(json.load(answer)["access_token"])
    base = TASK["STORAGE_EMULATOR_HOST"]
    url = f"{base}/storage/v1/b/BUCKET/o" + (f"/{quote(name, safe='')}?alt=media" if name else "")
    if content is not None:
        url = f"{base}/upload/storage/v1/b/BUCKET/o?uploadType=media&name={quote(name, safe='')}"
    try:
        asked = urllib.request.Request(url, content, {"Authorization": f"Bearer {token[0]}"})
        with urllib.request.urlopen(asked) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code

def test_the_account_of_a_task_comes_to_runs_alone_and_lists_none():
    if TASK:
        assert ask() == 403
        assert ask("others/secret") == 403
        assert ask("others/new", b"x") == 403
        assert ask("pytest-sandboxes/guessed/lease.json") == 403
'''
FAULTS: list[tuple[str, str, dict[str, Any]]] = [
    ("batch.jobs.create", "lost_reply", {}),
    ("batch.jobs.create", "unavailable", {}),
    ("batch.jobs.get", "throttled", {}),
    ("batch.jobs.delete", "lost_reply", {}),
    ("storage.objects.insert", "lost_reply", {"resource": "*orders/*"}),
    ("storage.objects.insert", "unavailable_reply", {"resource": "*archives/*"}),
    ("storage.objects.insert", "lost_reply", {"resource": "*events/*", "times": 2, "skip": 1}),
    ("storage.objects.insert", "throttled", {"resource": "*state/*"}),
    ("storage.objects.get", "unavailable", {"resource": "*events/*"}),
    ("storage.objects.get", "expired_token", {"resource": "*archives/*"}),
    ("storage.objects.list", "expired_token", {"skip": 1}),
    ("storage.objects.list", "lost_request", {"skip": 2}),
    ("storage.batch", "lost_reply", {}),
]


def _gateway(engine: Any, image: str) -> str:
    """An address of this machine that containers could reach.

    Asked of a container, because the network itself tells it only where dockerd has found its bridge there already.
    """
    container = engine.containers.run(image, ["sleep", "60"], detach=True)
    try:
        container.reload()
        return str(container.attrs["NetworkSettings"]["Networks"]["bridge"]["Gateway"])
    finally:
        container.remove(force=True)


def test_four_shards_report_what_a_plain_run_reports_whatever_the_services_do(
    start: Start, engine: Any, python_image: str, runner_image: str
) -> None:
    gcp = start(containers=True, host=_gateway(engine, python_image))
    gcp.configure(python_image, backend="docker", vm_python=None, runner_image=runner_image)
    gcp.project.write("conftest.py", FLAKY)
    gcp.project.write("test_surroundings.py", SURROUNDINGS.replace("BUCKET", gcp.bucket))
    gcp.project.use_suite("awkward")
    if pytest.version_tuple >= (9,):
        gcp.project.use_suite("awkward_subtests")
    wheels = gcp.project.add_to_wheelhouse(
        "docker", "requests", "urllib3", "charset-normalizer", "idna", "certifi"
    )
    for method, kind, more in FAULTS:
        gcp.control.inject(method, kind, **more)  # type: ignore[arg-type]
    options = ("--doctest-modules", "--sandbox-infra-retries=1", "-rw", f"--sandbox-wheelhouse={wheels}")
    shards = gcp.run(*options, "--sandbox-shards=4")
    found = entries(gcp.project.inner.report)
    assert {(method, kind) for method, kind, _ in FAULTS} <= set(gcp.hits())
    assert len(gcp.control.events("job_created")) == 1
    assert "lost:" not in shards.stdout
    plain = gcp.project.run(*options, "--sandbox-mode=interactive", "--sandbox-backend=docker")
    expected = entries(gcp.project.inner.report)
    assert [each for each in found[1] if each not in expected[1]] == []
    assert found == expected
    assert len(found[1]) >= 45
    assert (shards.exit_code, shards.counts) == (plain.exit_code, plain.counts)

"""Several slots in one container: what becomes of the others when one of them brings it down."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from pytest_sandboxes import commands, file_operations, get_backend
from pytest_sandboxes.streams import Kept
from tests.integration.conftest import Inner

pytest.importorskip("docker", reason="the docker SDK is not installed")

PROFILES = """
profiles:
  default: {{image: {image}, slots_per_sandbox: 4, max_sandboxes: {maximum}, buffer_sandboxes: 0, memory: 400}}
"""
REMOVING = """
from contextlib import closing

import docker
import pytest

from pytest_sandboxes.backends.docker import removal

def container_of(slot):
    name = slot.sh("cat /proc/self/mountinfo | grep -o 'containers/[0-9a-f]*' | head -1").stdout
    return name.strip().partition("/")[2]

def remove(container):
    with closing(docker.from_env()) as engine:
        # while another test is removing it already, the Engine refuses, and the agent lives
        removal.remove(engine.api, container)
"""


@pytest.fixture
def project(inner: Inner, python_image: str) -> Inner:
    """A project with four slots in a container."""
    inner.write("sandboxes.yaml", PROFILES.format(image=python_image, maximum=2))
    inner.write("pytest.ini", "[pytest]\nsandbox_backend = docker\n")
    return inner


def test_whoever_brings_it_down_over_and_over_fails_and_nobody_else(project: Inner) -> None:
    project.write(
        "test_it.py",
        REMOVING
        + """
@pytest.mark.parametrize("number", range(9))
def test_it(sandbox, number):
    if number % 3 == 0:
        sandbox.exec("true")
        remove(container_of(sandbox))
    sandbox.write_text("mine", str(number))
    assert sandbox.sh("sleep 0.5; cat mine").stdout == str(number)
""",
    )
    run = project.run_apart("-n", "3")
    assert run.verdicts == {
        f"test_it[{number}]": "passed" if number % 3 else "failure" for number in range(9)
    }, run.stdout
    assert all(run.cases[f"test_it[{number}]"].attempts == 3 for number in (0, 3, 6))
    assert all(case.attempts <= 2 for case in run.cases.values() if case.verdict == "passed")
    assert "brought down its sandbox twice, alone in it" in run.cases["test_it[0]"].text


def test_memory_that_runs_out_is_held_against_nobody_until_the_test_is_alone(project: Inner) -> None:
    project.write(
        "test_it.py",
        """
        import pytest

        HOG = "data = bytearray(600 << 20); print(len(data))"

        @pytest.mark.parametrize("number", range(6))
        def test_it(sandbox, number):
            if number % 3 == 0:
                result = sandbox.exec("python3", "-c", HOG)
                assert (result.oom_killed, result.returncode) == (True, -9)
            else:
                result = sandbox.sh("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1; done; echo fine")
                assert (result.stdout, result.oom_killed) == ("fine\\n", False)
        """,
    )
    run = project.run_apart("-n", "3")
    assert run.counts == {"passed": 6}, run.stdout
    assert all(run.cases[f"test_it[{number}]"].attempts == 2 for number in (0, 3))
    assert all(case.attempts <= 2 for case in run.cases.values())


def test_memory_that_one_slot_uses_up_fails_no_innocent_neighbour(project: Inner) -> None:
    project.write(
        "hog.py",
        """
        import os
        import time

        for _ in range(25):  # small ones: the kernel kills the largest, which is the neighbour's
            if os.fork() == 0:
                data = bytearray(b"x" * (15 << 20))
                time.sleep(60)
            time.sleep(0.1)
        """,
    )
    project.write(
        "server.py",
        """
        import http.server

        data = bytearray(b"x" * (150 << 20))
        server = http.server.HTTPServer(("127.0.0.1", 8123), http.server.SimpleHTTPRequestHandler)
        print("ready", flush=True)
        server.serve_forever()
        """,
    )
    project.write(
        "test_it.py",
        """
        import time
        from pathlib import Path

        ASK = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8123/').status)"

        def wait_for(name):
            deadline = time.monotonic() + 60
            while not Path(name).exists():
                assert time.monotonic() < deadline
                time.sleep(0.05)

        def test_hog(sandbox):
            wait_for("serving")
            try:
                sandbox.exec("python3", "-c", Path("hog.py").read_text())
            finally:
                Path("eaten").touch()

        def test_innocent(sandbox):
            sandbox.write_text("server.py", Path("server.py").read_text())
            server = sandbox.popen("sh", "-c", "python3 server.py; sleep 1000")
            assert server.stdout.readline(timeout=30).strip() == "ready"
            Path("serving").touch()
            wait_for("eaten")
            assert sandbox.exec("python3", "-c", ASK).stdout.strip() == "200"
        """,
    )
    run = project.run_apart("-n", "2")
    assert run.verdicts == {"test_hog": "passed", "test_innocent": "passed"}, run.stdout
    assert run.cases["test_innocent"].attempts == 2, "the kernel has not killed its server"


@pytest.mark.parametrize("way", ["popen", "write"])
def test_no_request_of_a_lease_survives_its_reset(python_image: str, way: str) -> None:
    fields = {"image": python_image, "slots_per_sandbox": 2}
    with get_backend("docker").create_sandbox(**fields) as slot:  # type: ignore[arg-type]
        sandbox = slot._lease.behind(0).sandbox
        connection = sandbox._connection
        frames = bytearray()
        send: Any = connection.send
        hold_back: Any = frames.extend
        for _ in range(30):
            connection.send = hold_back  # type: ignore[method-assign]
            if way == "popen":
                begun = commands.start(
                    slot._lease.port(0),
                    [b"sh", b"-c", b"while :; do echo > left; sleep 0.01; done"],
                    env=None,
                    cwd=None,
                    timeout=None,
                    sinks=(Kept(), Kept()),
                    seen=lambda _: None,
                ).request
            else:
                begun = file_operations.write(slot._lease.port(0), "left", b"x", None).request
            reset = sandbox.request("reset", {}, timeout=30)
            connection.send = send  # type: ignore[method-assign]
            send(bytes(frames))  # both come in one piece: what was forked has not yet become anybody
            frames.clear()
            assert reset.future.result(60) == {**reset.future.result(), "done": True}
            begun.kill()
            assert slot.sh("sleep 0.02; ls -A").stdout == ""


def test_leases_share_a_container_and_those_that_have_lost_one_do_not(project: Inner) -> None:
    project.write(
        "test_it.py",
        REMOVING
        + """
ATTEMPTS = []

def test_it(sandbox, sandbox_factory):
    with sandbox_factory() as other:
        ATTEMPTS.append(sandbox.name == other.name)
        if len(ATTEMPTS) == 1:
            remove(container_of(sandbox))
            sandbox.exec("true")  # else the lease may be given back before anybody has noticed
    assert ATTEMPTS == [True, False]
""",
    )
    run = project.run()
    assert run.verdicts == {"test_it": "passed"}, run.stdout


def test_a_kept_slot_takes_its_container_out_of_the_pool(project: Inner) -> None:
    project.write(
        "test_it.py",
        """
        import pytest

        NAMES = []

        @pytest.mark.parametrize("number", range(2))
        def test_it(sandbox, number):
            NAMES.append(sandbox.name)
            sandbox.write_text("evidence", "here")
            assert number
            assert NAMES[0] != NAMES[1]
        """,
    )
    run = project.run("--sandbox-keep-failed")
    enter, end = (
        next(line for line in run.stdout.splitlines() if line.startswith(f"  {word}")).split()[1:]
        for word in ("enter:", "end:")
    )
    try:
        assert run.verdicts == {"test_it[0]": "failure", "test_it[1]": "passed"}, run.stdout
        command = [word for word in enter if word != "-it"][:-1]
        assert subprocess.check_output([*command, "cat", "evidence"]) == b"here"
    finally:
        subprocess.run(end, check=True, capture_output=True)


def test_a_slot_whose_container_others_use_is_not_kept(project: Inner) -> None:
    project.write(
        "test_it.py",
        """
        import pytest

        @pytest.fixture(scope="module")
        def neighbour(sandbox_factory):
            with sandbox_factory() as slot:
                yield slot

        def test_it(neighbour, sandbox):
            assert neighbour.name == sandbox.name
            assert not sandbox.exec("true").success
        """,
    )
    run = project.run("--sandbox-keep-failed")
    assert run.verdicts == {"test_it": "failure"}, run.stdout
    run.result.stdout.fnmatch_lines(
        ["*test_it.py::test_it: not kept: its sandbox docker-* is shared, and in use by *"]
    )


@pytest.mark.parametrize("arguments", [[], ["-n", "1"]])
def test_more_slots_than_there_can_be(project: Inner, arguments: list[str]) -> None:
    project.write(
        "test_it.py",
        "import pytest\n@pytest.mark.sandbox(slots=8)\ndef test_it(sandbox):\n    assert len(sandbox) == 8\n",
    )
    assert project.run_apart(*arguments).counts == {"passed": 1}
    refused = project.run_apart(*arguments, "--sandbox-max-sandboxes=1")
    assert refused.exit_code == pytest.ExitCode.USAGE_ERROR
    said = refused.stdout + refused.stderr
    assert (
        "--sandbox-max-sandboxes is 1, but test_it.py::test_it asks for 8 slots at once, which takes 2 sandboxes"
        in said
    )


def test_several_slots_contradict_a_sandbox_for_each(project: Inner, python_image: str) -> None:
    project.write(
        "sandboxes.yaml",
        f"profiles: {{default: {{image: {python_image}, slots_per_sandbox: 4, isolation: sandbox}}}}\n",
    )
    project.write("test_it.py", "def test_it(sandbox):\n    pass\n")
    run = project.run()
    assert run.exit_code == pytest.ExitCode.USAGE_ERROR
    complaint = (
        "ERROR: sandboxes.yaml:1: slots_per_sandbox of profile 'default' is 4, but with isolation 'sandbox' "
        "(sandboxes.yaml:1) each lease has a sandbox to itself: leave the one or the other out"
    )
    run.result.stderr.fnmatch_lines([complaint])


def test_a_sandbox_for_each_by_option_goes_without_several_slots(project: Inner) -> None:
    project.write("test_it.py", "def test_it(sandbox):\n    assert sandbox.exec('true').success\n")
    run = project.run("--sandbox-isolation=sandbox")
    assert run.counts == {"passed": 1}, run.stdout
    assert "slots_per_sandbox not used by backend docker" in run.stdout

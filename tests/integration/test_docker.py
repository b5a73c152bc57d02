"""Backend docker on a real Engine: matrix, images, ends of runs, and what bad input gets."""

from __future__ import annotations

import os
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import ROOT, Inner
from tests.waiting import wait_until

docker = pytest.importorskip("docker", reason="the docker SDK is not installed")

PATIENCE = 30.0
PROFILES = """
profiles:
  default: {{image: {python}, buffer_sandboxes: 1}}
  testbed: {{image: {testbed}, isolation: sandbox}}
  gpu: {{image: {python}, gpu: "any:2"}}
  model: {{image: {python}, gpu: "A100:2"}}
  cores: {{image: {python}, cpu: 9999}}
  many: {{image: {python}, slots_per_sandbox: 257}}
  nobodys: {{image: {python}, isolation: sandbox, user: nosuch}}
  misspelt: {{image: no image}}
  unpulled: {{image: "127.0.0.1:1/it"}}
  shared: {{image: {python}, slots_per_sandbox: 2, workspace_base: /tmp/work}}
"""


@pytest.fixture
def project(inner: Inner, python_image: str, testbed_image: str) -> Inner:
    """A project whose sandboxes are containers of the tests' own images."""
    inner.write(
        "sandboxes.yaml",
        PROFILES.format(python=python_image, testbed=testbed_image),
    )
    inner.write("pytest.ini", "[pytest]\nsandbox_backend = docker\n")
    return inner


def containers(engine: Any, marker: str) -> list[Any]:
    """Containers, in whatever state, whose workspace has this name."""
    found = []
    for container in engine.api.containers(all=True):
        try:
            described = engine.api.inspect_container(container["Id"])
        except docker.errors.NotFound:
            continue
        if any(marker in place for place in described["HostConfig"].get("Tmpfs") or {}):
            found.append(container)
    return found


def wait_until_gone(engine: Any, marker: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while left := containers(engine, marker):
        assert time.monotonic() < deadline, f"containers are left: {left}"
        time.sleep(0.02)


@pytest.fixture
def busy_run(tmp_path: Path, engine: Any, python_image: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A run of pytest in the middle of a command, and a name in its containers."""
    marker = f"busy-{os.getpid()}-{time.monotonic_ns()}"
    (tmp_path / "sandboxes.yaml").write_text(
        f"profiles: {{default: {{image: {python_image}, workspace_base: /{marker}}}}}\n"
    )
    (tmp_path / "test_busy.py").write_text(
        "import pathlib\n"
        "def test_busy(sandbox):\n"
        "    sandbox.popen('sh', '-c', 'setsid sleep 1000 & sleep 1000')\n"
        "    pathlib.Path('ready').touch()\n"
        "    sandbox.sh('trap \"\" TERM; setsid sleep 1000 & sleep 1000', timeout=1000)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--sandbox-backend=docker"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def is_busy() -> bool:
        assert run.poll() is None, "it ended by itself"
        return (tmp_path / "ready").exists()

    wait_until(is_busy, "its command")
    yield run, marker
    run.kill()
    run.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_container_outlives_its_run(
    engine: Any, busy_run: tuple[subprocess.Popen[bytes], str], number: signal.Signals
) -> None:
    run, marker = busy_run
    assert containers(engine, marker), "the counter sees nothing"
    run.send_signal(number)
    wait_until_gone(engine, marker)
    run.wait(PATIENCE)


def test_an_image_of_swe_bench_runs_as_it_is(project: Inner, testbed_image: str) -> None:
    project.write(
        "test_it.py",
        """
        import pytest

        pytestmark = pytest.mark.sandbox(profile="testbed")

        def test_its_own_ways(sandbox):
            assert sandbox.workspace == "/testbed"
            assert sandbox.sh("id -u; git status --short").stdout == "0\\n"
            assert len(sandbox.exec("git", "log", "--oneline").stdout.splitlines()) == 2
            tests = sandbox.exec("python3", "-m", "pytest", "-q")
            assert (tests.returncode, "1 failed, 1 passed" in tests.stdout) == (1, True), tests
            sandbox.sh("touch /left; git rm -rq .", check=True)

        def test_nothing_is_left_of_that(sandbox):
            assert sandbox.sh("ls /left; git status --short").stdout == ""
        """,
    )
    run = project.run()
    assert run.counts == {"passed": 2}, run.stdout
    assert run.cases["test_its_own_ways"].properties["image"] == testbed_image


def test_a_kept_slot_can_be_entered_until_it_is_ended(project: Inner, engine: Any) -> None:
    project.write(
        "test_it.py",
        """
        def test_it(sandbox):
            sandbox.write_text("evidence", "here")
            assert False
        """,
    )
    run = project.run("--sandbox-keep-failed")
    enter, end = (
        next(line for line in run.stdout.splitlines() if line.startswith(f"  {word}")).split()[1:]
        for word in ("enter:", "end:")
    )
    try:
        assert project.run("--deselect=test_it.py").exit_code == pytest.ExitCode.NO_TESTS_COLLECTED
        project.write("test_it.py", "def test_it(sandbox):\n    pass\n")
        assert project.run().counts == {"passed": 1}, "another run, which sweeps"
        command = [word for word in enter if word != "-it"][:-1]
        assert subprocess.check_output([*command, "cat", "evidence"]) == b"here"
    finally:
        subprocess.run(end, check=True, capture_output=True)


def test_local_and_docker_in_one_run(project: Inner) -> None:
    project.write("test_it.py", "def test_it(sandbox):\n    assert sandbox.sh('echo $HOME').success\n")
    run = project.run("--sandbox-backend=local,docker")
    assert run.verdicts == {"test_it[local]": "passed", "test_it[docker]": "passed"}


class Forward(socketserver.BaseRequestHandler):
    """Passes a TCP connection on to the Engine's socket."""

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect("/var/run/docker.sock")
            ends = {self.request: engine, engine: self.request}
            while ends:
                for ready in select.select(list(ends), [], [])[0]:
                    data = ready.recv(65536)
                    if data:
                        ends[ready].sendall(data)
                    else:
                        ends.pop(ready).shutdown(socket.SHUT_WR)


def test_an_engine_by_tcp(project: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write(
        "test_it.py", "def test_it(sandbox):\n    assert sandbox.exec('cat', input='x' * 1000000).success\n"
    )
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Forward) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_address[1]}")
        run = project.run()
        server.shutdown()
    assert run.counts == {"passed": 1}, run.stdout


def test_a_container_that_somebody_removes_is_replaced(project: Inner, engine: Any) -> None:
    project.write(
        "test_it.py",
        """
        from contextlib import closing

        import docker

        def test_it(sandbox):
            name = sandbox.sh("cat /proc/self/mountinfo | grep -o 'containers/[0-9a-f]*' | head -1").stdout
            container = name.strip().partition("/")[2]
            if not TRIED:
                TRIED.append(container)
                with closing(docker.from_env()) as engine:
                    engine.api.remove_container(container, force=True)
            assert sandbox.sh("echo fine").stdout == "fine\\n"

        TRIED = []
        """,
    )
    run = project.run()
    assert run.verdicts == {"test_it": "passed"}, run.stdout
    assert run.cases["test_it"].attempts == 2


@pytest.mark.parametrize(
    ("arguments", "environment", "complaint"),
    [
        (
            ["--sandbox-profile=gpu"],
            {},
            r"sandboxes.yaml:\d+: profile 'gpu' asks for gpu 'any:2'.*has no runtime for GPUs: install",
        ),
        (
            ["--sandbox-profile=nobodys"],
            {},
            r"sandboxes.yaml:\d+: user of profile 'nobodys' is 'nosuch', whom image .* does not have: name one",
        ),
        (
            ["--sandbox-profile=misspelt"],
            {},
            r"sandboxes.yaml:\d+: image of profile 'misspelt': 'no image' is no name of an image: .*; correct",
        ),
        (
            ["--sandbox-profile=unpulled"],
            {},
            r"sandboxes.yaml:\d+: image of profile 'unpulled': the Docker Engine at .* has no image '127.0.0.1:1/it'",
        ),
        (
            ["--sandbox-profile=model"],
            {},
            r"sandboxes.yaml:\d+: gpu of profile 'model' cannot be kept: a Docker Engine knows only how many",
        ),
        (
            ["--sandbox-profile=cores"],
            {},
            r"sandboxes.yaml:\d+: cpu of profile 'cores' is 9999, but the Docker Engine at .* has \d+ cores: lower it",
        ),
        (
            ["--sandbox-profile=many"],
            {},
            r"slots_per_sandbox of profile 'many' is 257, but a container serves 256 at most: lower it",
        ),
        (
            ["--sandbox-profile=shared"],
            {},
            r"workspace_base of profile 'shared' is '/tmp/work', but /tmp is no place for workspaces in a container: choose another",
        ),
        (
            [],
            {"DOCKER_HOST": "unix:///nowhere.sock"},
            "no Docker Engine answers at unix:///nowhere.sock.*start it",
        ),
        ([], {"DOCKER_HOST": "tcp://127.0.0.1:1"}, "no Docker Engine answers at tcp://127.0.0.1:1.*start it"),
        ([], {"DOCKER_HOST": "nonsense://x"}, "no Docker Engine answers at nonsense://x"),
        ([], {"DOCKER_CONTEXT": "no-such-context"}, "no-such-context"),
    ],
)
def test_bad_input_is_one_sentence(
    project: Inner,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    environment: dict[str, str],
    complaint: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    project.write("test_it.py", "def test_it(sandbox):\n    pass\n")
    run = project.run_apart(
        *arguments
    )  # the SDK leaves the sockets of connections open that it could not make
    assert run.exit_code == pytest.ExitCode.USAGE_ERROR, run.stdout
    assert "Traceback" not in run.stdout + run.stderr
    run.result.stderr.re_match_lines([f"ERROR: .*{complaint}.*"])


def test_without_the_sdk(project: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)
    project.write("test_it.py", "def test_it(sandbox):\n    pass\n")
    run = project.run()
    assert run.exit_code == pytest.ExitCode.USAGE_ERROR
    run.result.stderr.fnmatch_lines(["ERROR: *pip install 'pytest-sandboxes?docker?'*"])

"""Engines behind SSH and TLS: what holds for both ways there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_sandboxes import get_backend
from pytest_sandboxes.backends.docker import building
from tests.integration.conftest import ROOT, Inner
from tests.integration.docker_remote.conftest import Remote, complaint
from tests.integration.test_docker import PATIENCE, containers, wait_until_gone
from tests.threads import live_threads
from tests.waiting import wait_until

docker = pytest.importorskip("docker", reason="the docker SDK is not installed")

BUSY = """
import multiprocessing
import os
import pathlib
import time

def test_busy(sandbox):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True)
    child.start()
    pathlib.Path("ready").write_text(str(child.pid))
    sandbox.sh('trap "" TERM; setsid sleep 1000 & sleep 1000', timeout=1000)
"""


def test_tests_run_there_as_here(remote: Remote, inner: Inner, python_image: str) -> None:
    inner.write("sandboxes.yaml", f"profiles: {{default: {{image: {python_image}, max_sandboxes: 3}}}}\n")
    inner.write(
        "test_it.py",
        """
        import threading

        import pytest

        def test_much_either_way(sandbox):
            data = bytes(range(256)) * 20_000
            sandbox.write_bytes("data", data)
            assert sandbox.read_bytes("data") == data
            assert sandbox.exec("cat", "data", input=data).stdout_bytes == data

        @pytest.mark.sandbox(slots=3)
        def test_several_at_once(sandbox):
            assert [slot.sh("echo $((6 * 7))").stdout for slot in sandbox] == ["42\\n"] * 3
        """,
    )
    before = live_threads()
    run = inner.run("--sandbox-backend=docker")
    assert run.counts == {"passed": 2}, run.stdout
    assert not live_threads() - before
    assert not remote.carriers()


@pytest.fixture
def busy_run(
    remote: Remote, tmp_path: Path, python_image: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A run in the middle of a command, with a forked child that lives on; and a name in its containers."""
    marker = f"remote-{os.getpid()}-{time.monotonic_ns()}"
    (tmp_path / "sandboxes.yaml").write_text(
        f"profiles: {{default: {{image: {python_image}, workspace_base: /{marker}}}}}\n"
    )
    (tmp_path / "test_busy.py").write_text(BUSY)
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--sandbox-backend=docker"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    ready = tmp_path / "ready"

    def is_busy() -> bool:
        assert run.poll() is None, "it ended by itself"
        return ready.exists() and ready.read_text() != ""

    wait_until(is_busy, "its command")
    yield run, marker
    run.kill()
    run.wait()
    try:
        os.kill(int(ready.read_text()), signal.SIGKILL)
    except ProcessLookupError:
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_its_run(
    remote: Remote, busy_run: tuple[subprocess.Popen[bytes], str], number: signal.Signals
) -> None:
    run, marker = busy_run
    assert containers(remote.engine, marker), "the counter sees nothing"
    if remote.mark is not None:
        wait_until(remote.carriers, "a process of its own")
    run.send_signal(number)
    begin = time.monotonic()
    wait_until_gone(remote.engine, marker)
    assert time.monotonic() - begin < 20, "it was the heartbeat's deadline that ended it"
    if number == signal.SIGINT:
        run.wait(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while left := remote.carriers():
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def test_images_are_built_there_as_here(
    remote: Remote, inner: Inner, python_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = f"test-{os.getpid()}-{time.monotonic_ns()}"  # tests beside this one build images there as well
    monkeypatch.setattr(building, "owner", lambda: owner)
    inner.write("image/Dockerfile", f"FROM {python_image}\nCOPY unique /unique\n")
    inner.write("image/unique", f"{time.monotonic_ns()}\n" * 100_000)
    inner.write("sandboxes.yaml", "profiles: {default: {docker: {context: image}}}\n")
    inner.write("test_it.py", "def test_it(sandbox):\n    assert sandbox.sh('cat /unique').success\n")
    for expected in (2, 0):
        run = inner.run("--sandbox-backend=docker")
        assert run.counts == {"passed": 1}, run.stdout
        assert run.stdout.count("building image from image/Dockerfile") == expected, run.stdout
    (made,) = remote.engine.api.images(filters={"label": f"{building._OWNER}={owner}"})
    (name,) = made["RepoTags"]
    assert name.startswith(f"{building.REPOSITORY}:")
    remote.engine.api.remove_image(name)


def test_an_interrupted_connection_loses_the_sandbox_and_nothing_else(
    by_ssh: Remote, monkeypatch: pytest.MonkeyPatch, inner: Inner, python_image: str
) -> None:
    for name, value in by_ssh.environment.items():
        monkeypatch.setenv(name, value)
    inner.write("sandboxes.yaml", f"profiles: {{default: {{image: {python_image}, buffer_sandboxes: 0}}}}\n")
    inner.write(
        "test_it.py",
        f"""
        import os
        import signal

        from tests.processes import carrying

        def test_it(sandbox):
            if not TRIED:
                TRIED.append(1)
                for connection in carrying({by_ssh.mark!r}, "cmdline"):
                    os.kill(connection, signal.SIGKILL)
            assert sandbox.sh("echo fine").stdout == "fine\\n"

        TRIED = []
        """,
    )
    run = inner.run("--sandbox-backend=docker")
    assert run.verdicts == {"test_it": "passed"}, run.stdout
    assert run.cases["test_it"].attempts == 2


def test_a_context_that_leads_there(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python_image: str
) -> None:
    for name in ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    subprocess.run(
        ["docker", "context", "create", "there", "--docker", ",".join(remote.context)],
        check=True,
        capture_output=True,
    )
    monkeypatch.setenv("DOCKER_CONTEXT", "there")
    before = {each["Id"] for each in remote.engine.api.containers(all=True)}
    with get_backend("docker").create_sandbox(image=python_image) as sandbox:
        assert sandbox.sh("echo here").stdout == "here\n"
        assert {each["Id"] for each in remote.engine.api.containers(all=True)} - before


def test_a_damaged_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    subprocess.run(
        ["docker", "context", "create", "it", "--docker", "host=tcp://x:1"], check=True, capture_output=True
    )
    (meta,) = tmp_path.rglob("meta.json")
    meta.write_text("{")
    monkeypatch.setenv("DOCKER_CONTEXT", "it")
    assert "'it', which DOCKER_CONTEXT names, cannot be read" in complaint()

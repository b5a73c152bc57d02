"""An Engine that goes away or fills up in the middle of a run: no wrong verdict, and an end."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.engine.own import OwnEngine, own_engine
from tests.integration.conftest import Inner, Run

PATIENCE = 60.0
SUITE = """
import time
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range(3))
def test_it(sandbox, number):
    if number == 1 and not Path("wanted").exists():
        Path("wanted").touch()
        while not Path("happened").exists():
            time.sleep(0.05)
    assert sandbox.sh("echo fine").stdout == "fine\\n"
    assert number != 2
"""


@pytest.fixture(scope="module")
def running(engine: Any, python_image: str) -> Iterator[OwnEngine]:
    if os.geteuid():
        pytest.skip("only root can start dockerd")
    if not shutil.which("dockerd"):
        pytest.skip("no dockerd is installed")
    with own_engine(megabytes=700) as found:
        found.load(python_image)
        yield found


@pytest.fixture
def project(inner: Inner, running: OwnEngine, python_image: str, monkeypatch: pytest.MonkeyPatch) -> Inner:
    """A project whose sandboxes are containers of an Engine that a test can do what it likes with."""
    if running.docker("version", check=False).returncode:  # an earlier test has ended it
        running.start()
    monkeypatch.setenv("DOCKER_HOST", running.address)
    inner.write(
        "sandboxes.yaml",
        f"profiles: {{default: {{image: {python_image}, max_sandboxes: 1, buffer_sandboxes: 0}}}}",
    )
    inner.write("pytest.ini", "[pytest]\nsandbox_backend = docker\n")
    inner.write("test_it.py", SUITE)
    return inner


def run_while(project: Inner, happening: Callable[[], object]) -> Run:
    """Run the project's tests, in the second of which something happens to their Engine."""

    def happen() -> None:
        deadline = time.monotonic() + PATIENCE
        while not (project.path / "wanted").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        happening()
        (project.path / "happened").touch()

    thread = threading.Thread(target=happen)
    thread.start()
    try:
        # in a process of its own: the SDK leaves the sockets of connections open that it could not make
        return project.run_apart()
    finally:
        thread.join()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_engine_that_is_started_anew_is_waited_for(
    project: Inner, running: OwnEngine, how: signal.Signals
) -> None:
    starting = threading.Timer(1, running.start)

    def happen() -> None:
        running.stop(how)
        starting.start()

    run = run_while(project, happen)
    starting.join()
    assert run.verdicts == {"test_it[0]": "passed", "test_it[1]": "passed", "test_it[2]": "failure"}, (
        run.stdout
    )
    assert run.cases["test_it[1]"].attempts == 2


def test_an_engine_that_is_gone_is_no_wrong_answer(project: Inner, running: OwnEngine) -> None:
    project.write(
        "conftest.py", "from pytest_sandboxes.backends.docker import engine\n\nengine.PATIENCE = 1.0\n"
    )
    run = run_while(project, running.stop)
    assert run.verdicts == {"test_it[0]": "passed", "test_it[1]": "error", "test_it[2]": "error"}, run.stdout
    for name in ("test_it[1]", "test_it[2]"):
        assert f"the Docker Engine at {running.address} (DOCKER_HOST) failed" in run.cases[name].text
        assert "see whether it runs" in run.cases[name].text


def test_a_full_disk(project: Inner, running: OwnEngine) -> None:
    ballast = running.data / "ballast"
    try:
        # what a buffer holds would be written once more at the end of the block, and fail there
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(1 << 20))
        run = project.run()
    finally:
        ballast.unlink(missing_ok=True)
    assert run.exit_code == pytest.ExitCode.USAGE_ERROR, run.stdout
    run.result.stderr.re_match_lines(["ERROR: .*no space left on device; free some on the Engine's disk: .*"])
    (project.path / "wanted").touch()
    assert project.run().counts == {"passed": 2, "failed": 1}

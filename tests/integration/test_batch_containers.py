"""Shards of this machine in containers of their own, with backend docker inside, at the same Engine."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import closing
from typing import Any

import pytest

from pytest_sandboxes.backends.owner import process
from pytest_sandboxes.batch.workplace import Workplace
from tests.integration.batch_projects import BatchProject, project, wheelhouse
from tests.waiting import DEADLINE

__all__ = ["project", "wheelhouse"]

SUITE = """
import os
import sys
from pathlib import Path

import pytest

@pytest.mark.parametrize("number", range(2))
def test_it(sandbox, number, capfd):
    assert Path("/.dockerenv").exists()
    assert not Path({home!r}).exists()
    assert os.environ.get("OWN_SECRET") is None
    assert "/usr/local/bin" in os.environ["PATH"]  # the image's
    assert sandbox.exec("python3", "-c", "print(1)").stdout == "1\\n"
    print("this is no event")
    assert number == 0
"""
DOCKER = ("docker", "requests", "urllib3", "charset-normalizer", "idna", "certifi")


def test_shards_run_in_clean_containers(
    project: BatchProject, python_image: str, runner_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWN_SECRET", "1")
    project.write(
        "sandboxes.yaml", f"profiles: {{default: {{image: '{python_image}', buffer_sandboxes: 0}}}}\n"
    )
    test = project.write("test_it.py", SUITE.format(home=str(project.path)))
    options = ["--sandbox-backend=docker", "--sandbox-shards=1", f"--sandbox-runner-image={runner_image}"]
    run = project.run(*options, f"--sandbox-wheelhouse={project.add_to_wheelhouse(*DOCKER)}")
    assert run.verdicts == {"test_it[0]": "passed", "test_it[1]": "failure"}, run.stdout
    assert "lost:" not in run.stdout
    assert f"{test.name}:" in run.cases["test_it[1]"].text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_however_the_controller_ends_its_containers_are_gone(
    project: BatchProject, engine: Any, runner_image: str, number: signal.Signals
) -> None:
    project.write("test_it.py", "import time\n\ndef test_it(): time.sleep(100_000)\n")
    options = ("--sandbox-shards=1", f"--sandbox-runner-image={runner_image}")
    command = [sys.executable, "-m", "pytest", *project.arguments(*options)]
    begun = int(time.time()) - 1
    with subprocess.Popen(command, cwd=project.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
        ours = {"label": f"pytest-sandboxes.process={process(run.pid)}"}
        try:
            said = engine.api.events(
                since=begun, filters={**ours, "event": ["start", "destroy"]}, decode=True
            )
            assert next(said)["Action"] == "start"
            run.send_signal(number)
            output, _ = run.communicate(timeout=DEADLINE)
        finally:
            run.kill()
    with closing(said):  # which ends when the Engine says nothing for a minute
        assert next(said)["Action"] == "destroy"
    assert engine.api.containers(all=True, filters=ours) == []
    assert run.returncode == (2 if number == signal.SIGINT else -number), output.decode()
    assert b"Traceback" not in output
    with Workplace():  # as the next run does, removes what only this machine has
        pass


def test_an_image_without_python(project: BatchProject, busybox_image: str) -> None:
    project.write("test_it.py", "def test_it(): pass\n")
    run = project.run_here(f"--sandbox-runner-image={busybox_image}")
    assert run.exit_code == 4
    assert 'exec: "python3": executable file not found' in run.stderr
    assert "batch mode needs an image with the Python that runs pytest" in run.stderr


def test_an_image_that_is_nowhere(project: BatchProject, engine: Any) -> None:
    project.write("test_it.py", "def test_it(): pass\n")
    run = project.run_here("--sandbox-runner-image=pytest-sandboxes.invalid/nothing")
    assert run.exit_code == 4
    assert "--sandbox-runner-image is 'pytest-sandboxes.invalid/nothing': the Docker Engine at " in run.stderr

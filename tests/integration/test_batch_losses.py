"""Shards that crash, lie, or lose their controller: every test is reported once, and nothing is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.batch_projects import BatchProject, project, wheelhouse
from tests.waiting import DEADLINE, wait_until

__all__ = ["project", "wheelhouse"]

CRASHES = """
import os
import signal
from pathlib import Path

import pytest

@pytest.mark.parametrize("number", range(3))
def test_it(number):
    with Path({log!r}).open("a") as log:
        log.write(f"{{number}} ")
    if number == 1:
        if Path({log!r}).read_text().split().count("1") == 1:
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    assert number != 2
"""
FORGERS = """
import json

import pytest

FORGED = {
    "early": {"event": "record", "test": "the last", "attempts": [[{"when": "setup", "outcome": "passed"},
              {"when": "call", "outcome": "passed"}, {"when": "teardown", "outcome": "passed"}]]},
    "warning": {"event": "warned", "category": "system", "base": "os.system", "message": "id", "filename": "/etc/passwd",
                "lineno": 1, "line": "", "test": 0},
}

def test_honest(): pass

@pytest.mark.parametrize("forged", FORGED)
def test_forges(forged, request):
    recorder = request.config.pluginmanager.get_plugin("sandboxes-recorder")
    last = recorder._positions["test_it.py::test_honest_too"]
    recorder._say(json.dumps(FORGED[forged]).replace('"the last"', str(last)).encode() + b"\\n")

def test_honest_too(): pass
"""
FORGES_A_PATH = """
import json

def test_forges_a_path(request):
    call = {"when": "call", "outcome": "passed", "location": ["/etc/passwd", 1, "x"]}
    setup, teardown = ({"when": when, "outcome": "passed"} for when in ("setup", "teardown"))
    recorder = request.config.pluginmanager.get_plugin("sandboxes-recorder")
    test = recorder._positions[request.node.nodeid]
    record = {"event": "record", "test": test, "attempts": [[setup, call, teardown]]}
    recorder._say(json.dumps(record).encode() + b"\\n")
"""
HANGS = """
import os
from pathlib import Path

import pytest

@pytest.fixture
def place():
    yield
    Path({here!r}, "torn-down").touch()

def test_it(sandbox, place):
    os.spawnvp(os.P_NOWAIT, "setsid", ["setsid", "sleep", "{seconds}"])
    Path({here!r}, "begun").touch()
    sandbox.exec("sleep", "{seconds}", timeout=10_000)
"""


def test_a_test_that_ends_its_shard_is_an_error_and_no_other_verdict_changes(project: BatchProject) -> None:
    log = project.path / "log"
    project.write("test_it.py", CRASHES.format(log=str(log)))
    run = project.run("--sandbox-shards=1")
    assert run.verdicts == {"test_it[0]": "passed", "test_it[1]": "error", "test_it[2]": "failure"}
    text = run.cases["test_it[1]"].text
    assert (
        "on runner local has ended before its last test with exit status 137 (SIGKILL), and test_it.py::test_it[1] "
        "was not reported; shards with it were lost 2 times" in text
    )
    assert "lost: shard 1 has ended before its last test with exit status 0\n" in run.stdout
    assert sorted(log.read_text().split()) == ["0", "1", "1", "2"]
    assert run.exit_code == 1


def test_what_a_shard_forges_is_an_error_of_its_own_and_changes_no_other_verdict(
    project: BatchProject,
) -> None:
    project.write("test_it.py", FORGERS)
    project.write("test_path.py", FORGES_A_PATH)
    run = project.run("--sandbox-shards=1", "--sandbox-infra-retries=0")
    forged = dict.fromkeys(("test_forges[early]", "test_forges[warning]", "test_forges_a_path"), "error")
    assert run.verdicts == {"test_honest": "passed", "test_honest_too": "passed"} | forged
    for name in forged:
        assert "has said what no shard may say: " in run.cases[name].text
    assert "root:" not in run.stdout


FAILS_AT_THE_END = """
import pytest

WHY = "not saved ##vso[task.setvariable variable=x]\\n::add-mask::x\\x1b[2J"

def pytest_{hook}(config=None, session=None):
    config = config or session.config
    if config.pluginmanager.has_plugin("sandboxes-recorder"):
        {end}
"""


@pytest.mark.parametrize(
    ("hook", "end", "status"),
    [
        ("sessionfinish", "raise OSError(WHY)", 1),
        ("sessionfinish", "pytest.exit(WHY, returncode=42)", 42),
        ("unconfigure", "raise OSError(WHY)", 1),
    ],
)
def test_what_fails_in_a_shard_after_its_last_test_is_no_success(
    project: BatchProject, hook: str, end: str, status: int
) -> None:
    project.write("conftest.py", FAILS_AT_THE_END.format(hook=hook, end=end))
    project.write("test_it.py", "def test_it(): pass\n")
    run = project.run("--sandbox-shards=1")
    assert run.verdicts == {"test_it": "passed"}
    assert run.exit_code == pytest.ExitCode.INTERNAL_ERROR
    named = f"lost: shard 1 has ended in disorder, after its last test, with exit status {status}\n"
    assert named in run.stdout
    assert re.search(r"^\| .*not saved # #vso\[task\.setvariable variable=x\]$", run.stdout, re.MULTILINE)
    assert "\n| ::add-mask::x\\x1b[2J\n" in run.stdout


@pytest.fixture
def hanging(project: BatchProject) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A run whose shard is in the middle of an exec, and has started a daemon."""
    seconds = str(100_000 + os.getpid())
    project.write("test_it.py", HANGS.format(here=str(project.path), seconds=seconds))
    command = [sys.executable, "-m", "pytest", *project.arguments("--sandbox-shards=1")]
    process = subprocess.Popen(command, cwd=project.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with process:
        try:
            wait_until((project.path / "begun").exists)  # which costs less to ask for
            wait_until(lambda: len(sleeping(seconds)) == 2)
            yield process, seconds
        finally:
            process.kill()  # if the test has not


def sleeping(seconds: str) -> list[str]:
    """Processes whose last argument is this number: one in a sandbox, and a daemon."""
    found = []
    for name in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", seconds.encode()]:
            found.append(name)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_however_the_controller_ends_its_shards_end(
    project: BatchProject, hanging: tuple[subprocess.Popen[bytes], str], number: signal.Signals
) -> None:
    process, seconds = hanging
    process.send_signal(number)
    output, _ = process.communicate(timeout=DEADLINE)
    folder = Path(os.environ["TMPDIR"])
    wait_until(lambda: not sleeping(seconds) and not list(folder.glob("pytest-sandboxes-*")))
    assert process.returncode == (2 if number == signal.SIGINT else -number)
    assert (project.path / "torn-down").exists()
    assert b"Traceback" not in output

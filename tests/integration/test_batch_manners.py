"""Batch mode behaves as a plain run does: options that end runs early or choose tests, workers, where a project lies."""

from __future__ import annotations

import json
import os
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.integration.batch_projects import BatchProject, project, wheelhouse
from tests.integration.terminal import on_terminal, screen
from tests.integration.test_batch import entries

__all__ = ["project", "wheelhouse"]

ONE_FAILS = """
import time

import pytest

@pytest.mark.parametrize("number", range(4))
def test_it(number):
    if number == 3:
        time.sleep(100_000)
    assert number != 1
"""
SURROUNDINGS = """
import json
import os
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import lib
import settled

def test_it(tmp_path, request):
    assert lib.__file__ == str(Path(__file__).parents[1] / "src" / "lib.py")
    assert os.environ.get("OWN_SECRET") is None
    assert Path.home() != Path({home!r})
    assert Path(sys.prefix) != Path({prefix!r})
    assert not [each for each in sys.path if each.startswith({prefix!r})]
    assert Path(pytest.__file__).is_relative_to(sys.prefix)
    assert Path.cwd() == Path(__file__).parents[3]
    assert request.config.getini("junit_suite_name") == "settled"
    place = Path(sys.prefix).parent
    assert all(each.is_relative_to(place) for each in (tmp_path, Path.cwd(), Path.home()))
    pytest.fail(str(Path(__file__)))
"""
WORKERS = """
import os

import pytest

@pytest.mark.sandbox(retry_safe=False)
@pytest.mark.parametrize("number", range(6))
def test_it(sandbox, worker_id, number, record_property):
    record_property("worker", worker_id)
    if number == 4:
        os._exit(1)
    assert sandbox.exec("echo", "1").stdout == "1\\n"

def test_crashes(): os._exit(1)
"""
THREE_FAIL = """
import pytest

@pytest.mark.parametrize("number", range(4))
def test_it(number):
    assert number == 0
"""
DOCKER = """
import pytest

@pytest.mark.parametrize("number", range(2))
def test_it(sandbox, number):
    assert sandbox.exec("cat", "/proc/1/comm").returncode == 0
    assert sandbox.backend == "docker"
"""


def test_the_first_failure_ends_all_shards_and_last_failed_runs_it_again(project: BatchProject) -> None:
    project.write("test_it.py", ONE_FAILS)
    run = project.run("-x", "--sandbox-shards=2", "-o", "cache_dir=cache")
    assert (run.exit_code, run.verdicts["test_it[1]"]) == (1, "failure")
    assert "test_it[3]" not in run.verdicts
    assert "stopping after 1 failures" in run.stdout
    durations = json.loads((project.path / "cache/v/sandboxes/durations").read_text())
    assert "test_it.py::test_it[1]" in durations
    again = project.run("--lf", "--sandbox-shards=2", "-o", "cache_dir=cache")
    assert again.verdicts == {"test_it[1]": "failure"}
    assert "1 test in 1 shard," in again.stdout


def test_what_a_shard_has_around_it(
    project: BatchProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWN_SECRET", "1")
    inner = project.path / "deep" / "project"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], str(inner / "src")]))
    project.write("deep/project/pytest.ini", "[pytest]\njunit_suite_name = settled\npythonpath = more\n")
    project.write("deep/project/more/settled.py", "")
    project.write("deep/project/src/lib.py", "")
    test = project.write(
        "deep/project/tests/test_it.py", SURROUNDINGS.format(home=str(Path.home()), prefix=sys.prefix)
    )
    run = project.run("deep/project/tests")
    assert run.verdicts == {"test_it": "failure"}
    assert str(test) in run.cases["test_it"].text
    assert f"E   Failed: {test}" in run.stdout


def test_workers_are_started_in_shards_and_their_crashes_are_a_plain_runs(project: BatchProject) -> None:
    project.write("test_it.py", WORKERS)
    run = project.run("-n", "2", "--sandbox-shards=1")
    found = entries(project.inner.report)
    passed = {f"test_it[{number}]": "passed" for number in range(6)}
    assert run.verdicts == passed | {"test_it[4]": "error", "test_crashes": "error"}
    assert 'name="worker" value="gw1"' in project.inner.report.read_text()
    plain = project.run("-n", "2", "--sandbox-mode=interactive")
    expected = entries(project.inner.report)
    # which worker runs what is chance, and pytest-xdist does not know where the test lies that has crashed
    chance = re.compile(r'\bgw\d+|(?<=py") line="\d+"')
    assert [chance.sub("", text) for text in found[1]] == [chance.sub("", text) for text in expected[1]]
    assert (found[0], run.counts, run.exit_code) == (expected[0], plain.counts, plain.exit_code)


def test_a_terminal_shows_how_far_the_shards_are_until_so_many_have_failed(project: BatchProject) -> None:
    project.write("test_it.py", THREE_FAIL)
    options = ("--sandbox-shards=1", "--maxfail=2", "--durations=2", "--durations-min=0", "-p", "no:xdist")
    said = on_terminal(project.path, 150, *project.arguments(*options))
    assert re.search(r"  sandboxes: 0 of 1 shard done, 1 under way; 0 of 4 tests\x08+", said), said
    shown = screen(said)
    assert not [line for line in shown if "under way" in line], shown
    assert [line for line in shown if re.fullmatch(r"=+ slowest 2 durations =+", line)], shown
    slowest = re.compile(r"\d+\.\d\ds (setup|call|teardown) +test_it.py::\S+")
    assert len([line for line in shown if slowest.fullmatch(line)]) == 2, shown
    assert [line for line in shown if re.fullmatch(r"!+ stopping after 2 failures !+", line)], shown
    assert [line for line in shown if re.fullmatch(r"=+ 2 failed, 1 passed.* in .*", line)], shown
    names = [case.attrib["name"] for case in ET.parse(project.inner.report).iter("testcase")]
    assert names == ["test_it[0]", "test_it[1]", "test_it[2]"]


@pytest.mark.usefixtures("python_image")
def test_shards_may_use_docker(project: BatchProject, python_image: str) -> None:
    project.write(
        "sandboxes.yaml", f"profiles: {{default: {{image: '{python_image}', buffer_sandboxes: 0}}}}\n"
    )
    project.write("test_it.py", DOCKER)
    folder = project.add_to_wheelhouse(
        "docker", "requests", "urllib3", "idna", "certifi", "charset-normalizer"
    )
    run = project.run("--sandbox-backend=docker", "--sandbox-shards=1", f"--sandbox-wheelhouse={folder}")
    assert run.verdicts == {"test_it[0]": "passed", "test_it[1]": "passed"}

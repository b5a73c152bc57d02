"""Containers that do not wait for another run, and what removes those that do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

import pytest_sandboxes.__main__ as command_line
from pytest_sandboxes.io_thread import IOThread
from pytest_sandboxes.parking_records import Records
from pytest_sandboxes.sandbox import Sandbox
from tests.integration.docker_parking.conftest import KEEP, PATIENCE, Place


def test_what_cannot_be_kept_is_said_once_and_ends(place: Place) -> None:
    place.set_profile(", isolation: sandbox")
    place.inner.write("test_it.py", "def test_it(sandbox):\n    assert sandbox.exec('true').success\n")
    run = place.inner.run(KEEP)
    assert run.counts == {"passed": 1}
    assert (
        run.stdout.count(
            "its sandboxes are not kept for the next run (--sandbox-keep): with isolation sandbox"
        )
        == 1
    )
    local = place.inner.run(KEEP, "--sandbox-backend=local", "--sandbox-isolation=none")
    assert local.stdout.count("those of backend local end with it by design") == 1
    assert Records().list() == {}
    assert not [name for name in place.containers().values() if "parked" in name]


def test_files_of_the_project_may_change_between_runs(place: Place) -> None:
    with closing(place.backend()) as backend:
        of_project = place.profile.override({"workspace_source": "data"}, "test")
        assert "whose files may change" in backend.why_not_parked(of_project)
        assert backend.take_over(of_project) is None
        assert backend.why_not_parked(place.profile.override({"workspace_source": "/usr"}, "test")) == ""


def test_what_workspaces_are_filled_with_is_there_in_the_next_run(place: Place) -> None:
    place.set_profile(", workspace_source: /usr/share/python3")
    place.use("    assert sandbox.list_files()\n    sandbox.sh('rm -r *')\n")
    for taken in (False, True):
        run = place.inner.run(KEEP)
        assert run.counts == {"passed": 1}, run.stdout
        assert ("taken over" in run.stdout) is taken


def test_purge_removes_what_is_parked_and_nothing_else(
    place: Place, engine: Any, capsys: pytest.CaptureFixture[str], plant: Callable[[str], str]
) -> None:
    place.use()
    place.inner.run(KEEP)
    container = place.only()
    off_record = plant("")  # as of a run that died between claim and use
    with closing(place.backend()) as backend, closing(IOThread()) as io:
        running = Sandbox.start(backend, place.profile, io)
        running.tie()
        place.inner.run(KEEP)
        capsys.readouterr()
        parked = [each for each, name in place.containers().items() if "-parked-" in name]
        assert command_line.main(["purge"]) == 0
        said = capsys.readouterr()
        assert running.alive
        assert len(place.containers()) == 1
        running.close()
    assert said.err == ""
    lines = said.out.splitlines()
    assert all(line.startswith("docker: removed container ") for line in lines), lines
    assert {word for line in lines for word in parked if word[:12] in line} == set(parked)
    assert any(off_record[:12] in line for line in lines)
    assert off_record not in {each["Id"] for each in engine.api.containers(all=True)}
    assert container not in place.containers()
    assert Records().list() == {}
    assert command_line.main(["purge"]) == 0
    assert capsys.readouterr() == ("", "")


def test_purge_without_an_engine_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{place.inner.path}/none.sock")
    said = place.inner.pytester.run(sys.executable, "-m", "pytest_sandboxes", "purge", timeout=PATIENCE)
    assert (said.ret, said.outlines) == (1, [])
    (line,) = said.errlines
    assert line.startswith("docker: no Docker Engine answers at unix://")

"""What code finds in a slot: a workspace, a home, a place for temporary files, and nothing of the user's."""

from __future__ import annotations

import os

import pytest

from pytest_sandboxes import Slot
from tests.conformance.capabilities import Capability


def test_the_workspace(sandbox: Slot) -> None:
    result = sandbox.sh("pwd; ls -A; touch file && echo written")
    assert result.stdout == f"{sandbox.workspace}\nwritten\n"
    assert os.path.isabs(sandbox.workspace)


@pytest.mark.needs(Capability.ISOLATION)
@pytest.mark.sandbox(workspace_base="/some/where")
def test_the_workspace_of_the_profile(sandbox: Slot) -> None:
    assert f"{sandbox.workspace}/".startswith("/some/where/")
    assert sandbox.exec("pwd").stdout == f"{sandbox.workspace}\n"
    sandbox.write_text("file", "")
    assert sandbox.exec("test", "-e", f"{sandbox.workspace}/file").success


@pytest.mark.parametrize("variable", ["HOME", "TMPDIR"])
def test_places_of_its_own(sandbox: Slot, variable: str) -> None:
    result = sandbox.sh(f'cd "${variable}" && touch file && pwd && ls -A', check=True)
    place, *_ = result.stdout.splitlines()
    assert place != os.environ.get(variable)
    assert not place.startswith(f"{sandbox.workspace}/")
    assert sandbox.list_files() == []


def test_python_is_there_where_it_is_promised(sandbox: Slot, promised: frozenset[Capability]) -> None:
    assert sandbox.sh("command -v python3").success == (Capability.PYTHON in promised)


@pytest.mark.needs(Capability.PYTHON)
def test_python(sandbox: Slot) -> None:
    assert sandbox.exec("python3", "-c", "print(40 + 2)").stdout == "42\n"


def test_a_shell(sandbox: Slot) -> None:
    assert sandbox.sh("echo $((40 + 2))").stdout == "42\n"


@pytest.mark.needs(Capability.PYTHON)
def test_text_is_utf8(sandbox: Slot) -> None:
    code = "import sys, locale; print(sys.stdout.encoding, sys.getfilesystemencoding(), 'ü')"
    assert sandbox.exec("python3", "-c", code).stdout == "utf-8 utf-8 ü\n"


def test_nothing_of_the_environment_of_pytest(sandbox: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "LD_PRELOAD_FOR_TEST"):
        monkeypatch.setenv(name, "planted")
    sandbox.reset()  # a sandbox that is started after the planting
    names = {line.partition("=")[0] for line in sandbox.exec("env").stdout.splitlines()}
    assert names <= {"HOME", "LANG", "LC_CTYPE", "PATH", "PWD", "TMPDIR", "USER"}
    assert "planted" not in sandbox.exec("env").stdout


@pytest.mark.needs(Capability.ISOLATION)
def test_an_unprivileged_user_with_no_way_up(sandbox: Slot, promised: frozenset[Capability]) -> None:
    user = sandbox.exec("id", "-u").stdout.strip()
    assert user != "0"
    if Capability.ALLOW_LIST not in promised:  # else its users are numbered by a namespace of its own
        assert user != str(os.getuid())
    status = dict(
        line.split(":\t", 1) for line in sandbox.exec("cat", "/proc/self/status").stdout.splitlines()
    )
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Groups"].split() in ([], sandbox.exec("id", "-g").stdout.split(), ["65534"])


@pytest.mark.needs(Capability.ISOLATION, Capability.EMPTY_BOUNDING_SET)
def test_no_capability_that_could_be_had(sandbox: Slot) -> None:
    assert "CapBnd:\t0000000000000000\n" in sandbox.exec("cat", "/proc/self/status").stdout

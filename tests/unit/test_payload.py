from __future__ import annotations

import ast
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from pytest_sandboxes.agent import wire
from pytest_sandboxes.payload import (
    _MODULES,
    _PACKAGE,
    OLDEST_PYTHON,
    bootstrap,
    imported_modules,
    payload,
    trial,
)
from tests.unit.running_agent import RunningAgent

SOURCES = {path.stem: path for path in (Path(str(files(_PACKAGE)))).glob("*.py") if path.stem != "__init__"}


def test_every_module_is_shipped() -> None:
    assert sorted(_MODULES) == sorted(SOURCES)


def imports(name: str) -> set[str]:
    """Modules that a module of the agent imports when it runs."""
    found: set[str] = set()

    class Visitor(ast.NodeVisitor):
        def visit_If(self, node: ast.If) -> None:
            if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
                self.generic_visit(node)
            for each in node.orelse:
                self.visit(each)

        def visit_Import(self, node: ast.Import) -> None:
            found.update(alias.name for alias in node.names)

        def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
            if node.module == _PACKAGE:
                found.update(f"{_PACKAGE}.{alias.name}" for alias in node.names)
            else:
                found.add(str(node.module))

    Visitor().visit(ast.parse(SOURCES[name].read_text()))
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_a_module_imports_the_standard_library_and_what_is_shipped_before_it(name: str) -> None:
    before = {f"{_PACKAGE}.{each}" for each in _MODULES[: _MODULES.index(name)]}
    outside = {each for each in imports(name) if each.split(".")[0] not in sys.stdlib_module_names}
    assert outside <= before


@pytest.mark.parametrize("name", SOURCES)
def test_a_module_is_written_in_the_oldest_python(name: str) -> None:
    ast.parse(SOURCES[name].read_text(), feature_version=OLDEST_PYTHON)


def test_whatever_a_module_imports_is_known() -> None:
    outside = {each for name in SOURCES for each in imports(name) if not each.startswith(_PACKAGE)}
    assert set(imported_modules()) == outside
    assert {"_ctypes", "tarfile", "zipfile"} <= outside
    assert "typing" not in outside, "that is for type checkers"


def run_trial(before: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", "-E", "-c", f"{before}\n{trial()}print('passed')"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_interpreter_that_has_all_it_needs_stands_the_trial() -> None:
    ran = run_trial()
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "passed\n", "")


@pytest.mark.parametrize(
    ("before", "complaint"),
    [
        ("import sys; sys.version_info = (3, 7, 16)", "it is Python 3.7"),
        ("import sys; sys.version_info = (2, 7, 18)", "it is Python 2.7"),
        ("import sys; sys.implementation.name = 'pypy'", "it is no CPython: pypy"),
        ("import sys; sys.modules['zipfile'] = None", "zipfile"),
    ],
)
def test_an_interpreter_that_does_not_stand_the_trial_says_why(before: str, complaint: str) -> None:
    ran = run_trial(before)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert complaint in ran.stderr


@pytest.mark.parametrize("same_interpreter", [False, True])
def test_a_payload_says_how_long_it_is(same_interpreter: bool) -> None:
    whole = payload(same_interpreter=same_interpreter)
    assert int(whole[:10]) == len(whole) - 10
    assert payload(same_interpreter=same_interpreter) is whole, "made anew for each sandbox"


@pytest.mark.parametrize("same_interpreter", [False, True])
@pytest.mark.parametrize("kept", [0, 5, 10, 5000])
def test_a_bootstrap_whose_payload_ends_too_early_ends_without_a_word(
    kept: int, same_interpreter: bool
) -> None:
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-E", "-c", bootstrap(same_interpreter=same_interpreter)],
        input=payload(same_interpreter=same_interpreter)[:kept],
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def interpreters() -> dict[str, str]:
    """This interpreter, and all others that are installed beside it and not too old, by version."""
    found: dict[str, str] = {}
    for path in [Path(sys.executable), *Path(sys.base_prefix).parent.glob("*/bin/python3")]:
        script = "import sys; print(*sys.version_info[:2])"
        said = subprocess.run(
            [path, "-ISc", script], capture_output=True, text=True, check=False
        ).stdout.split()
        if len(said) == 2 and tuple(map(int, said)) >= OLDEST_PYTHON:
            found.setdefault(".".join(said), str(path))
    return found


def test_it_runs_from_source_in_every_interpreter_that_is_there(tmp_path: Path) -> None:
    there = interpreters()
    assert there
    for version, path in there.items():
        agent = RunningAgent(path, same_interpreter=False)
        try:
            assert str(agent.hello["python"]).startswith(f"{version}.")
            assert agent.configure(tmp_path) == {"pid": agent.pid}
            assert agent.run("echo", "hello")[1] == "hello\n"
            number = agent.start("sh", "-c", "read line; echo $line", kind="popen", stdin=True)
            agent.send(wire.STDIN, number, b"word\n")
            agent.wait_for_output(number, b"word\n")
            assert agent.result(number)["status"] == 0
            message = {"action": "list", "path": b".", "limit": 1000, "stdin": False}
            listing = agent.request("file", {**message, "recursive": True, "digests": True, "entries": 10})
            assert agent.result(listing)["truncated"] is False
        finally:
            agent.close()

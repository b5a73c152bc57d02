from __future__ import annotations

import ast
import io
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path, PurePosixPath

import pytest

from pytest_sandboxes.agent import wire
from pytest_sandboxes.backends.carried import CannotCarryError, CarriedPython, loaded_part
from pytest_sandboxes.payload import imported_modules
from tests.unit.running_agent import RunningAgent
from tests.unit.test_payload import interpreters

ARCHITECTURE = sysconfig.get_platform().removeprefix("linux-")
LOOK_AROUND = """
import os, sys
for name in sys.argv[1:]:
    __import__(name)
print(ascii({
    "prefixes": [sys.prefix, sys.exec_prefix],
    "path": sys.path,
    "environment": dict(os.environ),
    "code": sorted({line.split()[-1] for line in open("/proc/self/maps") if line.split()[1] == "r-xp"}),
    "files": sorted({getattr(module, "__file__", None) or "" for module in sys.modules.values()} - {""}),
}))
"""


def carriers() -> list[str]:
    """Interpreters that could run pytest here: linked with a shared library of Python's or not, of a venv or not."""
    found = [sys.executable, *interpreters().values()]
    system = shutil.which("python3", path="/usr/bin:/bin")
    if system:
        found.append(system)
    script = "import sys; sys.exit(sys.version_info < (3, 11))"
    return [path for path in found if subprocess.run([path, "-ISc", script], check=False).returncode == 0]


@pytest.fixture(params=sorted(set(carriers())))
def carrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of one of them, which is taken for the one that runs here."""
    base = subprocess.run(
        [request.param, "-ISc", "import sys; print(sys._base_executable)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    monkeypatch.setattr(sys, "_base_executable", base)
    return base


def unpack(packed: CarriedPython, directory: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed.archive)) as archive:
        archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)  # new in 3.11.4
        archive.extractall(directory)


def test_it_runs_with_nothing_from_outside(carrier: str, tmp_path: Path) -> None:
    there = tmp_path / "there"
    packed = CarriedPython.pack(PurePosixPath(there), ARCHITECTURE)
    unpack(packed, there)
    assert not any(carrier in word for word in packed.command)
    ran = subprocess.run(
        [*packed.command, "-c", LOOK_AROUND, *imported_modules()],
        env={"LD_LIBRARY_PATH": "/nowhere", "PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    seen = ast.literal_eval(ran.stdout)
    assert seen["prefixes"] == [str(there)] * 2
    assert all(path.startswith(f"{there}/") for path in seen["path"] + seen["files"])
    assert [path for path in seen["code"] if not path.startswith(f"{there}/")] == ["[vdso]"]
    assert seen["environment"].keys() - {"LC_CTYPE"} == {"LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH"}


def test_it_runs_the_agent(carrier: str, tmp_path: Path) -> None:
    there, workspace = tmp_path / "there", tmp_path / "workspace"
    workspace.mkdir()
    packed = CarriedPython.pack(PurePosixPath(there), ARCHITECTURE)
    unpack(packed, there)
    start = tmp_path / "start"
    start.write_text(f'#!/bin/sh\nexec {" ".join(packed.command)} "$@"\n')
    start.chmod(0o755)
    agent = RunningAgent(str(start), same_interpreter=False)
    try:
        assert agent.configure(workspace) == {"pid": agent.pid}
        (workspace / "file").write_text("content")
        assert "/there" not in agent.run("sh", "-c", "cat /proc/$$/environ /proc/$$/cmdline /proc/$$/maps")[1]
        for kind in ("tar", "tar.gz", "zip"):
            message = {"action": "archive", "path": b".", "format": kind, "limit": 1 << 20, "stdin": False}
            assert agent.result(agent.request("file", {**message, "entries": 10}))["truncated"] is False
        message = {"action": "list", "path": b".", "limit": 1000, "stdin": False}
        listing = agent.request("file", {**message, "recursive": True, "digests": True, "entries": 10})
        assert agent.result(listing)["truncated"] is False
        number = agent.start("sh", "-c", "read line; echo $line", kind="popen", stdin=True)
        agent.send(wire.STDIN, number, b"word\n")
        agent.wait_for_output(number, b"word\n")
    finally:
        agent.close()


def test_everybody_may_run_it_and_root_alone_change_it() -> None:
    packed = CarriedPython.pack(PurePosixPath("/there"), ARCHITECTURE)
    assert len(packed.archive) < 20 << 20
    with tarfile.open(fileobj=io.BytesIO(packed.archive)) as archive:
        members = archive.getmembers()
    assert {(each.uid, each.gid, each.mode, each.mtime) for each in members} == {(0, 0, 0o755, 0)}
    assert all(each.isfile() or each.isdir() for each in members)
    made: set[str] = set()
    for each in members:
        assert str(PurePosixPath(each.name).parent) in made | {"."}, "made before its directory"
        made.add(each.name)
    assert {PurePosixPath(name).parts[0] for name in made} <= {"bin", "lib", "lib64"}


@pytest.mark.parametrize(
    ("here", "complaint"),
    [
        ("macosx-14.0-arm64", "it is for macosx-14.0-arm64, and not for linux-aarch64"),
        ("linux-x86_64", "it is for linux-x86_64, and not for linux-aarch64"),
        ("linux-i686", "it is for linux-i686, and not for linux-aarch64"),
    ],
)
def test_one_for_another_machine_stays_here(
    here: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_platform", lambda: here)
    with pytest.raises(CannotCarryError, match=f"^{complaint}$"):
        CarriedPython.pack(PurePosixPath("/there"), "aarch64")


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo Traceback >&2; echo ImportError: no _ctypes >&2; exit 1", "ImportError: no _ctypes"),
        ("exit 3", ""),
    ],
)
def test_one_that_does_not_tell_stays_here(
    script: str, complaint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mute = tmp_path / "python3"
    mute.write_text(f"#!/bin/sh\n{script}\n")
    mute.chmod(0o755)
    monkeypatch.setattr(sys, "_base_executable", str(mute))
    with pytest.raises(CannotCarryError, match=f"^{mute} cannot be surveyed: {complaint}"):
        CarriedPython.pack(PurePosixPath("/there"), ARCHITECTURE)


@pytest.mark.parametrize("said", ["", "hello", "N", "{"])
def test_one_that_says_something_else_stays_here(
    said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chatty = tmp_path / "python3"
    chatty.write_text(f"#!/bin/sh\nprintf '%s' '{said}'\n")
    chatty.chmod(0o755)
    monkeypatch.setattr(sys, "_base_executable", str(chatty))
    with pytest.raises(CannotCarryError, match=f"^{chatty} does not say what it is made of$"):
        CarriedPython.pack(PurePosixPath("/there"), ARCHITECTURE)


def test_one_that_is_not_there_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_base_executable", "/nowhere/python3")
    with pytest.raises(CannotCarryError, match="^/nowhere/python3 cannot be surveyed: .*No such file"):
        CarriedPython.pack(PurePosixPath("/there"), ARCHITECTURE)


def test_a_program_runs_without_what_is_never_loaded(tmp_path: Path) -> None:
    whole = Path(shutil.which("sh") or "").read_bytes()
    padded = whole + bytes(1000)
    assert loaded_part(padded) == loaded_part(whole)
    assert len(loaded_part(whole)) < len(whole)
    program = tmp_path / "sh"
    program.write_bytes(loaded_part(padded))
    program.chmod(0o755)
    assert subprocess.check_output([program, "-c", "echo works"]) == b"works\n"


@pytest.mark.parametrize("other", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(100)])
def test_what_is_no_such_program_stays_as_it_is(other: bytes) -> None:
    assert loaded_part(other) is other

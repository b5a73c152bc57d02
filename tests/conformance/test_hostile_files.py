"""Files that are not what they seem, trees that nobody can walk, and code that changes them meanwhile."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import stat
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_sandboxes import OutputLimitExceededError, Process, Slot
from tests.conformance.capabilities import Capability
from tests.conformance.helpers import GENEROUS, eventually, python, start_python

FLIPPER = """
    import os, shutil, socket, sys

    def make(kind, path):
        if kind == "file":
            with open(path, "w") as file: file.write("honest")
        elif kind == "folder":
            os.mkdir(path)
            with open(path + "/below", "w") as file: file.write("honest")
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            socket.socket(socket.AF_UNIX).bind(path)
        else:
            os.symlink(kind, path)

    os.makedirs("tree", exist_ok=True)
    turn = 0
    while True:
        for kind in sys.argv[1:]:
            turn += 1
            make(kind, f"new{turn}")
            try:
                os.rename("tree/victim", f"old{turn}")
            except OSError:
                pass
            os.rename(f"new{turn}", "tree/victim")
            if turn == len(sys.argv):
                print("flipping", flush=True)
            # a few older ones stay, for what is still open; the file system is small
            try:
                os.unlink(f"old{turn - 5}")
            except IsADirectoryError:
                shutil.rmtree(f"old{turn - 5}", ignore_errors=True)
            except OSError:
                pass
"""
RACES = {
    "proc": ("file", "/proc/self/maps", "file", "/proc/self/environ"),
    "fifo": ("file", "fifo"),
    "kinds": ("file", "folder", "fifo", "socket", "/dev/zero", "nowhere", "victim"),
    "outside": ("folder", "/etc", "folder", "/proc/self"),
}


def flip(slot: Slot, race: str) -> Process:
    return start_python(slot, FLIPPER, *RACES[race], until="flipping")


@pytest.mark.parametrize("race", RACES)
@pytest.mark.needs(Capability.PYTHON)
class TestRaces:
    """Each call gets something honest or an OSError; none hangs, and none loses the sandbox."""

    def test_reading(self, sandbox: Slot, race: str) -> None:
        flip(sandbox, race)
        seen: set[bytes | None] = set()
        deadline = time.monotonic() + GENEROUS
        for number, name in enumerate(itertools.cycle(("tree/victim", "tree/victim/below"))):
            if number >= 80 and {b"honest", None} <= seen:
                break
            assert time.monotonic() < deadline, seen
            try:
                seen.add(sandbox.read_bytes(name, max_bytes=1000))
            except OSError:
                seen.add(None)
            assert seen <= {b"honest", b"", None}

    def test_writing(self, sandbox: Slot, race: str) -> None:
        flip(sandbox, race)
        for _ in range(80):
            with contextlib.suppress(OSError):
                sandbox.write_bytes("tree/victim", b"honest")
        assert sandbox.exec("true").success

    def test_listing(self, sandbox: Slot, race: str) -> None:
        flip(sandbox, race)
        for _ in range(40):
            for entry in sandbox.list_files("tree", recursive=True, sha256=True):
                assert entry.path in ("victim", "victim/below")

    def test_packing(self, sandbox: Slot, race: str) -> None:
        flip(sandbox, race)
        for _ in range(20):
            try:
                archive = sandbox.archive("tree")
            except OSError:
                continue
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                for member in tar.getmembers():
                    assert member.name in ("victim", "victim/below")
                    if member.isreg():
                        content = tar.extractfile(member)
                        assert content is not None
                        assert content.read().rstrip(b"\0") in (b"", b"honest")

    def test_downloading(self, sandbox: Slot, race: str, tmp_path: Path) -> None:
        flip(sandbox, race)
        for number in range(20):
            copy = tmp_path / str(number)
            sandbox.download("tree", copy)
            for path in copy.rglob("*"):
                assert path.relative_to(copy).as_posix() in ("victim", "victim/below")
                assert stat.S_ISREG(path.lstat().st_mode) or stat.S_ISDIR(path.lstat().st_mode)
                if path.is_file():
                    assert path.read_bytes().rstrip(b"\0") in (b"", b"honest")

    def test_uploading(self, sandbox: Slot, race: str, tmp_path: Path) -> None:
        (tmp_path / "source" / "victim").mkdir(parents=True)
        (tmp_path / "source" / "victim" / "below").write_text("honest")
        flip(sandbox, race)
        for _ in range(20):
            with contextlib.suppress(OSError):
                sandbox.upload(tmp_path / "source", "tree")
        assert sandbox.exec("true").success


BUILD = """
    import os, sys

    name = sys.argv[2] * int(sys.argv[3])
    os.mkdir("top")
    os.chdir("top")
    for _ in range(int(sys.argv[1])):
        os.mkdir(name)
        os.chdir(name)
    with open("leaf", "w") as file: file.write("deep")
"""


@pytest.mark.needs(Capability.PYTHON)
class TestDeepTrees:
    """Trees beyond what a path can name: what is too deep is an error that says so, or a cut that says so."""

    @pytest.mark.parametrize(("levels", "length"), [(5000, 1), (600, 20), (100, 255), (501, 1)])
    def test_that_are_too_deep(self, sandbox: Slot, tmp_path: Path, levels: int, length: int) -> None:
        python(sandbox, BUILD, str(levels), "d", str(length))
        for call in (
            lambda: sandbox.list_files("top", recursive=True),
            lambda: sandbox.archive("top"),
            lambda: sandbox.download("top", tmp_path / "copy"),
        ):
            with pytest.raises(OutputLimitExceededError, match=r"too deep|larger"):
                call()
        for limit in (10, 10_000):
            listing = sandbox.list_files("top", recursive=True, max_entries=limit)
            assert listing.truncated
            assert 0 < len(listing) <= min(limit, levels)
        assert len(sandbox.list_files("top")) == 1
        assert sandbox.exec("rm", "-rf", "top").success

    @pytest.mark.parametrize(("levels", "length"), [(499, 1), (15, 255), (150, 20)])
    def test_that_are_just_not(self, sandbox: Slot, tmp_path: Path, levels: int, length: int) -> None:
        python(sandbox, BUILD, str(levels), "d", str(length))
        listing = sandbox.list_files("top", recursive=True)
        assert len(listing) == levels + 1
        leaf = listing[-1].path
        assert sandbox.read_text(f"top/{leaf}") == "deep"
        assert len(sandbox.archive("top", format="zip")) > 0
        assert sandbox.download("top", tmp_path / "copy") == []
        sandbox.upload(tmp_path / "copy", "again")
        assert len(sandbox.list_files("again", recursive=True)) == levels + 1

    def test_slots_with_them_can_be_reset(self, sandbox: Slot) -> None:
        python(sandbox, BUILD, "5000", "d", "1")
        old = Path(sandbox.workspace)  # a directory of this machine where nothing is isolated
        sandbox.reset()
        assert sandbox.list_files() == []
        eventually(lambda: not old.exists() or sandbox.workspace == str(old), "the end of the old workspace")


HOSTILE_NAMES = pytest.mark.parametrize(
    "name",
    [
        "-rf",
        "a\nb",
        "\x1b]0;owned\x07",
        "\u202egnp.exe",
        "::error::x",
        " ",
        "\\",
        b"\xff\xfe\x1b",
        "*",
        "%s%n",
    ],
)


@HOSTILE_NAMES
def test_hostile_names_are_names(sandbox: Slot, name: str | bytes) -> None:
    sandbox.exec("touch", "--", name)
    sandbox.exec("mkfifo", "--", os.fsencode(name) + b".fifo")
    entry, fifo = sandbox.list_files()
    assert (entry.path_bytes, fifo.path_bytes) == (os.fsencode(name), os.fsencode(name) + b".fifo")
    sandbox.write_bytes(os.fsencode(name), b"content")
    assert sandbox.read_bytes(os.fsencode(name)) == b"content"
    for shown in (repr(entry), entry.path):
        shown.encode()
        assert not set(shown) & set("\x1b\x07\u202e")


@pytest.mark.needs(Capability.TREES)
@HOSTILE_NAMES
def test_hostile_names_are_downloaded_as_names(sandbox: Slot, tmp_path: Path, name: str | bytes) -> None:
    sandbox.exec("touch", "--", name)
    sandbox.exec("mkfifo", "--", os.fsencode(name) + b".fifo")
    (left_out,) = sandbox.download(".", tmp_path / "copy")
    assert os.listdir(os.fsencode(tmp_path / "copy")) == [os.fsencode(name)]
    left_out.encode()
    assert not set(left_out) & set("\x1b\x07\u202e")


@pytest.mark.needs(Capability.PYTHON)
def test_times_and_sizes_beyond_reason(sandbox: Slot, tmp_path: Path) -> None:
    code = """
        import os
        for number, when in enumerate((-(2**62), -(2**40), 2**33, 2**62)):
            os.mknod(str(number))
            os.utime(str(number), (0, when))
        os.truncate("0", 2**43)
    """
    python(sandbox, code)
    assert [entry.size for entry in sandbox.list_files()] == [2**43, 0, 0, 0]
    assert sandbox.archive(max_bytes=10_000).truncated
    with pytest.raises(OutputLimitExceededError):
        sandbox.download(".", tmp_path / "copy")
    sandbox.exec("truncate", "-s", "1", "0")
    for kind in ("tar", "tar.gz", "zip"):
        assert not sandbox.archive(format=kind).truncated
    assert sandbox.download(".", tmp_path / "copy") == []


@pytest.mark.needs(Capability.ISOLATION)  # otherwise it may be root, to whom nothing is closed
def test_a_workspace_that_code_has_closed_is_closed_to_it(sandbox: Slot) -> None:
    sandbox.sh("echo content > file; chmod 0 .")
    for call in (
        lambda: sandbox.exec("true"),
        lambda: sandbox.popen("true"),
        lambda: sandbox.read_bytes("file"),
        lambda: sandbox.write_bytes("file", b""),
        sandbox.list_files,
    ):
        with pytest.raises(PermissionError):
            call()
    assert sandbox.exec("chmod", "755", sandbox.workspace, cwd="/").success
    assert sandbox.read_text("file") == "content\n"


@pytest.mark.needs(Capability.ISOLATION)
@pytest.mark.parametrize(
    "call",
    [
        lambda slot, to: slot.read_bytes("/proc/1/environ"),
        lambda slot, to: slot.read_bytes("/proc/self/mem"),
        lambda slot, to: slot.list_files("/proc/1/fd"),
        pytest.param(lambda slot, to: slot.archive("/proc/1/fd"), marks=pytest.mark.needs(Capability.TREES)),
        lambda slot, to: slot.write_bytes("/proc/self/oom_score_adj", b"-1000"),
        lambda slot, to: slot.write_bytes("/proc/self/comm", b"mine"),
        lambda slot, to: slot.write_bytes("/proc/self/fd/1", b"forged"),
        lambda slot, to: slot.write_bytes("/proc/self/fd/3", b"forged"),
        lambda slot, to: slot.read_bytes("/proc/self/fd/0"),
        pytest.param(
            lambda slot, to: slot.download("/proc/self/fd/3", to), marks=pytest.mark.needs(Capability.TREES)
        ),
    ],
)
def test_the_workers_own_proc_is_nobodys(
    sandbox: Slot, tmp_path: Path, call: Callable[[Slot, Path], object]
) -> None:
    with pytest.raises(OSError, match="Invalid argument|Permission denied|No such"):
        call(sandbox, tmp_path / "copy")
    assert sandbox.exec("true").success

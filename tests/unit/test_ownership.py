from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_sandboxes.backends.ownership import Claim, claimed, remove_tree, sweep

PREFIX = "ours-"


def remaining(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_nobody_claims_any_more_is_swept(tmp_path: Path) -> None:
    claims = []
    for name in ("ours-1", "ours-2", "theirs-3"):
        (tmp_path / name / "deep").mkdir(parents=True)
        claims.append(Claim(tmp_path / name))
    assert sweep(tmp_path, PREFIX, remove_tree) == 0
    claims[0].release()
    claims[0].release()
    claims[2].release()
    assert sweep(tmp_path, PREFIX, remove_tree) == 1
    assert remaining(tmp_path) == ["ours-2", "theirs-3"]
    claims[1].release()


def test_there_is_one_claim_at_a_time(tmp_path: Path) -> None:
    claim = Claim(tmp_path)
    with pytest.raises(BlockingIOError):
        Claim(tmp_path)
    claim.release()
    Claim(tmp_path).release()


def test_a_claim_ends_with_its_owner_however_that_ends(tmp_path: Path) -> None:
    (tmp_path / "ours-1").mkdir()
    script = (
        "import sys, time; from pathlib import Path; from pytest_sandboxes.backends.ownership import Claim; "
        "claim = Claim(Path(sys.argv[1])); print('claimed', flush=True); time.sleep(1000)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "ours-1"], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "claimed\n"
        assert sweep(tmp_path, PREFIX, remove_tree) == 0
        owner.kill()
        owner.wait()
    assert sweep(tmp_path, PREFIX, remove_tree) == 1
    assert remaining(tmp_path) == []


def test_what_only_looks_like_ours_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").touch()
    (tmp_path / "ours-link").symlink_to("outside")
    (tmp_path / "ours-file").touch()
    os.mkfifo(tmp_path / "ours-fifo")
    before = remaining(tmp_path)
    assert sweep(tmp_path, PREFIX, remove_tree) == 0
    assert (remaining(tmp_path), remaining(tmp_path / "outside")) == (before, ["kept"])
    (tmp_path / "ours-1").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert sweep(tmp_path, PREFIX, remove_tree) == 0, "somebody else's"


def test_what_cannot_be_swept_stays_for_later_and_stops_nothing(tmp_path: Path) -> None:
    for name in ("ours-1", "ours-2"):
        (tmp_path / name).mkdir()

    def remove(path: Path) -> None:
        if path.name == "ours-1":
            raise PermissionError
        path.rmdir()

    assert sweep(tmp_path, PREFIX, remove) == 1
    assert remaining(tmp_path) == ["ours-1"]
    assert sweep(tmp_path, PREFIX, Path.rmdir) == 1
    assert sweep(tmp_path / "nowhere", PREFIX, Path.rmdir) == 0


def test_a_tree_that_its_owner_has_closed_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    for folder in ("closed", "unreadable/below", "unwritable/below"):
        (top / folder).mkdir(parents=True)
        (top / folder / "file").touch()
    (top / "link").symlink_to(tmp_path)
    for folder, mode in (
        ("closed", 0),
        ("unreadable", 0o300),
        ("unwritable", 0o500),
        ("unwritable/below", 0o500),
    ):
        (top / folder).chmod(mode)
    top.chmod(0)
    remove_tree(top)
    assert remaining(tmp_path) == []


def test_what_is_deeper_than_a_path_can_name_is_removed(tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    fd = os.open(tmp_path / "top", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deeper", dir_fd=fd)
        below = os.open("deeper", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    remove_tree(tmp_path / "top")
    assert remaining(tmp_path) == []


@pytest.mark.parametrize("there", [False, True])
def test_what_is_above_a_tree_is_not_touched(
    tmp_path: Path, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, **_: object) -> None:
        raise OSError(errno.ENOTEMPTY, "somebody has just made something there", path)

    tmp_path.chmod(0o1777)
    if there:
        (tmp_path / "top").mkdir()
        monkeypatch.setattr(os, "rmdir", refuse)
    with pytest.raises(OSError, match=r"No such file|somebody has just"):
        remove_tree(tmp_path / "top")
    monkeypatch.undo()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777


class Sweeps:
    """Makes directories, the first few of which are swept as soon as they are there, or as soon as they are open."""

    def __init__(self, folder: Path, *steps: str) -> None:
        self._folder = folder
        self._steps = iter(steps)
        self.made: list[Path] = []
        self._sweeping: Claim | None = None

    def make(self) -> Path:
        self.end()
        path = self._folder / f"ours-{len(self.made)}"
        path.mkdir()
        self.made.append(path)
        step = next(self._steps, "")
        if step == "swept":
            sweep(self._folder, PREFIX, remove_tree)
        elif step == "being swept":
            self._sweeping = Claim(path)
        return path

    def end(self) -> None:
        if self._sweeping is not None:
            self._sweeping.release()


@pytest.mark.parametrize("is_shared", [False, True])
def test_what_a_sweep_finds_before_it_is_claimed_is_made_anew(tmp_path: Path, is_shared: bool) -> None:
    sweeps = Sweeps(tmp_path, "swept", "being swept")
    claim = claimed(sweeps.make, is_shared=is_shared)
    assert claim.path == sweeps.made[2]
    assert sweep(tmp_path, PREFIX, remove_tree) == 1, "the one that was being swept"
    assert remaining(tmp_path) == ["ours-2"]
    claim.release()


def test_what_a_sweep_removes_while_it_is_being_claimed_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeps = Sweeps(tmp_path)

    def lock(fd: int, how: int, flock: Callable[[int, int], None] = fcntl.flock) -> None:
        if len(sweeps.made) == 1:
            sweeps.made[0].rmdir()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", lock)
    claim = claimed(sweeps.make)
    assert claim.path == sweeps.made[1]
    claim.release()


def test_what_cannot_be_made_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        claimed(Sweeps(tmp_path / "missing").make)

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path, PosixPath
from typing import Any

import pytest

from pytest_sandboxes.backends import cgroups
from pytest_sandboxes.backends.cgroups import Group, Groups, Limits
from pytest_sandboxes.backends.ownership import Claim

BOTH = Limits(memory=64, pids=20)
ALL = Limits(memory=64, pids=20, cpu=0.5)
PREFIX = "pytest-sandboxes-"


class Machine:
    """What /proc says of control groups, and the folders that it names."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.mounts: list[str] = ["proc /proc proc rw 0 0"]
        self.own: list[str] = []
        machine = self

        class FakePath(PosixPath):
            """A path, but for those two files."""

            def __new__(cls, *parts: Any) -> Any:
                name = Path(*parts)
                if str(name) in {"/proc/self/mounts", "/proc/self/cgroup"}:
                    copy = machine.folder / name.name
                    copy.write_text(
                        "\n".join(machine.mounts if name.name == "mounts" else machine.own) + "\n"
                    )
                    return copy
                return name

        monkeypatch.setattr(cgroups, "Path", FakePath)
        monkeypatch.setattr(cgroups, "_REMOVE_TIMEOUT", 0.0)

    def version_1(self, controllers: str, path: str) -> Path:
        """A hierarchy of the old kind; returns its top."""
        top = self.folder / controllers.replace(",", "-")
        top.mkdir()
        self.mounts.append(f"cgroup {top} cgroup rw,relatime,{controllers} 0 0")
        self.own.append(f"{len(self.own) + 2}:{controllers}:{path}")
        return top

    def version_2(self, path: str, *delegated: str) -> Path:
        """The hierarchy of the new kind, its controllers given on to the children of some groups."""
        top = self.folder / "unified"
        (top / path.strip("/")).mkdir(parents=True)
        self.mounts.append(f"cgroup2 {top} cgroup2 rw,relatime 0 0")
        self.own.append(f"0::{path}")
        for group in delegated:
            folder = top / group.strip("/")
            (folder / "cgroup.subtree_control").write_text("cpu memory pids\n")
            (folder / "cgroup.procs").touch()
        return top


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def made(folder: Path) -> list[Path]:
    """Groups of ours in a folder."""
    return [path for path in folder.iterdir() if path.name.startswith(PREFIX)]


def written(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


# -- where groups can be made


def test_no_limits_need_no_groups(machine: Machine) -> None:
    nothing = Limits(None, None)
    assert not nothing
    assert Limits(1, None)
    assert Limits(None, 1)
    groups = Groups()
    assert groups.can(nothing)
    assert not groups.can(Limits(1, None))
    assert not groups.can(Limits(None, 1))
    assert not groups.can(BOTH)


def test_hierarchies_of_the_old_kind(machine: Machine) -> None:
    memory, pids = machine.version_1("memory", "/ours"), machine.version_1("pids,cpu", "/")
    (memory / "ours").mkdir()
    groups = Groups()
    assert groups.can(BOTH)
    group = groups.make(BOTH)
    (in_memory,), (in_pids,) = made(memory / "ours"), made(pids)
    size = str(64 << 20)
    assert written(in_memory) == {
        "memory.limit_in_bytes": size,
        "memory.memsw.limit_in_bytes": size,
        "memory.swappiness": "0",
    }
    assert written(in_pids) == {"pids.max": "20"}
    group.add(4321)
    assert (in_memory / "cgroup.procs").read_text() == (in_pids / "cgroup.procs").read_text() == "4321"


def test_processor_time_of_the_old_kind(machine: Machine) -> None:
    cpu = machine.version_1("cpu,cpuacct", "/")
    assert not Groups().can(ALL)
    machine.version_1("memory,pids", "/")
    Groups().make(ALL)
    (folder,) = made(cpu)
    assert written(folder) == {
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "50000",
        "cpu.rt_runtime_us": "10000",
    }


def test_processor_time_of_the_new_kind(machine: Machine) -> None:
    top = machine.version_2("/", "/")
    Groups().make(ALL)
    (folder,) = made(top)
    assert written(folder)["cpu.max"] == "50000 100000"


def test_the_top_does_where_our_own_group_is_out_of_sight(machine: Machine) -> None:
    top = machine.version_1("memory", "/of/another/namespace")
    assert Groups().make(Limits(64, None)) is not None
    assert len(made(top)) == 1


def test_one_controller_alone(machine: Machine) -> None:
    machine.version_1("pids", "/")
    groups = Groups()
    assert groups.can(Limits(None, 20))
    assert not groups.can(BOTH)


@pytest.mark.parametrize(
    ("delegated", "found"),
    [(["/"], ""), (["/user"], "user"), (["/user/ours"], "user/ours"), (["/", "/user"], "user")],
)
def test_the_nearest_delegated_group_of_the_new_kind(
    machine: Machine, delegated: list[str], found: str
) -> None:
    top = machine.version_2("/user/ours", *delegated)
    group = Groups().make(BOTH)
    (folder,) = made(top / found)
    assert written(folder) == {"memory.max": str(64 << 20), "memory.swap.max": "0", "pids.max": "20"}
    group.add(4321)
    assert (folder / "cgroup.procs").read_text() == "4321"


def test_groups_of_the_new_kind_that_are_not_delegated_are_of_no_use(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = machine.version_2("/user/ours")
    assert not Groups().can(Limits(1, None))
    (top / "cgroup.subtree_control").write_text("cpu io")
    assert not Groups().can(Limits(1, None))
    (top / "cgroup.subtree_control").write_text("memory")
    (top / "cgroup.procs").touch()
    assert Groups().can(Limits(1, None))
    assert not Groups().can(Limits(None, 1))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert not Groups().can(Limits(1, None)), "a process could not be moved there"


def test_the_new_kind_beside_an_old_one_without_the_controllers(machine: Machine) -> None:
    machine.version_1("freezer,blkio", "/")
    machine.version_2("/", "/")
    assert Groups().can(BOTH)


def test_a_machine_that_says_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "Path", lambda *_: machine.folder / "nowhere")
    assert cgroups._find_parents() == (False, {})


# -- groups


def test_groups_of_killed_runs_are_swept(machine: Machine) -> None:
    top = machine.version_1("memory", "/")
    for name in (f"{PREFIX}old", f"{PREFIX}busy", "others"):
        (top / name).mkdir()
    claim = Claim(top / f"{PREFIX}busy")
    Groups()
    assert sorted(path.name for path in top.iterdir()) == ["others", f"{PREFIX}busy"]
    claim.release()


def test_a_group_is_claimed_until_it_is_removed(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    group = Group({"memory": Claim(tmp_path / "memory")}, unified=False)
    with pytest.raises(BlockingIOError):
        Claim(tmp_path / "memory")
    group.remove()
    group.remove()
    assert not (tmp_path / "memory").exists()


def test_a_group_that_cannot_be_removed_is_left_for_the_next_run(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "memory" / "busy").mkdir(parents=True)
    Group({"memory": Claim(tmp_path / "memory")}, unified=False).remove()
    Claim(tmp_path / "memory").release()


def test_limits_that_the_kernel_refuses_leave_no_group(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = machine.version_1("memory,pids", "/")

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Group, "limit", refuse)
    with pytest.raises(PermissionError):
        Groups().make(BOTH)
    assert made(top) == []


@pytest.mark.parametrize(
    ("unified", "name", "text", "count"),
    [
        (False, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", 3),
        (False, "memory.oom_control", "oom_kill_disable 1\nunder_oom 0\n", 0),
        (True, "memory.events", "low 0\nhigh 0\nmax 9\noom 5\noom_kill 4\noom_group_kill 0\n", 4),
        (True, "memory.oom_control", "oom_kill 3\n", 0),
    ],
)
def test_kills_are_counted(tmp_path: Path, unified: bool, name: str, text: str, count: int) -> None:
    (tmp_path / name).write_text(text)
    group = Group({"memory": Claim(tmp_path)}, unified=unified)
    assert group.oom_kills() == count


def test_without_a_memory_limit_nothing_is_killed_at_it(tmp_path: Path) -> None:
    (tmp_path / "memory.oom_control").write_text("oom_kill 3\n")
    group = Group({"pids": Claim(tmp_path)}, unified=False)
    assert group.oom_kills() == 0


# -- the real thing

GREEDY = "import sys; sys.stdin.readline(); data = b'x' * (200 << 20)"
FORKING = "import os, sys; sys.stdin.readline(); [os.fork() or os._exit(0) for _ in range(50)]"


def run_in(group: Group, script: str) -> tuple[int, str]:
    with subprocess.Popen(
        [sys.executable, "-ISc", script], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        group.add(process.pid)
        _, complaint = process.communicate("go\n")
        return process.returncode, complaint


def test_the_kernel_keeps_to_the_limits_where_groups_can_be_made() -> None:
    groups = Groups()
    limits = Limits(memory=50, pids=5)
    if not groups.can(limits):
        assert os.geteuid() != 0 or not groups._parents, "root may make groups wherever there are any"
        return
    group = groups.make(limits)
    try:
        code, _ = run_in(group, GREEDY)
        assert (code, group.oom_kills()) == (-9, 1)
        code, complaint = run_in(group, FORKING)
        assert (code, "BlockingIOError" in complaint) == (1, True)
    finally:
        group.remove()
    assert not any(path.exists() for path in group._directories.values())

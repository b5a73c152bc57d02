"""Limits of a local sandbox on memory, processes and processor time.

They are control groups, version 1 or 2, where this process may make some.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from pytest_sandboxes.backends.ownership import Claim, claimed, sweep

_PREFIX = "pytest-sandboxes-"
_REMOVE_TIMEOUT = 2.0
_MEBIBYTE = 1 << 20
_PERIOD = 100_000  # microseconds over which processor time is shared out
_AGENTS_TIME = 10_000  # of each second, for an agent that has its turns before all else
_CONTROLLERS = frozenset({"memory", "pids", "cpu"})


@dataclass(frozen=True)
class Limits:
    """What one sandbox may use, None for no limit."""

    memory: int | None
    """MB of memory, page cache and tmpfs included; swap is not added to it."""
    pids: int | None
    """Processes and threads, the sandbox's own agent included."""
    cpu: float | None = None
    """Cores, the sandbox's own agent included."""

    def __bool__(self) -> bool:
        return bool(self.controllers())

    def controllers(self) -> list[str]:
        """Those that take part."""
        return [each.name for each in fields(self) if getattr(self, each.name) is not None]


class Group:
    """One sandbox's control groups: a directory per hierarchy, by controller."""

    def __init__(self, claims: dict[str, Claim], *, unified: bool) -> None:
        self._directories = {controller: claim.path for controller, claim in claims.items()}
        self._unified = unified
        self._claims = set(claims.values())

    def limit(self, limits: Limits) -> None:
        """Set the limits. Raises OSError when the kernel refuses."""
        if limits.memory is not None:
            folder = self._directories["memory"]
            size = str(limits.memory * _MEBIBYTE)
            if self._unified:
                (folder / "memory.max").write_text(size)
                _write_if_there(folder / "memory.swap.max", "0")
            else:
                (folder / "memory.limit_in_bytes").write_text(size)
                _write_if_there(folder / "memory.memsw.limit_in_bytes", size)
                _write_if_there(folder / "memory.swappiness", "0")
        if limits.pids is not None:
            (self._directories["pids"] / "pids.max").write_text(str(limits.pids))
        if limits.cpu is not None:
            folder = self._directories["cpu"]
            quota = str(round(limits.cpu * _PERIOD))
            if self._unified:
                (folder / "cpu.max").write_text(f"{quota} {_PERIOD}")
            else:
                (folder / "cpu.cfs_period_us").write_text(str(_PERIOD))
                (folder / "cpu.cfs_quota_us").write_text(quota)
                # without, some kernels let nobody in who is to have turns before others
                _write_if_there(folder / "cpu.rt_runtime_us", str(_AGENTS_TIME))

    def add(self, pid: int) -> None:
        """Move a process in; its children to come are in with it."""
        for path in set(self._directories.values()):
            (path / "cgroup.procs").write_text(str(pid))

    def oom_kills(self) -> int:
        """How many processes the kernel has killed at the memory limit."""
        folder = self._directories.get("memory")
        if folder is None:
            return 0
        try:
            text = (folder / ("memory.events" if self._unified else "memory.oom_control")).read_text()
        except OSError:
            return 0
        for line in text.splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
        return 0

    def remove(self) -> None:
        """Remove the groups, whose processes have been killed; waits for the kernel to bury them."""
        for claim in self._claims:
            _remove(claim)


class Groups:
    """Where this process can make control groups, by controller."""

    def __init__(self) -> None:
        self._unified, self._parents = _find_parents()
        for parent in set(self._parents.values()):
            sweep(parent, _PREFIX, Path.rmdir)

    def can(self, limits: Limits) -> bool:
        """Whether such limits can be kept."""
        return self._parents.keys() >= set(limits.controllers())

    def make(self, limits: Limits) -> Group:
        """Make the groups of one sandbox. Raises OSError when the kernel refuses."""
        parents = {controller: self._parents[controller] for controller in limits.controllers()}
        with contextlib.ExitStack() as undoing:
            made = {}
            for parent in set(parents.values()):
                made[parent] = claimed(partial(_make_in, parent, _PREFIX))
                undoing.callback(_remove, made[parent])
            group = Group(
                {controller: made[parent] for controller, parent in parents.items()}, unified=self._unified
            )
            group.limit(limits)
            undoing.pop_all()
        return group


def _find_parents() -> tuple[bool, dict[str, Path]]:
    """Directories in which groups with each controller can be made, if any."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return False, {}
    version_1: dict[str, Path] = {}
    for _, mount_point, kind, options, *_ in mounts:
        if kind != "cgroup":
            continue
        for controller in _CONTROLLERS & set(options.split(",")):
            for _, names, path in own:
                if controller in names.split(","):
                    candidates = (Path(mount_point + path), Path(mount_point))
                    usable = [each for each in candidates if _can_make_in(each)]
                    if usable:
                        version_1[controller] = usable[0]
    if version_1:
        return False, version_1
    for _, mount_point, kind, *_ in mounts:
        if kind == "cgroup2":
            start = next(
                (Path(mount_point + path) for number, _, path in own if number == "0"), Path(mount_point)
            )
            return True, _find_delegated(start, Path(mount_point))
    return True, {}


def _find_delegated(start: Path, top: Path) -> dict[str, Path]:
    """The nearest group, from our own upwards, whose children get the controllers and which we may add to."""
    group = start
    while True:
        try:
            enabled = set((group / "cgroup.subtree_control").read_text().split())
        except OSError:
            enabled = set()
        usable = _CONTROLLERS & enabled
        # moving a process also takes write access to the common ancestor of its old group and the new one
        if usable and _can_make_in(group) and os.access(group / "cgroup.procs", os.W_OK):
            return dict.fromkeys(usable, group)
        if group == top or top not in group.parents:
            return {}
        group = group.parent


def _can_make_in(group: Path) -> bool:
    try:
        _make_in(group, "probe-").rmdir()  # nothing that others sweep
    except OSError:
        return False
    return True


def _make_in(parent: Path, prefix: str) -> Path:
    path = parent / f"{prefix}{secrets.token_hex(8)}"
    path.mkdir()
    return path


def _remove(claim: Claim) -> None:
    """Remove a group whose processes have been killed."""
    deadline = time.monotonic() + _REMOVE_TIMEOUT
    while True:
        try:
            claim.path.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            if time.monotonic() < deadline:
                time.sleep(0.005)
                continue
        break
    claim.release()


def _write_if_there(path: Path, text: str) -> None:
    """Write to a file that a kernel without swap accounting does not have."""
    with contextlib.suppress(OSError):
        path.write_text(text)

"""Filling workspaces with 1 GB in 30,000 files, beside the other ways to copy such a tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from pytest_sandboxes import registry
from pytest_sandboxes.backends.base import BackendOptions
from pytest_sandboxes.io_thread import IOThread
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.project_files import ProjectFiles, collect
from pytest_sandboxes.sandbox import Sandbox
from tests.benchmarks.containers import IMAGE
from tests.benchmarks.measuring import Row, compared, milliseconds, seconds_of, taking_turns

_SLACK = 1.5  # of a file's last block, and directories


def filling(*, quick: bool) -> Iterator[Row]:
    """A workspace on `local` and on `docker`, and `cp` and `tar` to the same kind of file system."""
    samples = 2 if quick else 5
    size, count = (100 << 20, 3_000) if quick else (1 << 30, 30_000)
    what = f"{size / (1 << 30):.1f} GB, {count:,} files"
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder, "data")
        _make_tree(top, size, count)
        files = collect(top, "the benchmark")
        yield Row(
            f"{what}: copied once for a run", milliseconds(seconds_of(partial(_copy, files, top.parent)))
        )
        fields = {"workspace_source": "data", "disk": int(size * _SLACK) >> 20, "image": IMAGE}
        for backend in ("local", "docker"):
            yield from _backend(backend, Path(folder), fields, what, samples)
        with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
            ways = {
                "cp -a": f"cp -a {top} {memory}/copy",
                "tar": f"mkdir {memory}/copy && tar -C {top} -cf - . | tar -C {memory}/copy -xf -",
            }
            for name, script in ways.items():
                seconds = []
                for _ in range(samples):
                    seconds.append(seconds_of(partial(subprocess.run, script, shell=True, check=True)))
                    shutil.rmtree(f"{memory}/copy")
                yield Row(f"{what}: `{name}` to a tmpfs", milliseconds(median(seconds)), samples=samples)


def _backend(name: str, root: Path, fields: dict[str, object], what: str, samples: int) -> Iterator[Row]:
    options = BackendOptions(root=root)
    filled, empty = (
        Profile().override(each, "benchmark") for each in (fields, {**fields, "workspace_source": None})
    )
    with _io() as io, closing(registry.make(name, options, {})) as backend:
        for profile in (filled, empty):
            backend.check_machine(profile)
        if name == "local":

            def start(profile: Profile) -> None:
                Sandbox.start(backend, profile, io).close()

            full, floor = taking_turns(samples, partial(start, filled), partial(start, empty), warm_up=1)
            yield compared(f"{what}: local sandbox ready", full, floor, samples=samples, name="with none")
            return
        sandboxes = [Sandbox.start(backend, profile, io) for profile in (filled, empty)]
        try:
            full, floor = taking_turns(samples, *(partial(each.reset, [0]) for each in sandboxes), warm_up=1)
        finally:
            for sandbox in sandboxes:
                sandbox.close()
        yield compared(f"{what}: reset in place, docker", full, floor, samples=samples, name="with none")


@contextmanager
def _io() -> Iterator[IOThread]:
    io = IOThread()
    try:
        yield io
    finally:
        io.close()


def _make_tree(top: Path, size: int, count: int) -> None:
    content = os.urandom(size // count)
    for number in range(count):
        path = top / f"{number % 300:03}" / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _copy(files: ProjectFiles, parent: Path) -> None:
    files.copy(parent / "copy")

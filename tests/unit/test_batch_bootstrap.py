"""What a shard leaves of its directory: nothing, whatever its tests have made of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from pytest_sandboxes.batch import bootstrap

NOBODY = 65534


@pytest.mark.parametrize("mode", [0, 0o500, 0o600])
def test_directories_without_permissions_are_removed_and_nothing_behind_a_link(mode: int) -> None:
    top = Path(tempfile.mkdtemp())  # the way to `tmp_path` is closed to anybody else
    try:
        inner = top / "shard" / "closed" / "inner"
        inner.mkdir(parents=True)
        (inner / "file").touch()
        behind = top / "behind"
        behind.mkdir(0o711)
        (top / "shard" / "link").symlink_to(behind)
        (top / "shard" / "dangling").symlink_to("nowhere")
        for path in (inner, inner.parent, inner.parent.parent):
            path.chmod(mode)
        assert as_somebody_else(top) == 0
        assert [each.name for each in top.iterdir()] == ["behind"]
        assert behind.stat().st_mode & 0o777 == 0o711
    finally:
        bootstrap.remove(top)
        shutil.rmtree(top, ignore_errors=True)


def as_somebody_else(top: Path) -> int:
    """Have it removed by whom permissions hold back, as they do not root; the exit status."""
    if os.geteuid() == 0:
        for folder, _, names in os.walk(top):
            for path in (folder, *(os.path.join(folder, name) for name in names)):
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    process = os.fork()
    if not process:
        try:
            if os.geteuid() == 0:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            bootstrap.remove(top / "shard")
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

"""Filling a workspace: what is copied, as whose, and what stays out of reach."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from pytest_sandboxes.agent import copying


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "deep/er").mkdir(parents=True)
    for name, content in (("a", b"a"), ("deep/b", b"b" * 300_000), ("deep/er/empty", b"")):
        (source / name).write_bytes(content)
    (source / "a").chmod(0o6755)
    (source / "deep/b").chmod(0o444)
    os.utime(source / "deep/b", ns=(1_000_000_001, 2_000_000_002))
    (source / "link").symlink_to("deep/b")
    (source / "way-out").symlink_to("/etc/passwd")
    os.mkfifo(source / "fifo")
    return source


def fill(source: Path, workspace: Path) -> dict[str, object]:
    return copying.fill(os.fsencode(source), os.fsencode(workspace), (os.getuid(), os.getgid()))


def test_all_but_special_files(source: Path, tmp_path: Path) -> None:
    there = tmp_path / "made/workspace"
    assert fill(source, there) == {"done": True, "files": 5, "size": 300_001}
    assert sorted(str(path.relative_to(there)) for path in there.rglob("*")) == [
        "a", "deep", "deep/b", "deep/er", "deep/er/empty", "link", "way-out",
    ]  # fmt: skip
    assert (there / "deep/b").read_bytes() == b"b" * 300_000
    assert stat.S_IMODE((there / "a").stat().st_mode) == 0o755  # no setuid
    assert stat.S_IMODE((there / "deep/b").stat().st_mode) == 0o644  # its owner may write to it
    assert (there / "deep/b").stat().st_mtime_ns == 2_000_000_002
    assert (there / "way-out").readlink() == Path("/etc/passwd")  # as a link, through which nothing was read
    assert (there / "a").stat().st_ino != (source / "a").stat().st_ino


def test_what_is_there_is_replaced_and_no_link_is_written_through(source: Path, tmp_path: Path) -> None:
    there = tmp_path / "workspace"
    (there / "deep").mkdir(parents=True)
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (there / "a").symlink_to(precious)
    (there / "deep/other").write_text("other")
    fill(source, there)
    assert precious.read_text() == "precious"
    assert (there / "a").read_bytes() == b"a"
    assert (there / "deep/other").read_text() == "other"


def test_a_link_in_place_of_a_directory(source: Path, tmp_path: Path) -> None:
    there, elsewhere = tmp_path / "workspace", tmp_path / "elsewhere"
    there.mkdir()
    elsewhere.mkdir()
    (there / "deep").symlink_to(elsewhere)
    with pytest.raises(OSError, match="deep") as caught:
        fill(source, there)
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert list(elsewhere.iterdir()) == []


def test_directories_that_are_nested_too_deep(tmp_path: Path) -> None:
    source, there = tmp_path / "source", tmp_path / "workspace"
    here = source
    here.mkdir()
    descriptor = os.open(here, os.O_RDONLY)
    for _ in range(copying._MAX_DEPTH + 1):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    with pytest.raises(OSError, match="nested too deep"):
        fill(source, there)


def test_a_source_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        fill(tmp_path / "missing", tmp_path / "workspace")

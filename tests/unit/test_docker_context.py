from __future__ import annotations

import hashlib
import io
import os
import socket
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_sandboxes.backends.docker.context import Context, ContextError

pytest.importorskip("docker", reason="the docker SDK is not installed")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    for name, content in {
        "Dockerfile": "FROM x\n",
        "main.py": "print()\n",
        "package/data.txt": "data",
        "package/deep/er.txt": "deep",
        "notes.md": "notes",
        "ä ö/ü.txt": "names",
    }.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)
    return directory


def packed(directory: Path, dockerfile: Path | None = None) -> bytes:
    return b"".join(Context(directory, dockerfile or directory / "Dockerfile").archive())


def names(archive: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as unpacked:
        return {member.name for member in unpacked if not member.isdir()}


ALL = {"Dockerfile", "main.py", "package/data.txt", "package/deep/er.txt", "notes.md", "ä ö/ü.txt"}


def test_it_unpacks_to_the_same_files(project: Path, tmp_path: Path) -> None:
    (project / "link").symlink_to("package/data.txt")
    (project / "run").write_bytes(os.urandom(700_001))
    (project / "run").chmod(0o755)
    (project / os.fsdecode(b"\xff")).write_text("no UTF-8")
    (project / ("long" * 60)).write_text("long")
    (project / "empty").touch()
    with tarfile.open(fileobj=io.BytesIO(packed(project))) as unpacked:
        unpacked.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)  # new in 3.11.4
        unpacked.extractall(tmp_path / "out")
    for path in project.rglob("*"):
        copy = tmp_path / "out" / path.relative_to(project)
        assert copy.is_symlink() == path.is_symlink()
        assert copy.stat().st_mode == path.stat().st_mode
        if path.is_file():
            assert copy.read_bytes() == path.read_bytes()


def test_the_same_files_are_the_same_bytes(project: Path) -> None:
    before = packed(project)
    for path in project.rglob("*"):
        os.utime(path, (time.time() - 1e6,) * 2)
    (project / "main.py").rename(project / "x")
    (project / "x").rename(project / "main.py")
    assert packed(project) == before


def edit(project: Path) -> None:
    (project / "main.py").write_text("print( )\n")


def make_executable(project: Path) -> None:
    (project / "main.py").chmod(0o755)


def rename(project: Path) -> None:
    (project / "main.py").rename(project / "Main.py")


def make_a_link(project: Path) -> None:
    (project / "main.py").unlink()
    (project / "main.py").symlink_to("notes.md")


def make_a_directory(project: Path) -> None:
    (project / "new").mkdir()


@pytest.mark.parametrize("change", [edit, make_executable, rename, make_a_link, make_a_directory])
def test_other_files_are_other_bytes(project: Path, change: Callable[[Path], None]) -> None:
    before = hashlib.sha256(packed(project)).digest()
    change(project)
    assert hashlib.sha256(packed(project)).digest() != before


@pytest.mark.parametrize(
    ("ignored", "left_out"),
    [
        ("*.md", {"notes.md"}),
        ("# a comment\n\n  notes.md  \n", {"notes.md"}),
        ("package", {"package/data.txt", "package/deep/er.txt"}),
        ("package\n!package/deep", {"package/data.txt"}),
        ("**/*.txt", {"package/data.txt", "package/deep/er.txt", "ä ö/ü.txt"}),
        ("package/*.txt", {"package/data.txt"}),
        ("*\n!main.py", ALL - {"main.py", "Dockerfile"}),
        ("Dockerfile", set()),  # the Engine needs it, and leaves it out itself
        ("\ufeffnotes.md", {"notes.md"}),
    ],
)
def test_what_is_ignored(project: Path, ignored: str, left_out: set[str]) -> None:
    (project / ".dockerignore").write_text(ignored)
    assert names(packed(project)) == ALL - left_out | {".dockerignore"}


def test_a_dockerfile_from_elsewhere_is_not_among_the_files(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.dockerfile"
    other.write_text("FROM y\n")
    (project / ".dockerignore").write_text("notes.md")
    context = Context(project, other)
    archive = b"".join(context.archive())
    with tarfile.open(fileobj=io.BytesIO(archive)) as unpacked:
        sent = unpacked.extractfile(context.dockerfile)
        assert sent is not None
        assert sent.read() == b"FROM y\n"
        ignore = unpacked.extractfile(".dockerignore")
        assert ignore is not None
        assert ignore.read().decode().split() == ["notes.md", context.dockerfile]
    assert names(archive) == ALL - {"notes.md"} | {".dockerignore", context.dockerfile}


def test_links_do_not_lead_outside(project: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("KEY-MATERIAL")
    (project / "file").symlink_to(secret / "key")
    (project / "directory").symlink_to(secret)
    archive = packed(project)
    assert b"KEY-MATERIAL" not in archive
    assert names(archive) == ALL | {"file", "directory"}


def test_what_no_image_can_have_is_left_out(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(project / "pipe")
    monkeypatch.chdir(project)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        assert names(packed(project)) == ALL


def test_a_file_that_shrinks_meanwhile(project: Path) -> None:
    big = project / "big"
    big.write_bytes(bytes(2_000_000))
    with pytest.raises(ContextError, match=r"/big has changed while it was read"):
        for part in Context(project, project / "Dockerfile").archive():
            if len(part) > 100_000:
                os.truncate(big, 1000)


def test_a_file_that_becomes_a_pipe_is_not_waited_for(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.lstat
    main = project / "main.py"

    def swap(path: Path) -> os.stat_result:
        found = original(path)
        if path == main:
            main.unlink()
            os.mkfifo(main)
        return found

    monkeypatch.setattr(Path, "lstat", swap)
    with pytest.raises(ContextError, match=r"main\.py has changed while it was read"):
        packed(project)


def test_what_cannot_be_read(project: Path) -> None:
    (project / ".dockerignore").write_bytes(b"\xff")
    with pytest.raises(ContextError, match=r"\.dockerignore is not UTF-8"):
        packed(project)
    if os.geteuid():
        (project / ".dockerignore").unlink()
        (project / "main.py").chmod(0)
        with pytest.raises(ContextError, match=r"main\.py cannot be read: Permission denied"):
            packed(project)

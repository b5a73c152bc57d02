"""Files and trees between this machine and a slot."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pytest_sandboxes import OutputLimitExceededError, Slot
from tests.conformance.capabilities import Capability

pytestmark = pytest.mark.needs(Capability.TREES)


def tree(top: Path) -> dict[str, bytes | None]:
    """All that is below `top`: content of files, None for directories."""
    return {
        str(path.relative_to(top)): None if path.is_dir() else path.read_bytes()
        for path in sorted(top.rglob("*"))
    }


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with a bit of everything that can be copied."""
    top = tmp_path / "source"
    (top / "deep" / "deeper").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "deep" / "deeper" / "leaf").write_bytes(bytes(range(256)))
    (top / "run").write_text("#!/bin/sh\necho ran\n")
    (top / "run").chmod(0o755)
    (top / ".hidden").touch()
    (top / os.fsdecode(b"odd \xff\n")).write_text("odd")
    return top


class TestUpload:
    def test_a_file(self, sandbox: Slot, source: Path) -> None:
        sandbox.upload(source / "run", "made/for it/tool")
        assert sandbox.exec("made/for it/tool", "now").stdout == "ran\n"

    def test_a_tree(self, sandbox: Slot, source: Path, tmp_path: Path) -> None:
        sandbox.upload(source, "made/tree")
        assert sandbox.exec("made/tree/run").stdout == "ran\n"
        assert sandbox.download("made/tree", tmp_path / "back") == []
        assert tree(tmp_path / "back") == tree(source)
        assert mode(tmp_path / "back" / "run") == 0o755

    def test_into_the_workspace_itself(self, sandbox: Slot, source: Path) -> None:
        sandbox.upload(str(source), ".")
        assert sandbox.exec("./run").stdout == "ran\n"

    def test_over_what_is_there(self, sandbox: Slot, source: Path) -> None:
        sandbox.sh(
            "mkdir -p tree/deep; echo longer than before > tree/run; ln -s /etc/passwd tree/.hidden; : > tree/other"
        )
        sandbox.upload(source, "tree")
        assert sandbox.exec("tree/run").stdout == "ran\n"
        assert sandbox.read_bytes("tree/.hidden") == b""
        assert len(sandbox.list_files("tree")) == 6
        assert sandbox.exec("test", "-e", "tree/other").success

    def test_links_within_the_tree_become_files(self, sandbox: Slot, source: Path) -> None:
        (source / "link").symlink_to("deep/deeper/leaf")
        sandbox.upload(source, "tree")
        assert {each.path: each.type for each in sandbox.list_files("tree")}["link"] == "file"
        assert sandbox.read_bytes("tree/link") == bytes(range(256))

    @pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "deep", "nowhere"])
    def test_other_links_are_refused_before_anything_is_sent(
        self, sandbox: Slot, source: Path, target: str
    ) -> None:
        (source.parent / "secret").write_text("secret")
        (source / "zlink").symlink_to(target)
        with pytest.raises(ValueError, match="zlink"):
            sandbox.upload(source, "tree")
        assert sandbox.list_files() == []

    def test_of_what_is_missing(self, sandbox: Slot, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            sandbox.upload(tmp_path / "missing", "file")
        assert sandbox.exec("true").success

    def test_to_where_it_cannot_go(self, sandbox: Slot, source: Path) -> None:
        sandbox.write_text("file", "content")
        with pytest.raises(NotADirectoryError):
            sandbox.upload(source / "run", "file/below")
        with pytest.raises(OSError, match="/proc"):
            sandbox.upload(source / "run", "/proc/file")
        with pytest.raises(IsADirectoryError):
            sandbox.upload(source / "run", ".")
        assert sandbox.read_text("file") == "content"


class TestDownload:
    def test_a_file(self, sandbox: Slot, tmp_path: Path) -> None:
        sandbox.write_bytes("folder/file", b"content", mode=0o755)
        assert sandbox.download("folder/file", tmp_path / "copy") == []
        assert (tmp_path / "copy").read_bytes() == b"content"
        assert mode(tmp_path / "copy") == 0o755

    def test_a_hundred_megabytes(self, sandbox: Slot, tmp_path: Path) -> None:
        content = os.urandom(1 << 20) * 100
        (tmp_path / "big").write_bytes(content)
        sandbox.upload(tmp_path / "big", "big")
        sandbox.download("big", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == content

    def test_names_what_it_leaves_out(self, sandbox: Slot, tmp_path: Path) -> None:
        sandbox.sh(
            "mkdir -p tree/sub; cd tree; echo x > file; mkfifo sub/fifo; ln -s /etc/passwd link; ln -s sub dir"
        )
        assert sorted(sandbox.download("tree", tmp_path / "copy")) == ["dir", "link", "sub/fifo"]
        assert tree(tmp_path / "copy") == {"file": b"x\n", "sub": None}

    @pytest.mark.needs(Capability.ISOLATION)  # otherwise it may be root who reads
    def test_names_what_it_cannot_read(self, sandbox: Slot, tmp_path: Path) -> None:
        sandbox.sh(
            "mkdir -p tree/closed; cd tree; echo x > closed/file; echo y > unreadable; chmod 0 closed unreadable"
        )
        assert sorted(sandbox.download("tree", tmp_path / "copy")) == ["closed", "unreadable"]
        assert tree(tmp_path / "copy") == {"closed": None}

    def test_over_what_is_there(self, sandbox: Slot, tmp_path: Path) -> None:
        copy = tmp_path / "copy"
        (copy / "sub").mkdir(parents=True)
        (copy / "file").write_text("much longer than the new one")
        (copy / "other").touch()
        sandbox.sh("mkdir -p tree/sub; echo new > tree/file; echo x > tree/sub/leaf")
        sandbox.download("tree", copy)
        assert tree(copy) == {"file": b"new\n", "other": b"", "sub": None, "sub/leaf": b"x\n"}

    def test_never_through_a_link_in_the_destination(self, sandbox: Slot, tmp_path: Path) -> None:
        copy, outside = tmp_path / "copy", tmp_path / "outside"
        copy.mkdir()
        outside.mkdir()
        (outside / "victim").write_text("untouched")
        (copy / "folder").symlink_to(outside)
        (copy / "file").symlink_to(outside / "victim")
        sandbox.sh("mkdir -p tree tree2/folder; echo evil > tree/file; echo evil > tree2/folder/victim")
        sandbox.download("tree", copy)
        assert (copy / "file").read_text() == "evil\n"
        with pytest.raises(OSError, match="folder"):
            sandbox.download("tree2", copy)
        assert tree(outside) == {"victim": b"untouched"}

    def test_strips_setuid_and_leaves_files_to_their_owner(self, sandbox: Slot, tmp_path: Path) -> None:
        sandbox.sh(
            "mkdir tree; cd tree; : > suid; : > bare; chmod 6777 suid; chmod 0500 bare; mkdir -m 3777 dir"
        )
        sandbox.download("tree", tmp_path / "copy")
        modes = {path.name: mode(path) for path in (tmp_path / "copy").iterdir()}
        assert modes == {"suid": 0o777, "bare": 0o700, "dir": 0o755}
        assert all(path.stat().st_uid == os.geteuid() for path in (tmp_path / "copy").iterdir())

    def test_limits(self, sandbox: Slot, tmp_path: Path) -> None:
        sandbox.sh(
            "mkdir tree; cd tree; for i in 1 2 3 4; do echo content > $i; done; truncate -s 2G ../huge"
        )
        assert sandbox.download("tree", tmp_path / "enough", max_entries=4, max_bytes=32) == []
        for limits in ({"max_entries": 3}, {"max_bytes": 31}):
            with pytest.raises(OutputLimitExceededError, match="tree holds more than"):
                sandbox.download("tree", tmp_path / "copy", **limits)
        with pytest.raises(OutputLimitExceededError, match="1073741824 bytes"):
            sandbox.download("huge", tmp_path / "copy2")
        assert sandbox.exec("true").success

    def test_to_where_it_cannot_go(self, sandbox: Slot, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        sandbox.sh("mkdir tree; echo x > tree/file")
        for name, destination in (("tree", tmp_path / "file"), ("tree/file", tmp_path / "file" / "below")):
            with pytest.raises(OSError, match=f"'{destination}'") as caught:
                sandbox.download(name, destination)
            assert caught.value.filename == str(destination)
        assert sandbox.exec("true").success

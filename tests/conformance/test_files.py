"""Reading and writing files: content, modes, parents, limits, names."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

import pytest

from pytest_sandboxes import OutputLimitExceededError, Slot

NAMES = [
    "plain",
    "with space",
    "-dash",
    "--",
    "new\nline",
    "tab\tand \x1b[31mescape",
    "grüße-🙂",
    "'quoted\"$(x)`y`;*?",
    b"not utf-8 \xff\xfe",
    "x" * 255,
]
"""Names that are awkward somewhere."""


class TestRoundTrip:
    @pytest.mark.parametrize(
        "content", [b"", b"x", bytes(range(256)) * 5000], ids=["empty", "one", "all bytes"]
    )
    def test_bytes(self, sandbox: Slot, content: bytes) -> None:
        sandbox.write_bytes("file", content)
        read = sandbox.read_bytes("file")
        assert read == content
        assert isinstance(read, bytes)
        assert not read.truncated
        assert sandbox.exec("cat", "file").stdout_bytes == content

    def test_text(self, sandbox: Slot) -> None:
        content = "grüße 🙂\r\nsecond\rthird\n\0"
        sandbox.write_text("file", content)
        read = sandbox.read_text("file")
        assert read == content
        assert isinstance(read, str)
        assert not read.truncated

    def test_text_in_another_encoding(self, sandbox: Slot) -> None:
        sandbox.write_text("file", "grüße", encoding="latin-1")
        assert sandbox.read_bytes("file") == b"gr\xfc\xdfe"
        assert sandbox.read_text("file", encoding="latin-1") == "grüße"
        assert sandbox.read_text("file", errors="replace") == "gr��e"
        with pytest.raises(UnicodeDecodeError):
            sandbox.read_text("file")

    def test_a_hundred_megabytes(self, sandbox: Slot) -> None:
        content = os.urandom(1 << 20) * 100
        sandbox.write_bytes("big", content)
        assert sandbox.read_bytes("big") == content

    def test_a_file_that_is_shorter_than_before(self, sandbox: Slot) -> None:
        sandbox.write_bytes("file", b"long content")
        sandbox.write_bytes("file", b"short")
        assert sandbox.read_bytes("file") == b"short"

    @pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
    def test_names(self, sandbox: Slot, name: str | bytes) -> None:
        sandbox.write_text(name, "content")
        assert sandbox.read_text(name) == "content"
        (entry,) = sandbox.list_files()
        assert entry.path_bytes == os.fsencode(name)
        assert sandbox.read_text(entry.path_bytes) == "content"
        entry.path.encode()  # no lone surrogate, which no report could hold
        assert "\x1b" not in entry.path

    def test_paths(self, sandbox: Slot) -> None:
        sandbox.write_text(PurePosixPath("a/b"), "relative")
        assert sandbox.read_text(f"{sandbox.workspace}/a/b") == "relative"
        assert sandbox.read_text(b"./a/../a//b") == "relative"
        home = sandbox.sh("printf %s $HOME").stdout
        sandbox.write_text(f"{home}/c", "absolute")
        assert sandbox.exec("cat", f"{home}/c").stdout == "absolute"

    def test_through_a_link(self, sandbox: Slot) -> None:
        sandbox.sh("echo -n target > target; ln -s target link")
        assert sandbox.read_text("link") == "target"
        sandbox.write_text("link", "new")
        assert sandbox.read_text("target") == "new"
        assert [entry.type for entry in sandbox.list_files()] == ["symlink", "file"]


class TestParents:
    def test_are_made(self, sandbox: Slot) -> None:
        sandbox.write_text("a/b/c/file", "deep")
        assert sandbox.exec("cat", "a/b/c/file").stdout == "deep"

    def test_that_are_there_stay_as_they_are(self, sandbox: Slot) -> None:
        sandbox.sh("mkdir -m 700 a; touch a/other")
        sandbox.write_text("a/file", "")
        (entry,) = sandbox.list_files()
        assert entry.mode == 0o700
        assert len(sandbox.list_files("a")) == 2


class TestMode:
    def test_is_readable_by_default(self, sandbox: Slot) -> None:
        sandbox.write_text("file", "")
        assert sandbox.list_files()[0].mode == 0o644

    @pytest.mark.parametrize("mode", [0o600, 0o755, 0o666, 0o400, 0o1777, 0])
    def test_is_what_was_asked_for(self, sandbox: Slot, mode: int) -> None:
        sandbox.write_text("file", "", mode=mode)
        assert sandbox.list_files()[0].mode == mode

    def test_is_kept_unless_asked_for(self, sandbox: Slot) -> None:
        sandbox.write_text("file", "#!/bin/sh\necho one", mode=0o755)
        sandbox.write_text("file", "#!/bin/sh\necho two")
        assert sandbox.exec("./file").stdout == "two\n"
        sandbox.write_text("file", "", mode=0o600)
        assert sandbox.list_files()[0].mode == 0o600

    @pytest.mark.parametrize("mode", [-1, 0o10000])
    def test_that_cannot_be_is_refused(self, sandbox: Slot, mode: int) -> None:
        with pytest.raises(ValueError, match="mode"):
            sandbox.write_text("file", "", mode=mode)


class TestLimit:
    def test_cuts_and_says_so(self, sandbox: Slot) -> None:
        sandbox.write_bytes("file", b"0123456789")
        cut = sandbox.read_bytes("file", max_bytes=4)
        assert (cut, cut.truncated) == (b"0123", True)
        nothing = sandbox.read_bytes("file", max_bytes=0)
        assert (nothing, nothing.truncated) == (b"", True)
        for enough in (10, 11, 1 << 40):
            whole = sandbox.read_bytes("file", max_bytes=enough)
            assert (whole, whole.truncated) == (b"0123456789", False)
        sandbox.write_bytes("empty", b"")
        assert not sandbox.read_bytes("empty", max_bytes=0).truncated

    def test_may_fall_inside_a_character(self, sandbox: Slot) -> None:
        sandbox.write_text("file", "aüü")
        cut = sandbox.read_text("file", max_bytes=4)
        assert (cut, cut.truncated) == ("aü", True)
        sandbox.write_bytes("broken", b"a\xffbc")
        with pytest.raises(UnicodeDecodeError):
            sandbox.read_text("broken", max_bytes=3)

    def test_of_its_own_is_an_error(self, sandbox: Slot) -> None:
        sandbox.sh(f"truncate -s 101M file; truncate -s {1 << 40} huge")
        for name in ("file", "huge"):
            with pytest.raises(
                OutputLimitExceededError, match=rf"{name} is larger than 104857600 bytes.*max_bytes="
            ):
                sandbox.read_bytes(name)
        assert len(sandbox.read_bytes("huge", max_bytes=5 << 20)) == 5 << 20

    @pytest.mark.parametrize("limit", [-1, True, 1.5])
    def test_that_cannot_be_is_refused(self, sandbox: Slot, limit: int) -> None:
        with pytest.raises(ValueError if limit == -1 else TypeError, match="max_bytes"):
            sandbox.read_bytes("file", max_bytes=limit)

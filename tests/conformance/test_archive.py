"""Archives: the three formats, what is in them, what is cut."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from typing import NamedTuple

import pytest

from pytest_sandboxes import OutputLimitExceededError, Slot
from pytest_sandboxes.file_operations import ArchiveFormat
from tests.conformance.capabilities import Capability

pytestmark = pytest.mark.needs(Capability.TREES)

FORMATS: tuple[ArchiveFormat, ...] = ("tar", "tar.gz", "zip")


class Member(NamedTuple):
    content: bytes
    mode: int
    link: str


def members(archive: bytes, kind: ArchiveFormat) -> dict[str, Member]:
    """Everything in an archive by name, directories with a slash at the end."""
    found = {}
    if kind == "zip":
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            assert packed.testzip() is None
            for info in packed.infolist():
                mode = info.external_attr >> 16
                content = packed.read(info)
                link = content.decode() if stat.S_ISLNK(mode) else ""
                found[info.filename] = Member(b"" if link else content, stat.S_IMODE(mode), link)
        return found
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz" if kind == "tar.gz" else "r:") as tar:
        for member in tar.getmembers():
            file = tar.extractfile(member) if member.isreg() else None
            name = member.name + "/" * member.isdir()
            found[name] = Member(b"" if file is None else file.read(), member.mode, member.linkname)
    return found


@pytest.mark.parametrize("kind", FORMATS)
def test_a_tree(sandbox: Slot, kind: ArchiveFormat) -> None:
    content = bytes(range(256)) * 1000
    sandbox.write_bytes("tree/deep/file", content, mode=0o755)
    sandbox.sh(
        "cd tree; : > .empty; mkdir -m 700 bare; ln -s deep/file link; ln -s /etc/passwd out; mkfifo fifo"
    )
    archive = sandbox.archive("tree", format=kind)
    assert not archive.truncated
    assert members(archive, kind) == {
        ".empty": Member(b"", 0o644, ""),
        "bare/": Member(b"", 0o700, ""),
        "deep/": Member(b"", 0o755, ""),
        "deep/file": Member(content, 0o755, ""),
        "link": Member(b"", 0o777, "deep/file"),
        "out": Member(b"", 0o777, "/etc/passwd"),
    }


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file(sandbox: Slot, kind: ArchiveFormat) -> None:
    sandbox.write_bytes("folder/file", b"content", mode=0o600)
    sandbox.sh("ln -s folder/file link")
    assert members(sandbox.archive("folder/file", format=kind), kind) == {
        "file": Member(b"content", 0o600, "")
    }
    assert members(sandbox.archive("link", format=kind), kind) == {"link": Member(b"content", 0o600, "")}


@pytest.mark.parametrize("kind", FORMATS)
def test_the_workspace_is_the_default(sandbox: Slot, kind: ArchiveFormat) -> None:
    assert members(sandbox.archive(format=kind), kind) == {}
    sandbox.write_bytes("file", b"content")
    assert members(sandbox.archive(format=kind), kind) == {"file": Member(b"content", 0o644, "")}


@pytest.mark.parametrize("kind", FORMATS)
def test_odd_names_times_and_sizes(sandbox: Slot, kind: ArchiveFormat) -> None:
    sandbox.exec("touch", "-d", "@-9000000000", b"\xff old")
    sandbox.exec("touch", "-d", "@9000000000", "new\nline")
    sandbox.write_bytes("n" * 255, bytes(1 << 20))
    found = members(sandbox.archive(format=kind), kind)
    odd = "\\xff old" if kind == "zip" else "\udcff old"
    assert found == {
        odd: Member(b"", 0o644, ""),
        "new\nline": Member(b"", 0o644, ""),
        "n" * 255: Member(bytes(1 << 20), 0o644, ""),
    }


@pytest.mark.parametrize("kind", FORMATS)
class TestLimit:
    def test_cuts_and_says_so(self, sandbox: Slot, kind: ArchiveFormat) -> None:
        sandbox.sh("head -c 1m /dev/urandom > file")
        whole = sandbox.archive(format=kind)
        cut = sandbox.archive(format=kind, max_bytes=1000)
        assert (len(cut), cut.truncated) == (1000, True)
        just = sandbox.archive(format=kind, max_bytes=len(whole))
        assert not just.truncated
        assert members(just, kind) == members(whole, kind)

    def test_ends_the_work_on_what_nobody_wants(self, sandbox: Slot, kind: ArchiveFormat) -> None:
        # packing all of it would take longer than any test
        sandbox.sh(f"truncate -s {8 << 40} huge; head -c 1m /dev/urandom > first")
        assert sandbox.archive(format=kind, max_bytes=1000).truncated

    def test_cannot_be_negative(self, sandbox: Slot, kind: ArchiveFormat) -> None:
        with pytest.raises(ValueError, match="max_bytes"):
            sandbox.archive(format=kind, max_bytes=-1)


def test_a_limit_of_its_own_is_an_error(sandbox: Slot) -> None:
    sandbox.sh("truncate -s 101M huge")
    with pytest.raises(OutputLimitExceededError, match=r"huge is larger than 104857600 bytes.*max_bytes="):
        sandbox.archive("huge")
    assert len(sandbox.archive("huge", format="tar.gz")) < 1 << 20


def test_other_formats_are_refused(sandbox: Slot) -> None:
    with pytest.raises(ValueError, match=r"'tar', 'tar.gz' or 'zip', not 'rar'"):
        sandbox.archive(format="rar")  # type: ignore[arg-type]

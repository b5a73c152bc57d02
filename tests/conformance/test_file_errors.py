"""What goes wrong with files raises what Python itself would, with the name."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_sandboxes import Slot
from tests.conformance.capabilities import Capability
from tests.conformance.helpers import python

OPERATIONS: dict[str, Callable[[Slot, str], object]] = {
    "read": lambda slot, path: slot.read_bytes(path),
    "write": lambda slot, path: slot.write_bytes(path, b"content"),
    "list": lambda slot, path: slot.list_files(path),
    "archive": lambda slot, path: slot.archive(path),
    "download": lambda slot, path: slot.download(path, "never-made"),
}
_TREES = pytest.mark.needs(Capability.TREES)
ARCHIVE = pytest.param("archive", marks=_TREES)
DOWNLOAD = pytest.param("download", marks=_TREES)
ON_WHAT_IS_THERE = ["read", "list", ARCHIVE, DOWNLOAD]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fails(slot: Slot, operation: str, path: str, error: type[OSError], number: int) -> None:
    with pytest.raises(error) as caught:
        OPERATIONS[operation](slot, path)
    assert caught.value.errno == number
    assert str(caught.value.filename).endswith(path)
    assert not Path("never-made").exists()


@pytest.mark.parametrize("operation", ON_WHAT_IS_THERE)
@pytest.mark.parametrize("path", ["missing", "missing/below", "/no/such"])
def test_missing(sandbox: Slot, operation: str, path: str) -> None:
    fails(sandbox, operation, path, FileNotFoundError, errno.ENOENT)


@pytest.mark.parametrize("operation", ["read", "write"])
def test_a_directory_where_a_file_is_wanted(sandbox: Slot, operation: str) -> None:
    sandbox.sh("mkdir directory")
    fails(sandbox, operation, "directory", IsADirectoryError, errno.EISDIR)


def test_a_file_where_a_directory_is_wanted(sandbox: Slot) -> None:
    sandbox.write_text("file", "")
    fails(sandbox, "list", "file", NotADirectoryError, errno.ENOTDIR)


@pytest.mark.parametrize("operation", [*ON_WHAT_IS_THERE, "write"])
@pytest.mark.parametrize("path", ["file/below", "file/far/below"])
def test_below_a_file(sandbox: Slot, operation: str, path: str) -> None:
    sandbox.write_text("file", "content")
    with pytest.raises(NotADirectoryError) as caught:
        OPERATIONS[operation](sandbox, path)
    assert "file" in str(caught.value.filename)
    assert sandbox.read_text("file") == "content"


@pytest.mark.needs(Capability.ISOLATION)  # otherwise it may be root who asks
class TestPermission:
    @pytest.mark.parametrize("operation", ["read", ARCHIVE, "write"])
    def test_of_a_file(self, sandbox: Slot, operation: str) -> None:
        sandbox.write_text("closed", "content", mode=0)
        fails(sandbox, operation, "closed", PermissionError, errno.EACCES)

    @pytest.mark.parametrize("operation", ["read", "list", ARCHIVE, DOWNLOAD, "write"])
    def test_of_a_directory(self, sandbox: Slot, operation: str) -> None:
        sandbox.sh("mkdir -p closed/inner; chmod 0 closed")
        fails(sandbox, operation, "closed/inner", PermissionError, errno.EACCES)

    def test_of_what_is_not_the_codes(self, sandbox: Slot) -> None:
        with pytest.raises(OSError, match="/usr/bin/env") as caught:
            sandbox.write_text("/usr/bin/env", "")
        assert caught.value.errno in (errno.EROFS, errno.EACCES)
        assert sandbox.exec("/usr/bin/env", "true").success

    @pytest.mark.parametrize("mode", ["000", "100", "444"])
    def test_nothing_is_left_out_unsaid(self, sandbox: Slot, mode: str) -> None:
        sandbox.sh(f"mkdir -p tree/closed; touch tree/closed/file; chmod {mode} tree/closed")
        with pytest.raises(PermissionError, match="closed|tree"):
            sandbox.list_files("tree", recursive=True, max_entries=10)
        assert [entry.path for entry in sandbox.list_files("tree")] == ["closed"]

    @pytest.mark.needs(Capability.TREES)
    @pytest.mark.parametrize("mode", ["000", "100", "444"])
    def test_no_archive_goes_without_it(self, sandbox: Slot, mode: str) -> None:
        sandbox.sh(f"mkdir -p tree/closed; touch tree/closed/file; chmod {mode} tree/closed")
        with pytest.raises(PermissionError, match="closed"):
            sandbox.archive("tree")


@pytest.mark.parametrize("operation", ["read", "write"])
@pytest.mark.parametrize("path", ["fifo", "/dev/null", "/dev/zero", "/dev/tty"])
def test_what_is_no_regular_file(sandbox: Slot, operation: str, path: str) -> None:
    sandbox.sh("mkfifo fifo")
    with pytest.raises(OSError, match=r"fifo|/dev") as caught:
        OPERATIONS[operation](sandbox, path)
    assert caught.value.errno in (errno.EINVAL, errno.EACCES, errno.EROFS)


@pytest.mark.needs(Capability.PYTHON)
@pytest.mark.parametrize("operation", ["read", "write"])
def test_a_socket(sandbox: Slot, operation: str) -> None:
    python(sandbox, "import socket; socket.socket(socket.AF_UNIX).bind('socket')")
    with pytest.raises(OSError, match="socket") as caught:
        OPERATIONS[operation](sandbox, "socket")
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    "path",
    ["/proc/self/maps", "/proc/self/environ", "/proc/1/maps", "/proc/version", "/proc/sys/kernel/hostname"],
)
def test_entries_of_proc(sandbox: Slot, path: str) -> None:
    # /proc/self would be the agent's own, whoever made the link
    sandbox.exec("ln", "-s", path, "link")
    for name in (path, "link"):
        with pytest.raises(OSError, match=r"Invalid argument|Permission denied") as caught:
            sandbox.read_bytes(name)
        assert caught.value.errno in (errno.EINVAL, errno.EACCES)


@pytest.mark.parametrize("operation", ["read", "write"])
def test_links_that_lead_nowhere(sandbox: Slot, operation: str) -> None:
    sandbox.sh("ln -s loop loop")
    fails(sandbox, operation, "loop", OSError, errno.ELOOP)


@pytest.mark.parametrize("operation", [*ON_WHAT_IS_THERE, "write"])
def test_names_that_cannot_be(sandbox: Slot, operation: str) -> None:
    fails(sandbox, operation, "x" * 256, OSError, errno.ENAMETOOLONG)
    with pytest.raises(ValueError, match="NUL"):
        OPERATIONS[operation](sandbox, "a\0b")
    with pytest.raises(TypeError):
        OPERATIONS[operation](sandbox, 1)  # type: ignore[arg-type]


def test_a_hostile_name_in_a_message(sandbox: Slot) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        sandbox.read_bytes(b"\x1b[31m\xff")
    assert "\x1b" not in str(caught.value)
    str(caught.value).encode()


@pytest.mark.sandbox(disk=4)
@pytest.mark.needs(Capability.QUOTAS)
class TestFullDisk:
    def test_of_a_write(self, sandbox: Slot) -> None:
        with pytest.raises(OSError, match="No space left") as caught:
            sandbox.write_bytes("big", bytes(8 << 20))
        assert caught.value.errno == errno.ENOSPC
        assert str(caught.value.filename).endswith("/big")
        sandbox.exec("rm", "big")
        sandbox.write_bytes("small", b"fits")
        assert sandbox.read_bytes("small") == b"fits"

    def test_of_a_command(self, sandbox: Slot) -> None:
        result = sandbox.sh("dd if=/dev/zero of=big bs=1M count=8")
        assert not result.success
        assert "No space left" in result.stderr
        assert sandbox.exec("echo", "still runs").success

    @pytest.mark.needs(Capability.TREES)
    def test_of_an_upload(self, sandbox: Slot, tmp_path: Path) -> None:
        (tmp_path / "big").write_bytes(bytes(8 << 20))
        with pytest.raises(OSError, match="No space left") as caught:
            sandbox.upload(tmp_path, "tree")
        assert str(caught.value.filename).endswith("/tree/big")

"""Listing directories: what an entry says, what is followed, what is cut."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_sandboxes import OutputLimitExceededError, Slot
from tests.conformance.capabilities import Capability
from tests.conformance.helpers import GENEROUS, python

TREE = """
    mkdir -p tree/deep/deeper tree/empty; cd tree
    printf hello > file; : > .hidden; printf x > deep/deeper/leaf
    ln -s deep link; ln -s nowhere dangling; mkfifo fifo
"""
NAMES = [
    ".hidden",
    "dangling",
    "deep",
    "deep/deeper",
    "deep/deeper/leaf",
    "empty",
    "fifo",
    "file",
    "link",
]


def test_types(sandbox: Slot) -> None:
    sandbox.sh(TREE, check=True)
    found = {entry.path: entry.type for entry in sandbox.list_files("tree")}
    assert found == {
        ".hidden": "file",
        "dangling": "symlink",
        "deep": "directory",
        "empty": "directory",
        "fifo": "fifo",
        "file": "file",
        "link": "symlink",
    }
    assert {entry.path: entry.type for entry in sandbox.list_files("/dev")}["null"] == "device"


@pytest.mark.needs(Capability.PYTHON)
def test_a_socket(sandbox: Slot) -> None:
    python(sandbox, "import socket; socket.socket(socket.AF_UNIX).bind('socket')")
    assert [(entry.path, entry.type) for entry in sandbox.list_files()] == [("socket", "socket")]


def test_recursive(sandbox: Slot) -> None:
    sandbox.sh(TREE, check=True)
    listing = sandbox.list_files("tree", recursive=True)
    assert [entry.path for entry in listing] == NAMES
    assert [entry.path_bytes for entry in listing] == [name.encode() for name in NAMES]
    assert not listing.truncated


def test_the_workspace_is_the_default_and_empty_at_first(sandbox: Slot) -> None:
    assert sandbox.list_files() == []
    sandbox.write_text("b", "")
    sandbox.write_text("a", "")
    assert [entry.path for entry in sandbox.list_files()] == ["a", "b"]


def test_a_link_to_a_directory_is_followed_when_it_is_the_top(sandbox: Slot) -> None:
    sandbox.sh(TREE, check=True)
    assert [entry.path for entry in sandbox.list_files("tree/link", recursive=True)] == [
        "deeper",
        "deeper/leaf",
    ]


def test_size_mode_and_time(sandbox: Slot) -> None:
    sandbox.sh("printf 12345 > file; chmod 4751 file; touch -d @1000000000 file; truncate -s 5G sparse")
    file, sparse = sandbox.list_files()
    assert (file.size, file.mode, file.mtime) == (5, 0o4751, 1000000000)
    assert sparse.size == 5 << 30


@pytest.mark.needs(Capability.PYTHON)
def test_times_that_no_calendar_has(sandbox: Slot) -> None:
    code = """
        import os
        for number, when in enumerate((-2**62, -9e9, 1e9 + 0.25, 9e15, 2**62)):
            os.mknod(str(number))
            os.utime(str(number), (0, when))
            print(os.stat(str(number)).st_mtime)  # what the file system makes of it
    """
    times = [float(line) for line in python(sandbox, code).stdout.splitlines()]
    assert [entry.mtime for entry in sandbox.list_files()] == times
    assert times[0] < 0
    assert times[2] == 1e9 + 0.25


def test_digests_on_request(sandbox: Slot) -> None:
    content = bytes(range(256)) * 4000
    sandbox.write_bytes("tree/file", content)
    sandbox.sh("cd tree; ln -s file link; mkfifo fifo; mkdir directory; : > empty")
    digests = {entry.path: entry.sha256 for entry in sandbox.list_files("tree", sha256=True)}
    assert digests == {
        "directory": None,
        "empty": hashlib.sha256().hexdigest(),
        "fifo": None,
        "file": hashlib.sha256(content).hexdigest(),
        "link": None,
    }
    assert {entry.sha256 for entry in sandbox.list_files("tree")} == {None}


def test_names_that_are_not_text(sandbox: Slot) -> None:
    sandbox.exec("touch", b"\xff\xfe", "new\nline", "\x1b[31m", "ü")
    listing = sandbox.list_files()
    assert {entry.path_bytes for entry in listing} == {b"\xff\xfe", b"new\nline", b"\x1b[31m", "ü".encode()}
    assert {entry.path for entry in listing} == {"\\xff\\xfe", "new\nline", "\\x1b[31m", "ü"}


class TestLimit:
    def test_cuts_and_says_so(self, sandbox: Slot) -> None:
        sandbox.sh(TREE, check=True)
        for limit in range(len(NAMES) + 2):
            listing = sandbox.list_files("tree", recursive=True, max_entries=limit)
            assert [entry.path for entry in listing] == NAMES[:limit]
            assert listing.truncated == (limit < len(NAMES))

    def test_of_its_own_is_an_error(self, sandbox: Slot) -> None:
        sandbox.sh("seq 100001 | xargs touch")
        with pytest.raises(OutputLimitExceededError, match=r"more than 100000 entries.*max_entries="):
            sandbox.list_files()

    @pytest.mark.parametrize("limit", [-1, True, 1.5])
    def test_that_cannot_be_is_refused(self, sandbox: Slot, limit: int) -> None:
        with pytest.raises(ValueError if limit == -1 else TypeError, match="max_entries"):
            sandbox.list_files(max_entries=limit)


def test_a_huge_directory_and_a_slot_that_answers_meanwhile(sandbox: Slot) -> None:
    count = 200_000
    sandbox.sh(f"mkdir d; cd d; seq {count} | xargs touch")
    with ThreadPoolExecutor() as pool:
        listing = pool.submit(sandbox.list_files, "d", max_entries=count)
        answered = 0
        while not listing.done():
            began = time.monotonic()
            assert sandbox.exec("sleep", "0.1").success
            assert time.monotonic() - began < GENEROUS
            answered += 1
        found = listing.result()
    assert answered > 3
    assert (len(found), found.truncated) == (count, False)
    assert {entry.path for entry in found[:1000]} <= {str(number) for number in range(1, count + 1)}

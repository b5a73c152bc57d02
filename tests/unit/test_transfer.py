from __future__ import annotations

import errno
import os
import stat
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes import transfer
from pytest_sandboxes.agent import tree, wire
from pytest_sandboxes.errors import OutputLimitExceededError, SandboxLostError
from pytest_sandboxes.streams import Piped
from pytest_sandboxes.transfer import _Reader
from tests.unit.fake_agent import Line, file_answer
from tests.unit.fake_port import FakePort
from tests.unit.test_tree import TOP, record, snapshot
from tests.waiting import DEADLINE

FINE = file_answer()
MISSING = {"error": "FileNotFoundError", "errno": 2, "message": "", "filename": b"there"}


def download(
    line: Line, destination: Path, data: bytes, answer: dict[str, object], **limits: int
) -> list[str]:
    """What a download makes of an agent that sends this and then answers that."""
    options = {"max_bytes": 1000, "max_entries": 10, **limits}
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(transfer.download, line, "there", destination, **options)
        number, message = line.agent.receive_request()
        assert (message["op"], message["action"], message["path"]) == ("file", "send", b"there")
        for at in range(0, len(data), 7):
            line.agent.send(wire.STDOUT, number, data[at : at + 7])
        line.agent.send(wire.RESULT, number, wire.encode(answer))
        return done.result(DEADLINE)


# -- downloads


def test_a_tree_arrives_and_what_was_left_out_is_named(line: Line, tmp_path: Path) -> None:
    data = (
        TOP + record("directory", b"a") + record("file", b"a/b", b"content") + record("symlink", b"\xff\x1b")
    )
    assert download(line, tmp_path / "here", data, FINE) == [r"\xff\x1b"]
    assert (tmp_path / "here" / "a" / "b").read_bytes() == b"content"
    assert line.losses == []


@pytest.mark.parametrize(
    "data",
    [
        b"garbage that is no tree",
        record("file", b"a", b"x"),
        TOP + record("file", b"../a", b"x"),
        TOP + record("file", b"/tmp/a", b"x"),
        TOP + record("file", b"a", b"x", size=5),
        TOP + record("directory", b"a\0b"),
        record("file", b"", b"x") + TOP,
    ],
)
def test_an_agent_that_sends_no_tree_is_lost_and_writes_nothing_outside(
    line: Line, tmp_path: Path, data: bytes
) -> None:
    with pytest.raises(SandboxLostError, match="sent no tree"):
        download(line, tmp_path / "here", data, FINE)
    assert len(line.losses) == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"here"}


def test_what_the_sandbox_says_is_told_rather_than_how_its_stream_ended(line: Line, tmp_path: Path) -> None:
    for data in (b"", TOP + record("file", b"a", b"x", size=5)):
        with pytest.raises(FileNotFoundError, match="there"):
            download(line, tmp_path / "here", data, MISSING)
    assert line.losses == []


@pytest.mark.parametrize(
    ("data", "limits"),
    [
        (TOP + record("file", b"a", b"123456"), {"max_bytes": 5}),
        (TOP + record("directory", b"a") + record("directory", b"b"), {"max_entries": 1}),
        (record("file", b"", size=1 << 50), {"max_bytes": 1 << 40}),
    ],
)
def test_more_than_the_limits_allow_is_an_error_of_the_caller(
    line: Line, tmp_path: Path, data: bytes, limits: dict[str, int]
) -> None:
    with pytest.raises(OutputLimitExceededError, match="pass larger"):
        download(line, tmp_path / "here", data, FINE, **limits)
    assert line.losses == []


def test_a_tree_that_the_sandbox_cut_is_an_error_of_the_caller(line: Line, tmp_path: Path) -> None:
    with pytest.raises(OutputLimitExceededError, match="more than 10 entries, or is too deep"):
        download(line, tmp_path / "here", TOP, {**FINE, "truncated": True})


def test_a_destination_that_cannot_be_written_ends_the_transfer(line: Line, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        download(line, tmp_path / "file" / "here", TOP, FINE)
    assert caught.value.filename == str(tmp_path / "file" / "here")
    assert line.agent.receive(wire.KILL)
    assert line.losses == []


def test_what_cannot_be_written_is_named_as_a_path_of_this_machine(line: Line, tmp_path: Path) -> None:
    (tmp_path / "here" / "sub" / "leaf").mkdir(parents=True)
    (tmp_path / "here" / "file").touch()
    for data, error, name in (
        (TOP + record("file", b"sub/leaf", b"x"), IsADirectoryError, "sub/leaf"),
        (TOP + record("directory", b"file/below"), NotADirectoryError, "file/below"),
    ):
        with pytest.raises(error) as caught:
            download(line, tmp_path / "here", data, FINE)
        assert caught.value.filename == str(tmp_path / "here" / name)
        assert line.agent.receive(wire.KILL)


def test_a_full_disk_of_this_machine_is_named(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tree, "write_all", full)
    for data, name in ((TOP + record("file", b"a", b"x"), "here/a"), (record("file", b"", b"x"), "there")):
        with pytest.raises(OSError, match="No space left") as caught:
            download(line, tmp_path / name.partition("/")[0], data, FINE)
        assert caught.value.filename == str(tmp_path / name)
        assert line.agent.receive(wire.KILL)


def test_a_sandbox_that_is_lost_on_the_way(line: Line, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        limits = {"max_bytes": 1000, "max_entries": 10}
        done = threads.submit(transfer.download, line, "there", tmp_path / "here", **limits)
        number, _ = line.agent.receive_request()
        line.agent.send(wire.STDOUT, number, TOP)
        line.agent.close()
        with pytest.raises(SandboxLostError, match=r"it was lost: its (agent ended|stream broke)"):
            done.result(DEADLINE)


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8), st.lists(st.integers(1, 30)))
def test_a_stream_reads_like_a_file(pieces: list[bytes], sizes: list[int]) -> None:
    stream = Piped()
    for piece in pieces:
        stream.feed(piece)
    stream.end(None)
    reader = _Reader(stream)
    read = b""
    for size in [*sizes, *[100] * len(pieces)]:
        part = reader.read(size)
        assert len(part) <= size
        read += part
    assert read == b"".join(pieces)
    assert reader.read(1) == b""


# -- uploads


def make_tree(folder: Path) -> Path:
    (folder / "sub" / "empty").mkdir(parents=True)
    (folder / "sub" / "script").write_bytes(b"#!/bin/sh\n")
    (folder / "sub" / "script").chmod(0o755)
    (folder / "big").write_bytes(bytes(range(256)) * 5000)
    (folder / os.fsdecode(b"caf\xc3\xa9\n\xff")).write_bytes(b"odd")
    (folder / "private").write_bytes(b"")
    (folder / "private").chmod(0o600)
    return folder


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """What is below a folder, by relative path: permission bits and content of files, 0 for directories."""
    return {
        str(Path(path).relative_to(folder)): (stat.S_IMODE(mode) if stat.S_ISREG(mode) else 0, data)
        for path, (_, mode, data) in snapshot(folder).items()
    }


def test_a_tree_goes_there_and_comes_back(port: FakePort, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    transfer.upload(port, source, "deep/there")
    assert content(tmp_path / "workspace" / "deep" / "there") == content(source)
    limits = {"max_bytes": 1 << 30, "max_entries": 100}
    assert transfer.download(port, "deep/there", tmp_path / "back", **limits) == []
    assert content(tmp_path / "back") == content(source)


def test_a_file_goes_there_and_comes_back(port: FakePort, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"content")
    (tmp_path / "source").chmod(0o640)
    transfer.upload(port, tmp_path / "source", "deep/there")
    assert transfer.download(port, "deep/there", tmp_path / "back", max_bytes=7, max_entries=0) == []
    assert (tmp_path / "back").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "back").stat().st_mode) == 0o640


def test_links_special_files_and_what_cannot_be_read_are_named(port: FakePort, tmp_path: Path) -> None:
    folder = tmp_path / "workspace" / "there"
    folder.mkdir()
    (folder / "link").symlink_to("/etc/passwd")
    os.mkfifo(folder / "fifo")
    (folder / "file").touch()
    left_out = transfer.download(port, "there", tmp_path / "back", max_bytes=10, max_entries=10)
    assert sorted(left_out) == ["fifo", "link"]
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["file"]


def test_a_link_to_a_file_of_the_tree_is_copied_as_that_file(port: FakePort, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    (source / "link").symlink_to("sub/script")
    transfer.upload(port, source, "there")
    link = tmp_path / "workspace" / "there" / "link"
    assert not link.is_symlink()
    assert link.read_bytes() == b"#!/bin/sh\n"


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "sub", "nowhere", "loop", "/", "."])
def test_other_links_are_refused_before_anything_is_sent(line: Line, tmp_path: Path, target: str) -> None:
    source = make_tree(tmp_path / "source")
    (tmp_path / "outside").write_bytes(b"secret")
    (source / "loop").symlink_to(target)
    with pytest.raises(
        ValueError,
        match="is a link to a directory, to nothing, or to outside of .*: upload a tree with a copy",
    ):
        transfer.upload(line, source, "there")
    assert line.connection._requests == {}


def test_what_the_sandbox_says_against_an_upload_is_told(port: FakePort, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "source")
    (tmp_path / "workspace" / "file").touch()
    with pytest.raises(NotADirectoryError):
        transfer.upload(port, source, "file/there")
    (source / "huge").write_bytes(bytes(8 * wire.WINDOW))
    with pytest.raises(NotADirectoryError):
        transfer.upload(port, source, "file/there")
    assert port.losses == []


def test_a_missing_source_is_pythons_own_error(port: FakePort, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        transfer.upload(port, tmp_path / "nowhere", "there")
    assert caught.value.filename == str(tmp_path / "nowhere")
    frames = {Path(entry.path).name for entry in caught.traceback}
    assert frames == {"transfer.py", "test_transfer.py"}  # and none of pathlib's, which pytest would show
    assert not (tmp_path / "workspace" / "there").exists()


def test_a_source_that_cannot_be_read_is_pythons_own_error(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_tree(tmp_path / "source")

    def closed(path: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PermissionError):
        transfer.upload(line, source, "there")
    assert line.connection._requests == {}


def test_special_files_are_no_source_and_left_out_of_trees(port: FakePort, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    os.mkfifo(tmp_path / "source" / "fifo")
    with pytest.raises(ValueError, match="fifo is neither a file nor a directory"):
        transfer.upload(port, tmp_path / "source" / "fifo", "there")
    transfer.upload(port, tmp_path / "source", "there")
    assert content(tmp_path / "workspace" / "there") == {}


class Outbox:
    """A request that takes what is written to it when it is told to."""

    def __init__(self) -> None:
        self.future: Future[dict[str, object]] = Future()
        self.future.set_result(file_answer())
        self.waiting: deque[Future[None]] = deque()
        self.most = 0

    def write(self, _: bytes) -> Future[None]:
        self.waiting.append(Future())
        self.most = max(self.most, len(self.waiting))
        return self.waiting[-1]

    def end_input(self) -> None:
        pass


def test_little_is_read_ahead_of_what_has_been_sent(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(64 * wire.WINDOW))
    outbox = Outbox()
    port: Any = SimpleNamespace(request=lambda *_, **__: outbox, oom_kills=lambda: 0)
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(transfer.upload, port, tmp_path / "source", "there")
        while not done.done():
            if len(outbox.waiting) > transfer._AHEAD:
                outbox.waiting.popleft().set_result(None)
        done.result(DEADLINE)
    assert outbox.most == transfer._AHEAD + 1

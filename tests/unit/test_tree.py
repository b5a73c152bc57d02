from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_sandboxes.agent import tree, wire
from pytest_sandboxes.agent.tree import Exactly, Extracted, TreeError, extract

UNLIMITED = 1 << 40
SYSTEM_ERRORS = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR}

names = (
    st.binary(min_size=1, max_size=20)
    .filter(lambda name: name not in {b".", b".."})
    .map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))
)
hostile_names = st.sampled_from(
    [
        *(b"..", b".", b"", b"a", b"b", b"a\0b", b"x" * 300, b"outside", b"\xff\n"),
        *(b"dir", b"file", b"fifo", b"link", b"link_to_file", b"loop", b"hard"),
    ]
)
hostile_paths = st.lists(hostile_names, max_size=5).map(b"/".join) | st.sampled_from(
    [b"/etc/passwd", b"/", b"../outside/secret", b"a/" * 600, b"a" * 8000]
)
kinds = st.sampled_from(["file", "file", "directory", "symlink", "device", ""])


def record(kind: str, path: bytes, content: bytes = b"", mode: int = 0o644, size: int | None = None) -> bytes:
    header = wire.encode([kind, path, mode, len(content) if size is None else size])
    return len(header).to_bytes(4, "big") + header + content


TOP = record("directory", b"", mode=0o755)

hostile_records = st.builds(
    record,
    kinds,
    hostile_paths,
    st.binary(max_size=8),
    st.integers(-1, 0o177777),
    st.none() | st.integers(-1, 20),
)


def unpack(
    data: bytes, destination: Path, max_bytes: int = UNLIMITED, max_entries: int = UNLIMITED
) -> Extracted:
    return extract(io.BytesIO(data), os.fsencode(destination), max_bytes, max_entries)


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """All that there is below a folder: inode, mode and content of each."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path)] = (status.st_ino, status.st_mode, content)
    return found


def plant(world: Path) -> tuple[Path, Path]:
    """A destination full of traps, beside what they lead to."""
    destination, outside = world / "destination", world / "outside"
    (destination / "dir").mkdir(parents=True)
    outside.mkdir(mode=0o700)
    (outside / "secret").write_bytes(b"secret")
    (destination / "file").write_bytes(b"old")
    (destination / "link").symlink_to(outside)
    (destination / "link_to_file").symlink_to("../outside/secret")
    (destination / "dir" / "link").symlink_to("../../outside")
    (destination / "loop").symlink_to("loop")
    (destination / "hard").hardlink_to(outside / "secret")
    os.mkfifo(destination / "fifo")
    return destination, outside


# -- hostile trees


@settings(max_examples=150)
@given(st.booleans(), st.lists(hostile_records, max_size=6))
def test_nothing_outside_the_destination_is_touched(with_top: bool, records: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        destination, outside = plant(world)
        before = snapshot(outside)
        with contextlib.suppress(OSError):
            unpack(TOP * with_top + b"".join(records), destination)
        assert snapshot(outside) == before
        assert {path.name for path in world.iterdir()} == {"destination", "outside"}
        for path in destination.rglob("*"):
            assert path.is_symlink() or not path.lstat().st_mode & (
                stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
            )


@given(
    st.binary(max_size=100) | st.lists(hostile_records, max_size=3).map(lambda parts: TOP + b"".join(parts))
)
def test_what_is_no_tree_is_a_tree_error(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # what the tree may name but this file system cannot hold, or not both of, is an error of the system
        try:
            unpack(data, Path(folder, "new"))
        except OSError as error:
            allowed = isinstance(error, TreeError) or error.errno in SYSTEM_ERRORS
        else:
            allowed = True
        assert allowed
        assert {path.name for path in Path(folder).iterdir()} <= {"new"}


@pytest.mark.parametrize(
    "path",
    [b"..", b"../x", b"a/../../x", b"/x", b"//x", b"x/", b"a//x", b".", b"./x", b"a\0", b"a/" * 600 + b"a"],
)
@pytest.mark.parametrize("kind", ["file", "directory", "symlink"])
def test_no_path_below_the_destination(kind: str, path: bytes, tmp_path: Path) -> None:
    with pytest.raises(TreeError, match="not a path below the destination"):
        unpack(TOP + record(kind, path), tmp_path / "new")
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\0", "ends in the middle"),
        (b"\0\0\0\5ab", "ends in the middle"),
        (b"\xff\xff\xff\xff", "a header of"),
        (b"\0\0\0\1x", "malformed|cut short"),
        (b"\0\0\0\1N", "not a header"),
        (record("file", b"a", b"abc"), "does not begin with its top"),
        (record("symlink", b""), "neither a file nor a directory"),
        (record("directory", b"", size=1), "impossible size"),
        (TOP + record("file", b"a", size=-1), "impossible size"),
        (TOP + record("file", b"a", b"abc", size=4), "ends in the middle"),
        (record("file", b"", b"abc") + TOP, "second record after a single file"),
    ],
)
def test_malformed_trees(data: bytes, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(TreeError, match=complaint):
        unpack(data, tmp_path / "new")


@pytest.mark.parametrize("trap", ["link", "loop", "link_to_file", "fifo"])
def test_no_directory_is_made_through_a_trap(trap: str, tmp_path: Path) -> None:
    destination, outside = plant(tmp_path)
    before = snapshot(outside)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        unpack(TOP + record("file", os.fsencode(f"{trap}/planted"), b"x"), destination)
    assert snapshot(outside) == before


@pytest.mark.parametrize("trap", ["link", "loop", "link_to_file", "fifo", "hard", "file"])
def test_a_file_takes_the_place_of_a_trap(trap: str, tmp_path: Path) -> None:
    destination, outside = plant(tmp_path)
    before = snapshot(outside)
    unpack(TOP + record("file", os.fsencode(trap), b"new"), destination)
    assert snapshot(outside) == before
    made = (destination / trap).lstat()
    assert stat.S_ISREG(made.st_mode)
    assert made.st_nlink == 1
    assert (destination / trap).read_bytes() == b"new"


@pytest.mark.parametrize("trap", ["link_to_file", "fifo", "loop"])
def test_a_single_file_replaces_files_only(trap: str, tmp_path: Path) -> None:
    destination, outside = plant(tmp_path)
    before = snapshot(outside), snapshot(destination)
    with pytest.raises(FileExistsError):
        unpack(record("file", b"", b"new"), destination / trap)
    assert (snapshot(outside), snapshot(destination)) == before


class Meddler:
    """The module `os`, but for somebody who does something just before the call of a given number."""

    def __init__(self, instant: int, meddle: Callable[[], None]) -> None:
        self.calls = 0
        self._instant = instant
        self._meddle = meddle

    def __getattr__(self, name: str) -> Any:
        original = getattr(os, name)
        if not callable(original):
            return original

        def call(*arguments: Any, **options: Any) -> Any:
            if self.calls == self._instant:
                self._meddle()
            self.calls += 1
            return original(*arguments, **options)

        return call


def test_a_directory_swapped_for_a_link_at_any_moment_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (
        TOP + record("directory", b"dir") + record("file", b"dir/a", b"x") + record("file", b"dir/b/c", b"x")
    )
    instant = refused = 0
    while True:
        world = tmp_path / str(instant)
        place, outside = world / "destination" / "dir", world / "outside"
        place.mkdir(parents=True)
        outside.mkdir()

        def swap(place: Path = place, outside: Path = outside) -> None:
            place.rename(outside.parent / "aside")
            place.symlink_to(outside)

        meddler = Meddler(instant, swap)
        with monkeypatch.context() as patch:
            patch.setattr(tree, "os", meddler)
            try:
                unpack(data, world / "destination")
            except OSError:
                refused += 1
        assert list(outside.iterdir()) == []
        if not place.is_symlink():  # there were no calls any more to come between
            break
        instant += 1
    assert instant >= 20
    assert refused >= 5


# -- modes and limits


@pytest.mark.parametrize("mode", [0, 0o644, 0o755, 0o4755, 0o2755, 0o7777, 0o177777, -1])
def test_files_get_permission_bits_only_and_stay_their_owners(mode: int, tmp_path: Path) -> None:
    unpack(TOP + record("file", b"a", mode=mode), tmp_path / "new")
    assert stat.S_IMODE((tmp_path / "new" / "a").stat().st_mode) == mode & 0o777 | 0o600


@pytest.mark.parametrize("mode", [0, 0o7777, -1])
def test_directories_get_the_usual_mode(mode: int, tmp_path: Path) -> None:
    unpack(record("directory", b"", mode=mode) + record("directory", b"a", mode=mode), tmp_path / "new")
    (tmp_path / "usual").mkdir(mode=0o755)
    usual = (tmp_path / "usual").stat().st_mode
    assert (tmp_path / "new" / "a").stat().st_mode == usual


def test_as_many_entries_as_allowed(tmp_path: Path) -> None:
    data = TOP + record("directory", b"a") + record("symlink", b"b")
    assert unpack(data, tmp_path / "enough", max_entries=3).skipped == [(b"b", "symlink")]
    with pytest.raises(TreeError) as caught:
        unpack(data, tmp_path / "few", max_entries=2)
    assert caught.value.errno == errno.EFBIG


def test_as_many_bytes_as_allowed(tmp_path: Path) -> None:
    data = TOP + record("file", b"a", b"123") + record("file", b"b", b"45")
    assert unpack(data, tmp_path / "enough", max_bytes=5).size == 5
    with pytest.raises(TreeError) as caught:
        unpack(data, tmp_path / "little", max_bytes=4)
    assert caught.value.errno == errno.EFBIG
    assert sum(len(content) for _, _, content in snapshot(tmp_path / "little").values()) <= 4


def test_a_size_beyond_the_limit_is_refused_before_its_content(tmp_path: Path) -> None:
    with pytest.raises(TreeError, match="larger than allowed"):
        unpack(record("file", b"", size=1 << 62), tmp_path / "new", max_bytes=1 << 30)
    assert not (tmp_path / "new").exists()


# -- round trips


class Folder:
    """A tree as one would draw it: content and mode of each file, and the empty directories."""

    def __init__(
        self, files: dict[tuple[bytes, ...], tuple[bytes, int]], folders: list[tuple[bytes, ...]]
    ) -> None:
        self.files = files
        self.folders = folders

    def pack(self, scratch: Path) -> bytes:
        """The tree as `tree` writes it, with its directories before what is in them."""
        parts = [TOP]
        write = parts.append
        folders = {path[:depth] for path in [*self.files, *self.folders] for depth in range(1, len(path))}
        for folder in sorted(folders | set(self.folders)):
            tree.write_directory(write, b"/".join(folder), 0o755)
        for path, (content, mode) in self.files.items():
            scratch.write_bytes(content)
            with scratch.open("rb") as file:
                tree.write_file(write, b"/".join(path), mode, file.fileno())
        return b"".join(parts)


@st.composite
def folders(draw: st.DrawFn) -> Folder:
    some = draw(st.lists(st.lists(names, min_size=1, max_size=3).map(tuple), max_size=6, unique=True))
    # no path below a file
    leaves = [
        path for path in some if not any(other != path and other[: len(path)] == path for other in some)
    ]
    split = draw(st.integers(0, len(leaves)))
    content = st.tuples(st.binary(max_size=2000), st.integers(0o600, 0o777))
    return Folder({path: draw(content) for path in leaves[:split]}, leaves[split:])


@settings(max_examples=50)
@given(folders())
def test_a_tree_arrives_as_it_was(folder: Folder) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch, "new")
        made = unpack(folder.pack(Path(scratch, "content")), top)
        assert made.size == sum(len(content) for content, _ in folder.files.values())
        for path, (content, mode) in folder.files.items():
            arrived = top.joinpath(*map(os.fsdecode, path))
            assert arrived.read_bytes() == content
            assert stat.S_IMODE(arrived.stat().st_mode) == mode | 0o600
        for path in folder.folders:
            arrived = top.joinpath(*map(os.fsdecode, path))
            assert list(arrived.iterdir()) == []


def test_a_single_file_arrives_over_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"something older and longer")
    assert unpack(record("file", b"", b"new", mode=0o700), tmp_path / "new").size == 3
    assert (tmp_path / "new").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_a_tree_goes_over_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "new" / "a").mkdir(parents=True)
    (tmp_path / "new" / "a" / "kept").touch()
    unpack(TOP + record("directory", b"a") + record("file", b"a/b"), tmp_path / "new")
    assert {path.name for path in (tmp_path / "new" / "a").iterdir()} == {"kept", "b"}


@given(st.binary(max_size=50), st.integers(0, 60), st.lists(st.integers(-1, 60)))
def test_a_file_has_the_size_that_was_announced_whatever_becomes_of_it(
    content: bytes, size: int, reads: list[int]
) -> None:
    exactly = Exactly(io.BytesIO(content), size)
    data = b"".join(exactly.read(each) for each in reads) + exactly.read()
    assert data == content[:size].ljust(size, b"\0")
    assert exactly.read() == b""

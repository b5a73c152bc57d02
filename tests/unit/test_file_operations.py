from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes import file_operations
from pytest_sandboxes.agent import wire
from pytest_sandboxes.errors import (
    OutputLimitExceededError,
    SandboxLostError,
)
from pytest_sandboxes.results import FileBytes, Listing
from tests.unit.fake_agent import FILE_RESULT, file_answer, junk
from tests.unit.fake_port import AnsweringPort


def test_a_file_is_read_up_to_the_limit() -> None:
    whole = file_operations.read(AnsweringPort(file_answer(), b"abc"), "a", None).result()
    assert (whole, whole.truncated) == (b"abc", False)
    port = AnsweringPort(file_answer(stdout_cut=True), b"abc")
    part = file_operations.read(port, "a", 3).result()
    assert (part, part.truncated, port.asked["limit"]) == (b"abc", True, 3)
    with pytest.raises(OutputLimitExceededError, match="a is larger than 104857600 bytes: pass max_bytes="):
        file_operations.read(port, "a", None).result()


def test_an_archive_is_cut_by_bytes_or_entries() -> None:
    for changes in ({"stdout_cut": True}, {"truncated": True}):
        port = AnsweringPort(file_answer(**changes), b"abc")
        assert file_operations.archive(port, "a", "zip", 3).result() == FileBytes(b"abc")
        assert file_operations.archive(port, "a", "zip", 3).result().truncated
        with pytest.raises(OutputLimitExceededError, match="pass max_bytes="):
            file_operations.archive(port, "a", "zip", None).result()
    with pytest.raises(ValueError, match=r"'tar', 'tar.gz' or 'zip', not 'rar'"):
        file_operations.archive(AnsweringPort(FILE_RESULT), "a", "rar", None)


def test_a_write_that_lost_bytes_and_says_nothing_loses_the_sandbox() -> None:
    file_operations.write(AnsweringPort(file_answer(size=3)), "a", b"abc", 0o600).result()
    port = AnsweringPort(file_answer(size=2))
    with pytest.raises(SandboxLostError, match="2 of 3 bytes written"):
        file_operations.write(port, "a", b"abc", None).result()
    assert port.losses


@pytest.mark.parametrize("mode", [-1, 0o10000])
def test_impossible_modes(mode: int) -> None:
    with pytest.raises(ValueError, match="mode has to be permission bits such as 0o644, at most 0o7777"):
        file_operations.write(AnsweringPort(FILE_RESULT), "a", b"", mode)


@pytest.mark.parametrize("limit", [-1, 1.5, True, "3", None])
def test_limits_are_numbers(limit: Any) -> None:
    for ask in (
        lambda: file_operations.read(AnsweringPort(FILE_RESULT), "a", limit),
        lambda: file_operations.archive(AnsweringPort(FILE_RESULT), "a", "tar", limit),
        lambda: file_operations.list_files(
            AnsweringPort(FILE_RESULT), "a", recursive=False, sha256=False, max_entries=limit
        ),
    ):
        if limit is None:
            ask()
        else:
            error = ValueError if limit == -1 else TypeError
            with pytest.raises(error, match="has to be a whole number that is not below 0"):
                ask()


def test_a_limit_beyond_all_bounds_is_no_limit() -> None:
    port = AnsweringPort(file_answer(), b"abc")
    assert file_operations.read(port, "a", 1 << 100).result() == b"abc"
    wire.encode(port.asked["limit"])


def entry(**changes: object) -> bytes:
    fields = {"path": b"a", "type": "file", "size": 1, "mode": 0o644, "mtime": 1.5, "sha256": None, **changes}
    data = wire.encode(list(fields.values()))
    return len(data).to_bytes(4, "big") + data


def listing(output: bytes, max_entries: int | None = None, *, cut: bool = False) -> Listing:
    port = AnsweringPort(file_answer(truncated=cut), output)
    try:
        return file_operations.list_files(
            port, ".", recursive=True, sha256=True, max_entries=max_entries
        ).result()
    except SandboxLostError:
        assert len(port.losses) == 1
        raise


def test_a_listing_is_sorted_and_its_names_are_safe() -> None:
    found = listing(entry(path=b"b\xff", mode=0o107777) + entry(path=b"a\x1b", type="symlink", sha256="0"))
    assert [(each.path, each.path_bytes, each.type) for each in found] == [
        (r"a\x1b", b"a\x1b", "symlink"),
        (r"b\xff", b"b\xff", "file"),
    ]
    assert [each.mode for each in found] == [0o644, 0o7777]


def test_a_listing_says_that_it_was_cut() -> None:
    assert listing(entry(), 1, cut=True).truncated
    with pytest.raises(OutputLimitExceededError, match="more than 100000 entries"):
        listing(entry(), cut=True)


@pytest.mark.parametrize(
    "output",
    [
        entry(type="unheard of"),
        entry(path="text"),
        entry(size=-1),
        entry(size=True),
        entry(mode=0.5),
        entry(mtime=float("nan")),
        entry(mtime=float("inf")),
        entry(mtime=1),
        entry(sha256=b""),
        entry(more=None),
        entry()[:-1],
        entry()[:3],
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        entry() * 3,
        *(
            len(data).to_bytes(4, "big") + data
            for data in map(wire.encode, (None, [], {}, [b"a", "file", 1, 1, 1.0]))
        ),
    ],
)
def test_a_malformed_listing_loses_the_sandbox(output: bytes) -> None:
    with pytest.raises(SandboxLostError, match="broke the protocol"):
        listing(output, 2)


@given(
    st.binary()
    | st.lists(junk, max_size=7).map(lambda fields: entry(**dict(zip("abcdefg", fields, strict=False))))
)
def test_any_listing_is_a_listing_or_a_loss(output: bytes) -> None:
    with contextlib.suppress(SandboxLostError):
        assert repr(listing(output))

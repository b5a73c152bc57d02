from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes.agent.wire import ProtocolError
from pytest_sandboxes.backends.docker.attached import Demultiplexer


def framed(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxxxL", kind, len(content)) + content


@given(
    pieces=st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50)), max_size=10),
    cuts=st.lists(st.integers(1, 40), max_size=40),
)
def test_however_it_is_cut_both_outputs_come_whole(pieces: list[tuple[int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(framed(kind, content) for kind, content in pieces)
    outputs = Demultiplexer()
    came = b""
    for size in [*cuts, len(stream) + 1]:
        came += b"".join(outputs.feed(memoryview(stream[:size])))
        stream = stream[size:]
    assert came == b"".join(content for kind, content in pieces if kind == 1)
    assert outputs.complaint == b"".join(content for kind, content in pieces if kind == 2)


@pytest.mark.parametrize("kind", [3, 4, 72, 255])
def test_what_no_engine_sends(kind: int) -> None:
    with pytest.raises(ProtocolError, match=f"number {kind}"):
        Demultiplexer().feed(memoryview(framed(kind, b"x")))


def test_endless_complaints_are_cut() -> None:
    outputs = Demultiplexer()
    for _ in range(100):
        assert outputs.feed(memoryview(framed(2, bytes(1000)))) == []
    assert len(outputs.complaint) < 6000

from __future__ import annotations

import signal
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes.agent import wire
from pytest_sandboxes.agent.wire import (
    FrameReader,
    Numbering,
    ProtocolError,
    decode,
    decode_dict,
    encode,
    frame,
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
)
values: st.SearchStrategy[Any] = scalars
for _ in range(4):
    values = values | st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=4), values, max_size=4)

frames = st.lists(
    st.tuples(st.integers(0, 255), st.integers(0, (1 << 32) - 1), st.binary(max_size=64)), max_size=8
)


def same(left: object, right: object) -> bool:
    """Equal in type as well: 1, 1.0 and True are three values here."""
    return left == right and repr(left) == repr(right)


# -- values


@given(values)
def test_a_value_comes_back_as_it_was(value: object) -> None:
    assert same(decode(encode(value)), value)


def test_what_is_like_a_list_or_bytes_comes_back_as_that() -> None:
    assert decode(encode((1, bytearray(b"a"), memoryview(b"b")))) == [1, b"a", b"b"]


def test_values_of_derived_types_come_back_as_what_they_are_derived_from() -> None:
    class Odd(float):
        def __repr__(self) -> str:
            return "as other libraries do"

    class Odder(dict[str, object]):
        pass

    assert same(decode(encode([Odd(1.5), signal.SIGKILL, Odder(a=1)])), [1.5, 9, {"a": 1}])


def test_not_a_number_is_a_number_all_the_same() -> None:
    assert str(decode(encode(float("nan")))) == "nan"


@pytest.mark.parametrize("value", [object(), {1: 2}, {b"a": 1}, {1, 2}, 1j, [object()]])
def test_other_types_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        encode(value)


@pytest.mark.parametrize("value", [1 << 63, -(1 << 63) - 1, "\ud800"])
def test_what_has_no_encoding_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"beyond 64 bits|surrogates"):
        encode(value)


def test_nesting_is_bounded() -> None:
    value: list[Any] = []
    for _ in range(8):
        value = [value]
    assert decode(encode(value)) == value
    with pytest.raises(ProtocolError, match="too deep"):
        decode(encode([value]))
    with pytest.raises(ProtocolError, match="too deep"):
        decode(b"l\0\0\0\1" * 100_000 + b"N")


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """An encoded value with some bytes of it changed, cut off or added."""
    encoded = bytearray(encode(draw(values)))
    for _ in range(draw(st.integers(0, 3))):
        encoded[draw(st.integers(0, len(encoded) - 1))] = draw(st.integers(0, 255))
    return bytes(encoded[: draw(st.integers(0, len(encoded)))]) + draw(st.binary(max_size=2))


@given(st.binary() | mangled())
def test_hostile_bytes_are_a_value_or_a_protocol_error(data: bytes) -> None:
    try:
        value = decode(data)
    except ProtocolError:
        return
    assert repr(decode(encode(value))) == repr(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"NN",
        b"i1234567",
        b"d\0",
        b"d\3abc",
        b"d\5 1",
        b"s\0\0\0\2a",
        b"s\0\0\0\1\xff",
        b"b\0\0\0",
        b"l\0\0\0\1",
        b"m\0\0\0\1NN",
        encode({"a": 1})[:-1],
        b"m\0\0\0\2" + 2 * (encode("a") + b"N"),
    ],
)
def test_malformed_values(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


def test_only_a_mapping_is_a_mapping() -> None:
    assert decode_dict(encode({"a": 1})) == {"a": 1}
    with pytest.raises(ProtocolError, match="mapping"):
        decode_dict(encode([]))


def memory_to_decode(data: bytes) -> int:
    """The most bytes that were allocated at a time while `data` was decoded."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        try:
            value = decode(data)
        except ProtocolError:
            value = None
        assert value is None or value
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("tag", [b"s", b"b", b"l", b"m"])
def test_a_length_that_is_not_there_costs_nothing(tag: bytes) -> None:
    assert memory_to_decode(tag + b"\xff\xff\xff\xff" + bytes(100)) < 10_000


@pytest.mark.parametrize(
    "item", [b"N", b"l\0\0\0\0", b"m\0\0\0\0", b"d\x011", b"s\0\0\0\2ab", encode({"a": None})]
)
def test_a_value_takes_memory_in_proportion_to_its_bytes(item: bytes) -> None:
    count = wire.MAX_RESULT // len(item)
    data = b"l" + count.to_bytes(4, "big") + item * count
    assert memory_to_decode(data) < 50 * len(data)


# -- frames


@given(frames, st.data())
def test_frames_come_out_whole_however_the_stream_is_cut(
    sent: list[tuple[int, int, bytes]], data: st.DataObject
) -> None:
    stream = Numbering().number(b"".join(frame(*each) for each in sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reader = FrameReader()
    received = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += reader.feed(stream[start:stop])
    assert received == sent


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_hostile_streams_are_frames_or_a_protocol_error(pieces: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for piece in pieces:
            for _, _, payload in reader.feed(piece):
                assert len(payload) <= wire.MAX_PAYLOAD
    except ProtocolError:
        pass


def test_a_frame_may_be_as_large_as_agreed() -> None:
    payload = bytes(wire.MAX_PAYLOAD)
    assert FrameReader().feed(frame(1, 2, payload)) == [(1, 2, payload)]


def test_a_larger_frame_is_refused_at_its_header() -> None:
    reader = FrameReader()
    assert reader.feed(frame(1, 2)) == [(1, 2, b"")]
    header = frame(1, 2, bytes(wire.MAX_PAYLOAD + 1))[: wire.HEADER_SIZE]
    assert reader.feed(header[:-1]) == []
    with pytest.raises(ProtocolError, match=f"frame of {wire.MAX_PAYLOAD + 1} bytes"):
        reader.feed(header[-1:])


def test_numbers_go_round() -> None:
    numbers, reader = Numbering(), FrameReader()
    numbers.coming = reader._numbers.coming = 0xFFFFFFFF
    assert reader.feed(numbers.number(frame(1, 2) + frame(3, 4, b"x"))) == [(1, 2, b""), (3, 4, b"x")]


@given(st.data())
def test_a_frame_that_is_not_the_next_is_refused(data: st.DataObject) -> None:
    numbers = Numbering()
    sent = [numbers.number(frame(1, 2, b"same")) for _ in range(5)]
    order = data.draw(st.lists(st.integers(0, 4), min_size=1).filter(lambda it: it != [*range(len(it))]))
    with pytest.raises(ProtocolError, match="missing, comes twice or out of turn"):
        FrameReader().feed(b"".join(sent[each] for each in order))

from __future__ import annotations

import asyncio
import threading
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes.agent.wire import WINDOW, ProtocolError
from pytest_sandboxes.errors import SandboxLostError
from pytest_sandboxes.streams import Kept, Piped
from tests.waiting import DEADLINE, wait_until

NEVER = 0.001
"""Seconds to wait for what cannot come."""

pieces = st.lists(st.binary(min_size=1, max_size=40), max_size=10)


# -- kept


@given(pieces, st.integers(0, 400))
def test_all_is_kept_up_to_the_limit_and_no_byte_more(sent: list[bytes], limit: int) -> None:
    kept = Kept(limit)
    total = b""
    for piece in sent:
        if len(total + piece) > limit:
            with pytest.raises(ProtocolError, match="more output than was asked for"):
                kept.feed(piece)
            return
        kept.feed(piece)
        total += piece
    kept.end(None)
    assert kept.bytes() == total


def test_what_is_kept_is_granted_again_in_time_and_in_few_words() -> None:
    granted: list[int] = []
    kept = Kept(100 * WINDOW)
    kept.attach(granted.append)
    in_flight = 0
    for _ in range(1000):
        kept.feed(bytes(WINDOW // 100))
        in_flight += WINDOW // 100
        assert in_flight - sum(granted) < WINDOW
    assert len(granted) <= 20


def test_tiny_pieces_cost_no_more_than_large_ones() -> None:
    tracemalloc.start()
    try:
        kept = Kept(200_000)
        for _ in range(100_000):
            kept.feed(b"ab")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        assert kept.bytes() == b"ab" * 100_000
    finally:
        tracemalloc.stop()


def test_a_failed_stream_keeps_what_came() -> None:
    kept = Kept(10)
    kept.feed(b"some")
    kept.end(SandboxLostError("gone"))
    assert kept.bytes() == b"some"


# -- piped


@given(pieces)
def test_pieces_come_out_in_order_and_each_is_granted_as_it_is_read(sent: list[bytes]) -> None:
    granted: list[int] = []
    stream = Piped()
    stream.attach(granted.append)
    for piece in sent:
        stream.feed(piece)
    stream.end(None)
    assert granted == []
    assert [stream.read() for _ in sent] == sent
    assert granted == [len(piece) for piece in sent]
    assert [stream.read(), stream.read()] == [b"", b""]


def test_a_reader_waits_for_what_comes() -> None:
    stream = Piped()
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.extend(iter(lambda: stream.read(DEADLINE), b"")))
    reader.start()
    for number in range(100):
        stream.feed(b"%d" % number)
        wait_until(lambda number=number: len(read) > number)  # type: ignore[misc]
    stream.end(None)
    reader.join(DEADLINE)
    assert read == [b"%d" % number for number in range(100)]


def test_a_reader_that_waits_no_longer_misses_nothing() -> None:
    stream = Piped()
    for _ in range(3):
        with pytest.raises(TimeoutError, match="no output"):
            stream.read(NEVER)
    stream.feed(b"late")
    assert stream.read(DEADLINE) == b"late"


def test_what_ended_it_too_early_comes_after_what_came_before() -> None:
    stream = Piped()
    stream.feed(b"last")
    stream.end(SandboxLostError("gone"))
    stream.end(None)
    assert stream.read() == b"last"
    for _ in range(2):
        with pytest.raises(SandboxLostError, match="gone"):
            stream.read()


def test_the_end_wakes_a_reader() -> None:
    stream = Piped()
    ends: list[bytes] = []
    reader = threading.Thread(target=lambda: ends.append(stream.read(DEADLINE)))
    reader.start()
    wait_until(lambda: stream._waiter is not None)
    stream.end(None)
    reader.join(DEADLINE)
    assert ends == [b""]


def test_async_readers() -> None:
    async def main() -> None:
        stream = Piped()
        waiting = asyncio.create_task(stream.read_async())
        await asyncio.sleep(0)
        threading.Thread(target=stream.feed, args=(b"first",)).start()
        assert await asyncio.wait_for(waiting, DEADLINE) == b"first"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.read_async(), NEVER)
        stream.feed(b"second")
        assert await stream.read_async() == b"second"
        ending = asyncio.create_task(stream.read_async())
        await asyncio.sleep(0)
        stream.end(SandboxLostError("gone"))
        with pytest.raises(SandboxLostError):
            await asyncio.wait_for(ending, DEADLINE)

    asyncio.run(main())


def test_a_cancelled_reader_leaves_the_next_one_its_place() -> None:
    async def main() -> None:
        stream = Piped()
        first = asyncio.create_task(stream.read_async())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        second = asyncio.create_task(stream.read_async())
        await asyncio.sleep(0)
        stream.feed(b"for the second")
        assert await asyncio.wait_for(second, DEADLINE) == b"for the second"

    asyncio.run(main())


def test_feeding_races_with_giving_up_and_loses_nothing() -> None:
    async def main() -> None:
        stream = Piped()
        count = 300

        def feed() -> None:
            for number in range(count):
                stream.feed(b"%d" % number)
            stream.end(None)

        feeder = threading.Thread(target=feed)
        feeder.start()
        read = []
        while True:
            task = asyncio.create_task(stream.read_async())
            await asyncio.sleep(0)
            if not task.done():
                task.cancel()
            (result,) = await asyncio.gather(task, return_exceptions=True)
            if result == b"":
                break
            if isinstance(result, bytes):
                read.append(result)
        feeder.join(DEADLINE)
        assert read == [b"%d" % number for number in range(count)]

    asyncio.run(main())

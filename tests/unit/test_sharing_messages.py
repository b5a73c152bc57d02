"""What travels over a channel, and how it is sent."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes import errors
from pytest_sandboxes.agent import wire
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.sharing import messages
from pytest_sandboxes.sharing.outbox import Outbox
from tests.unit.fake_channel import channel
from tests.waiting import wait_until

# -- an outbox


def test_an_outbox_sends_in_order_and_in_pieces_of_bounded_size() -> None:
    here, there = channel()
    received: list[Any] = []
    there.setcallback(received.append, None)
    gate = threading.Event()
    here.on_send = lambda: gate.wait(60)
    outbox = Outbox(here, lambda: None, "sandboxes-test")
    pieces = [bytes([number % 256]) * (number * 1000) for number in range(200)]
    for each in pieces:
        outbox.put(each)
    gate.set()
    assert outbox.flush(60)
    outbox.close()
    outbox.join(60)
    there.join()
    assert received.pop() is None
    assert b"".join(received) == b"".join(pieces)
    assert max(len(each) for each in received) <= 1 << 18


def test_an_outbox_never_waits_for_its_channel() -> None:
    here, _ = channel()
    gate = threading.Event()
    here.on_send = lambda: gate.wait(60)
    outbox = Outbox(here, lambda: None, "sandboxes-test")
    outbox.put(b"one")
    assert not outbox.flush(0)
    outbox.close()
    gate.set()
    outbox.join(60)


def test_an_outbox_tells_when_its_channel_breaks() -> None:
    here, _ = channel()
    broken = threading.Event()

    def fail() -> None:
        raise OSError("broken")

    here.on_send = fail
    outbox = Outbox(here, broken.set, "sandboxes-test")
    outbox.put(b"one")
    assert broken.wait(60)
    outbox.join(60)


@pytest.mark.parametrize("before", [[], [b"two"], [None], [b"two", None]])
def test_nobody_waits_for_what_a_broken_channel_does_not_send(before: list[bytes | None]) -> None:
    here, _ = channel()
    reached, gate = threading.Event(), threading.Event()

    def fail() -> None:
        reached.set()
        gate.wait(60)
        raise OSError("broken")

    here.on_send = fail
    outbox = Outbox(here, lambda: None, "sandboxes-test")
    outbox.put(b"one")
    assert reached.wait(60)
    for item in before:
        outbox.close() if item is None else outbox.put(item)
    with ThreadPoolExecutor(2) as pool:
        sent = [pool.submit(outbox.flush, 3600) for _ in range(2)]
        wait_until(lambda: outbox._queue.qsize() == len(before) + len(sent))
        gate.set()
        assert [each.result(60) for each in sent] == [False, False]
    outbox.join(60)
    assert not outbox.flush(3600), "and of what is said later"


# -- messages


@given(st.binary(max_size=200))
def test_whatever_comes_is_frames_or_an_error(data: bytes) -> None:
    try:
        found = list(messages.frames(data))
    except wire.ProtocolError:
        return
    assert b"".join(wire.frame(*each) for each in found) == data


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=50)), max_size=5)
)
def test_frames_come_out_as_they_went_in(frames: list[tuple[int, int, bytes]]) -> None:
    assert list(messages.frames(b"".join(wire.frame(*each) for each in frames))) == frames


def test_a_profile_comes_out_as_it_went_in() -> None:
    profile = Profile().override(
        {"env_vars": {"A": "\u20ac"}, "setup": ["true"], "memory": 64, "local": {}}, "somewhere"
    )
    again = messages.unpack_profile(messages.pack_profile(profile))
    assert again == profile
    assert again.source("memory") == "somewhere"
    assert again.digest == profile.digest


@pytest.mark.parametrize(
    "error",
    [
        errors.MemoryLimitExceededError("too much"),
        errors.SandboxLostError("gone \udcff"),
        errors.AcquireTimeoutError("waited"),
        errors.UnsupportedError("no"),
        TimeoutError("late"),
    ],
)
def test_an_error_keeps_its_class_and_text(error: Exception) -> None:
    again = messages.unpack_error(wire.decode(wire.encode(messages.pack_error(error))))
    assert type(again) is type(error)
    assert str(again) == messages.sendable(str(error))


def test_another_error_is_named() -> None:
    again = messages.unpack_error(messages.pack_error(KeyError("x")))
    assert type(again) is errors.SandboxesError
    assert str(again) == "the controller failed: KeyError('x')"


@pytest.mark.parametrize("packed", [None, [], ["SystemExit", "x"], ["SandboxLostError"], "x"])
def test_what_is_no_error_is_refused(packed: object) -> None:
    with pytest.raises(wire.ProtocolError):
        messages.unpack_error(packed)


def test_every_error_without_a_result_can_be_sent() -> None:
    own = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)}
    # a group is made by whoever waits for all
    with_result = {
        each for each in own if issubclass(each, cast("type", errors._ResultError) | BaseExceptionGroup)
    }
    assert {each for each in own - with_result if messages.pack_error(each("x"))[0] != each.__name__} == set()

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence

import pytest

from pytest_sandboxes.agent import wire
from pytest_sandboxes.errors import SandboxLostError
from pytest_sandboxes.streams import Kept, Piped
from tests.unit.fake_agent import LIMIT, RESULT, Line, error_of
from tests.waiting import DEADLINE, wait_until

HOUR = 3600.0


Lie = Callable[[int], bytes]
"""What it sends instead of an answer to the request of a given number."""

NOBODY = 100
"""Number of no request."""
GREETING = wire.frame(wire.HELLO, 0, wire.encode({"protocol": 1}))

LIES: dict[str, Lie] = {
    "an oversized frame": lambda _: (wire.MAX_PAYLOAD + 1).to_bytes(4, "big") + bytes(9),
    "garbage": lambda _: b"\xff" * 100,
    "garbage after a valid frame": lambda number: wire.frame(wire.STDOUT, number, b"x") + b"\xff" * 100,
    "a frame of no known type": lambda number: wire.frame(99, number),
    "a frame of the controller's own": lambda number: wire.frame(wire.REQUEST, number),
    "an answer to nothing": lambda _: wire.frame(wire.RESULT, NOBODY, wire.encode(dict(RESULT))),
    "a start of nothing": lambda _: wire.frame(wire.STARTED, NOBODY),
    "output of nothing": lambda _: wire.frame(wire.STDOUT, NOBODY, b"x"),
    "more output than asked for": lambda number: wire.frame(wire.STDOUT, number, bytes(LIMIT + 1)),
    "more output than granted": lambda number: (
        wire.frame(wire.STDERR, number, bytes(wire.CHUNK)) * (wire.WINDOW // wire.CHUNK)
        + wire.frame(wire.STDERR, number, b"x")
    ),
    "output after the end of a stream": lambda number: (
        wire.frame(wire.STDERR, number) + wire.frame(wire.STDERR, number, b"x")
    ),
    "a stream that ends twice": lambda number: wire.frame(wire.STDERR, number) * 2,
    "an answer that is no mapping": lambda number: wire.frame(wire.RESULT, number, wire.encode([1])),
    "an answer that is nothing": lambda number: wire.frame(wire.RESULT, number),
    "an answer that is malformed": lambda number: wire.frame(wire.RESULT, number, b"m\xff\xff\xff\xff"),
    "a greeting of another protocol": lambda _: wire.frame(wire.HELLO, 0, wire.encode({"protocol": 2})),
    "a greeting that is none": lambda _: wire.frame(wire.HELLO, 0),
    "a second greeting": lambda _: GREETING * 2,
    "an answer to no ping": lambda _: wire.frame(wire.PONG, 0),
    "an answer to no ping, to a request": lambda number: wire.frame(wire.PONG, number),
    "credit for input that was not sent": lambda number: wire.frame(wire.STDIN_CREDIT, number, b"\0\0\0\1"),
    "credit that is no number": lambda number: wire.frame(wire.STDIN_CREDIT, number, b"\1"),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_loses_the_sandbox(lie: Lie, line: Line) -> None:
    check_loss(line, lambda number: line.agent.send_frames(lie(number)))


@pytest.mark.parametrize("order", [(0, 2), (0, 0, 1, 2), (1, 0, 2), (0, 1, 1, 2)])
def test_a_stream_that_is_not_what_was_sent_loses_the_sandbox(line: Line, order: Sequence[int]) -> None:
    """Each piece is whole frames, none of which says anything that the agent might not."""
    kept = Kept(LIMIT), Kept(LIMIT)
    request = line.request("exec", {}, timeout=None, sinks=kept)
    number, _ = line.agent.receive_request()
    sent = (
        wire.frame(wire.STDOUT, number, b"out"),
        wire.frame(wire.STDOUT, number, b"put"),
        wire.frame(wire.RESULT, number, wire.encode(dict(RESULT))),
    )
    pieces = [line.agent.numbers.number(each) for each in sent]
    line.agent.send_raw(b"".join(pieces[each] for each in order))
    assert isinstance(error_of(request), SandboxLostError)
    assert "a frame is missing, comes twice or out of turn" in line.losses[0]


def test_its_end_loses_the_sandbox(line: Line) -> None:
    check_loss(line, lambda _: line.agent.close())


def test_its_end_inside_a_frame_loses_the_sandbox(line: Line) -> None:
    def end(number: int) -> None:
        line.agent.send_frames(wire.frame(wire.STDOUT, number, b"12345")[:-1])
        line.agent.close()

    check_loss(line, end)


def check_loss(line: Line, act: Callable[[int], None]) -> None:
    """What the agent does to a request ends it, and all others, and is told before it shows."""
    request, number = line.ask()
    another, _ = line.ask()
    resolved: list[bool] = []
    line.on_lost = lambda: resolved.extend(each.future.done() for each in (request, another))
    act(number)
    for each in (request, another):
        assert isinstance(error_of(each), SandboxLostError)
        each.started.result(DEADLINE)
        assert each.write(b"x").exception(DEADLINE)
    assert resolved == [False, False], "the loss was not told before it showed"
    assert len(line.losses) == 1
    assert not line.connection.alive
    with pytest.raises(SandboxLostError, match="it was lost"):
        line.request("exec", {}, timeout=None)


@pytest.mark.parametrize("streams_open", [False, True])
def test_a_second_answer_loses_the_sandbox_and_the_first_stands(line: Line, streams_open: bool) -> None:
    request, number = line.ask()
    line.agent.answer(number, {"streams_open": streams_open})
    line.agent.answer(number, {"status": 1})
    assert request.future.result(DEADLINE)["status"] == 0
    wait_until(lambda: line.losses)
    assert line.agent.hung_up_on()


@pytest.mark.parametrize("lie", ["an oversized frame", "more output than granted", "an answer to nothing"])
def test_the_stream_of_a_liar_is_closed(lie: str, line: Line) -> None:
    _, number = line.ask()
    line.agent.send_frames(LIES[lie](number))
    assert line.agent.hung_up_on()


def test_a_stream_that_is_open_by_a_lie_holds_nothing(line: Line) -> None:
    request, number = line.ask()
    for kind in (wire.STDOUT, wire.STDERR):
        line.agent.send(kind, number)
    line.agent.answer(number, {"streams_open": True})
    request.future.result(DEADLINE)
    line.agent.send(wire.STARTED, number)
    wait_until(lambda: line.losses)
    assert "an answer to nothing" in line.losses[0]


def test_a_flood_is_not_kept(line: Line) -> None:
    request = line.request("exec", {}, timeout=None, sinks=(Kept(1 << 20), Piped()))
    number, _ = line.agent.receive_request()
    flood = wire.frame(wire.STDOUT, number, bytes(wire.CHUNK)) * 16
    tracemalloc.start()
    try:
        for _ in range(64):
            line.agent.send_frames(flood)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(error_of(request), SandboxLostError)
    assert peak < 8 << 20


def test_a_flood_of_tiny_frames_is_not_kept_either(line: Line) -> None:
    size = 1 << 15
    request = line.request("exec", {}, timeout=None, sinks=(Kept(size), Piped()))
    number, _ = line.agent.receive_request()
    flood = wire.frame(wire.STARTED, number) * 50 + wire.frame(wire.STDOUT, number, b"ab") * 100
    tracemalloc.start()
    try:
        for _ in range(size // 200 + 1):
            line.agent.send_frames(flood)
        assert isinstance(error_of(request), SandboxLostError)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20

"""What an agent could say against the protocol. Each lie is told once, to the first attempt at its test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pytest_sandboxes import Slot
from pytest_sandboxes.agent import wire
from tests.integration.faulty_backends import Liar

HUGE = (1 << 30).to_bytes(4, "big") + bytes((wire.RESULT,)) + (1).to_bytes(4, "big") + bytes(4)
HONEST = {"status": 0, "cpu": 0.0, "peak": 0, "duration": 0.0, "timed_out": False, "late": 0.0}
HONEST |= {"stdout_cut": False, "stderr_cut": False, "streams_open": False}


def answer(number: int, **changes: object) -> bytes:
    return wire.frame(wire.RESULT, number, wire.encode({**HONEST, **changes}))


def without(number: int, name: str) -> bytes:
    return wire.frame(wire.RESULT, number, wire.encode({key: HONEST[key] for key in HONEST if key != name}))


def deep() -> object:
    value: object = None
    for _ in range(50):
        value = [value]
    return value


IN_PLACE_OF_A_RESULT = {
    "a frame of a gigabyte": lambda number: HUGE,
    "garbage": lambda number: b"no frame at all " * 10,
    "an unknown kind of frame": lambda number: wire.frame(99, number),
    "a controller's frame": lambda number: wire.frame(wire.REQUEST, number),
    "a result for nothing": lambda number: answer(number + 1000),
    "two results": lambda number: answer(number) + answer(number),
    "a result that is no mapping": lambda number: wire.frame(wire.RESULT, number, wire.encode([])),
    "a result that is cut short": lambda number: wire.frame(wire.RESULT, number, wire.encode(HONEST)[:-1]),
    "a result that nests": lambda number: answer(number, more=deep()),
    "an empty result": lambda number: wire.frame(wire.RESULT, number),
    "a second greeting": lambda number: wire.frame(wire.HELLO, 0, wire.encode({"protocol": 1})),
    "an early pong": lambda number: wire.frame(wire.PONG, 0) * 3,
    "output for nothing": lambda number: wire.frame(wire.STDOUT, number + 1000, b"x"),
    "more output than asked for": lambda number: (
        wire.frame(wire.STDOUT, number, b"x" * 1000) + answer(number)
    ),
    "more input taken than sent": lambda number: wire.frame(wire.STDIN_CREDIT, number, b"\x7f" * 4),
    "no returncode": lambda number: without(number, "status"),
    "a returncode of text": lambda number: answer(number, status="0"),
    "an impossible returncode": lambda number: answer(number, status=1 << 40),
    "a negative returncode": lambda number: answer(number, status=-1),
    "a returncode of truth": lambda number: answer(number, status=False),
    "no word on the deadline": lambda number: without(number, "timed_out"),
    "an endless duration": lambda number: answer(number, duration=float("inf")),
    "a duration of nothing": lambda number: answer(number, duration=float("nan")),
    "a negative peak": lambda number: answer(number, peak=-1),
    "a deadline noticed late": lambda number: answer(number, timed_out=True, late=5.0, status=9),
    "an end noticed late": lambda number: answer(number, duration=1000.0),
}
IN_PLACE_OF_A_START = {
    "more output than granted": lambda number: wire.frame(wire.STDOUT, number, bytes(wire.MAX_PAYLOAD)) * 3,
    "output after its end": lambda number: (
        wire.frame(wire.STDOUT, number) + wire.frame(wire.STDOUT, number, b"x")
    ),
}


@pytest.fixture
def tells(attempt: int) -> Iterator[object]:
    """Replaces the frames of one kind, in the first attempt."""

    def tell(kind: int, forge: object) -> None:
        if attempt == 1:
            Liar.forge = lambda *frame: forge(frame[1]) if frame[0] == kind else wire.frame(*frame)  # type: ignore[operator]

    yield tell
    Liar.forge = None


@pytest.mark.sandbox(output_limit=100)
@pytest.mark.parametrize("lie", IN_PLACE_OF_A_RESULT)
def test_exec(sandbox: Slot, tells: Callable[..., None], lie: str) -> None:
    tells(wire.RESULT, IN_PLACE_OF_A_RESULT[lie])
    result = sandbox.exec("echo", "honest", timeout=60)
    assert (result.returncode, result.stdout) == (0, "honest\n")
    sandbox.list_files()  # whatever came behind the answer has been read by now


@pytest.mark.parametrize("lie", IN_PLACE_OF_A_START)
def test_popen(sandbox: Slot, tells: Callable[..., None], lie: str) -> None:
    tells(wire.STARTED, IN_PLACE_OF_A_START[lie])
    process = sandbox.popen("echo", "honest")
    assert process.wait() == 0
    assert process.stdout.readline() == "honest\n"

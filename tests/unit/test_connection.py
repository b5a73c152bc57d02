from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future

import pytest

from pytest_sandboxes.agent import wire
from pytest_sandboxes.errors import SandboxLostError
from pytest_sandboxes.streams import Kept, Piped
from tests.unit.fake_agent import LIMIT, Line
from tests.waiting import DEADLINE, wait_until

HOUR = 3600.0


# -- an honest agent


def test_an_answer_reaches_its_request(line: Line) -> None:
    first, second = line.request("exec", {"a": 1}, timeout=None), line.request("read", {}, timeout=2.5)
    numbers = []
    for expected in (
        {"op": "exec", "slot": 0, "timeout": None, "a": 1},
        {"op": "read", "slot": 0, "timeout": 2.5},
    ):
        number, message = line.agent.receive_request()
        assert message == expected
        numbers.append(number)
    line.agent.answer(numbers[1], {"status": 2})
    line.agent.answer(numbers[0], {"status": 1})
    assert [each.future.result(DEADLINE)["status"] for each in (first, second)] == [1, 2]


def test_the_greeting_arrives(line: Line) -> None:
    line.agent.greet()
    assert line.connection.hello.result(DEADLINE) == {"protocol": 1}


def test_output_goes_to_the_sinks_and_is_all_there_before_the_answer(line: Line) -> None:
    kept = Kept(LIMIT), Kept(LIMIT)
    request = line.request("exec", {}, timeout=None, sinks=kept)
    number, _ = line.agent.receive_request()
    line.agent.send(wire.STDERR, number, b"error")
    for piece in (b"out", b"put"):
        line.agent.send(wire.STDOUT, number, piece)
    line.agent.answer(number)
    request.future.result(DEADLINE)
    assert [sink.bytes() for sink in kept] == [b"output", b"error"]


def test_a_whole_exchange_one_byte_at_a_time(line: Line) -> None:
    request, number = line.ask()
    for frame in (
        wire.frame(wire.STDOUT, number, b"output"),
        wire.frame(wire.STDOUT, number),
        wire.frame(wire.RESULT, number, wire.encode({"status": 7})),
    ):
        for byte in line.agent.numbers.number(frame):
            line.agent.send_raw(bytes((byte,)))
    assert request.future.result(DEADLINE) == {"status": 7}


def test_output_may_follow_the_answer_of_a_popen(line: Line) -> None:
    streams = Piped(), Piped()
    request = line.request("popen", {}, timeout=None, sinks=streams)
    number, _ = line.agent.receive_request()
    line.agent.answer(number, {"streams_open": True})
    assert request.future.result(DEADLINE)["streams_open"] is True
    line.agent.send(wire.STDOUT, number, b"late")
    line.agent.send(wire.STDOUT, number)
    line.agent.send(wire.STDERR, number)
    assert [streams[0].read(DEADLINE), streams[0].read(DEADLINE), streams[1].read(DEADLINE)] == [
        b"late",
        b"",
        b"",
    ]
    assert line.losses == []


def test_whoever_waits_for_the_start_finds_the_answer_of_what_did_not_start(line: Line) -> None:
    request = line.request("popen", {}, timeout=None)
    found: list[bool] = []
    request.started.add_done_callback(lambda _: found.append(request.future.done()))
    line.agent.answer(line.agent.receive_request()[0])
    request.started.result(DEADLINE)
    lost = line.request("popen", {}, timeout=None)
    lost.started.add_done_callback(lambda _: found.append(lost.future.done()))
    line.agent.close()
    lost.started.result(DEADLINE)
    assert found == [True, True]


def test_nobody_waits_to_write_to_what_has_ended(line: Line) -> None:
    request = line.request("popen", {}, timeout=None, sinks=(Piped(), Piped()))
    number, _ = line.agent.receive_request()
    waiting = request.write(bytes(2 * wire.WINDOW))
    line.agent.answer(number, {"streams_open": True})
    for future in (waiting, request.write(b"x")):
        assert isinstance(future.exception(DEADLINE), BrokenPipeError)


@pytest.mark.parametrize("streams_open", [True, False])
def test_whoever_hears_of_an_end_cannot_write_any_more(line: Line, streams_open: bool) -> None:
    request = line.request("popen", {}, timeout=None, sinks=(Piped(), Piped()))
    heard: Future[BaseException | None] = Future()
    request.future.add_done_callback(lambda _: heard.set_result(request.write(b"x").exception(0)))
    line.agent.answer(line.agent.receive_request()[0], {"streams_open": streams_open})
    assert isinstance(heard.result(DEADLINE), BrokenPipeError)


# -- credit


def test_an_unread_stream_stops_its_own_sender_and_nobody_else(line: Line) -> None:
    unread = Piped()
    line.request("popen", {}, timeout=None, sinks=(unread, Piped()))
    number, _ = line.agent.receive_request()
    pieces = wire.WINDOW // wire.CHUNK
    for _ in range(pieces):
        line.agent.send(wire.STDOUT, number, bytes(wire.CHUNK))
    other = line.request("exec", {}, timeout=None, sinks=(Kept(wire.WINDOW * 4), Kept()))
    busy, _ = line.agent.receive_request()
    granted = wire.WINDOW
    for _ in range(pieces * 3):
        line.agent.send(wire.STDOUT, busy, bytes(wire.CHUNK))
        granted -= wire.CHUNK
        if not granted:
            whose, credit = line.agent.receive(wire.CREDIT)
            assert whose == busy, "credit came for a stream that nobody had read"
            granted += int.from_bytes(credit[1:], "big")
    line.agent.answer(busy)
    other.future.result(DEADLINE)
    assert line.losses == []


def test_what_has_been_read_is_granted_again(line: Line) -> None:
    stream = Piped()
    line.request("popen", {}, timeout=None, sinks=(Piped(), stream))
    number, _ = line.agent.receive_request()
    line.agent.send(wire.STDERR, number, b"12345")
    assert stream.read(DEADLINE) == b"12345"
    assert line.agent.receive(wire.CREDIT) == (number, bytes((wire.STDERR, 0, 0, 0, 5)))


def test_no_more_input_is_sent_than_is_read(line: Line) -> None:
    request, number = line.ask()
    written = request.write(bytes(range(256)) * (wire.WINDOW // 128))
    received = b""
    while len(received) < wire.WINDOW:
        received += line.agent.receive(wire.STDIN)[1]
    other, asked = line.ask()  # nothing but this request follows
    line.agent.answer(asked)
    other.future.result(DEADLINE)
    assert len(received) == wire.WINDOW
    assert not written.done()
    request.end_input()
    line.agent.send(wire.STDIN_CREDIT, number, wire.WINDOW.to_bytes(4, "big"))
    written.result(DEADLINE)
    while len(received) < 2 * wire.WINDOW:
        received += line.agent.receive(wire.STDIN)[1]
    assert received == bytes(range(256)) * (wire.WINDOW // 128)
    assert line.agent.receive(wire.STDIN_END) == (number, b"")


@pytest.mark.parametrize("size", [0, 1, wire.CHUNK - 1, wire.CHUNK, wire.WINDOW + 1])
def test_input_of_any_size_is_sent_and_may_be_taken_back_as_credit(line: Line, size: int) -> None:
    line.request("exec", {}, timeout=None, input=b"x" * size)
    number, _ = line.agent.receive_request()
    left = size
    while left:
        piece = line.agent.receive(wire.STDIN)[1]
        left -= len(piece)
        line.agent.send(wire.STDIN_CREDIT, number, len(piece).to_bytes(4, "big"))
    line.agent.receive(wire.STDIN_END)
    line.agent.send(wire.STDIN_CREDIT, number, (1).to_bytes(4, "big"))
    wait_until(lambda: line.losses)
    assert "more input taken than was sent" in line.losses[0]


def test_credit_of_nothing_says_that_nobody_reads(line: Line) -> None:
    request, number = line.ask()
    waiting = request.write(bytes(2 * wire.WINDOW))
    line.agent.send(wire.STDIN_CREDIT, number, bytes(4))
    assert isinstance(waiting.exception(DEADLINE), BrokenPipeError)
    assert line.losses == []


def test_a_wait_for_input_to_be_read_can_be_given_up(line: Line) -> None:
    request, number = line.ask()
    waiting = request.write(bytes(wire.WINDOW + 1))
    waiting.cancel()  # as a cancelled task does
    credit = wire.frame(wire.STDIN_CREDIT, number, wire.WINDOW.to_bytes(4, "big"))
    line.agent.send_frames(credit + wire.frame(wire.RESULT, number, wire.encode({})))  # to be taken in one go
    assert request.future.result(DEADLINE) == {}


def test_two_writers_do_not_mix(line: Line) -> None:
    request, number = line.ask()
    blocks = [bytes((each,)) * 5000 for each in range(8)]
    threads = [threading.Thread(target=request.write, args=(block,)) for block in blocks]
    for thread in threads:
        thread.start()
    received = b""
    while len(received) < 8 * 5000:
        whose, piece = line.agent.receive(wire.STDIN)
        assert whose == number
        received += piece
    for thread in threads:
        thread.join()
    assert sorted(received[at : at + 5000] for at in range(0, len(received), 5000)) == blocks


# -- several slots


def test_only_the_requests_of_one_slot_are_abandoned(line: Line) -> None:
    requests = [line.connection.request("exec", {}, timeout=None, slot=slot) for slot in (0, 1)]
    numbers = [line.agent.receive_request()[0] for _ in requests]
    line.connection.abandon_requests(0, SandboxLostError("it has been reset"))
    with pytest.raises(SandboxLostError, match="it has been reset"):
        requests[0].future.result(DEADLINE)
    line.connection.forget_abandoned(0)
    line.agent.answer(numbers[1])
    assert requests[1].future.result(DEADLINE)["status"] == 0
    assert line.losses == []


def test_an_answer_that_is_objected_to_is_nobodys_and_loses_the_sandbox(line: Line) -> None:
    def object_to_kills(answer: Mapping[str, object]) -> str | None:
        return "whose process was killed cannot be told" if answer.get("oom_killed") else None

    first, second = (
        line.connection.request("exec", {}, timeout=None, slot=slot, objection=object_to_kills)
        for slot in (0, 1)
    )
    numbers = [line.agent.receive_request()[0] for _ in range(2)]
    line.agent.answer(numbers[0])
    assert first.future.result(DEADLINE)["status"] == 0
    line.agent.answer(numbers[1], {"oom_killed": True})
    with pytest.raises(SandboxLostError, match="cannot be told"):
        second.future.result(DEADLINE)
    assert line.losses == ["whose process was killed cannot be told"]


def test_no_argument_can_name_another_slot(line: Line) -> None:
    line.connection.request("exec", {"slot": 5, "op": "reset"}, timeout=None, slot=1)
    _, message = line.agent.receive_request()
    assert (message["slot"], message["op"]) == (1, "exec")

from __future__ import annotations

import os
import socket
import threading
import time
import warnings

import pytest

from pytest_sandboxes.agent import wire
from pytest_sandboxes.connection import LEAST_READ, OVERDUE_TICKS, SILENCE_TICKS, Connection
from pytest_sandboxes.errors import SandboxLostError
from pytest_sandboxes.io_thread import IOThread
from pytest_sandboxes.request import Request
from pytest_sandboxes.streams import Piped
from tests.threads import live_threads
from tests.unit.fake_agent import Line, error_of, line, open_descriptors
from tests.waiting import DEADLINE, wait_until

HOUR = 3600.0


# -- the clock


def test_a_silent_agent_is_lost(line: Line) -> None:
    request, _ = line.ask()
    line.tick(SILENCE_TICKS)
    assert line.connection.alive
    line.tick()
    assert isinstance(error_of(request), SandboxLostError)
    assert "has not answered" in line.losses[0]


def test_an_agent_that_answers_is_not(line: Line) -> None:
    request, number = line.ask()
    for _ in range(3 * SILENCE_TICKS):
        line.tick()
        line.agent.receive(wire.PING)
        line.agent.send(wire.PONG)
    line.agent.answer(number)
    assert request.future.result(DEADLINE)


def test_a_stream_that_trickles_is_lost(line: Line) -> None:
    """Each byte is a word of the agent's, and none of them an answer."""
    request, number = line.ask()
    frame = line.agent.numbers.number(wire.frame(wire.STDERR, number, bytes(100)))
    for byte in frame[: SILENCE_TICKS + 1]:
        assert line.connection.alive
        line.agent.send_raw(bytes((byte,)))
        line.tick()
    assert isinstance(error_of(request), SandboxLostError)
    assert "has not answered" in line.losses[0]


def test_an_agent_whose_answer_is_behind_much_output_is_not(line: Line) -> None:
    output = Piped()
    request = line.request("popen", {}, timeout=None, sinks=(output, Piped()))
    number, _ = line.agent.receive_request()
    for _ in range(3 * SILENCE_TICKS):
        line.agent.send(wire.STDOUT, number, bytes(LEAST_READ))
        assert output.read(DEADLINE)
        line.tick()
    line.agent.answer(number)
    assert request.future.result(DEADLINE)


def test_an_agent_that_keeps_no_deadline_is_lost(line: Line) -> None:
    request, _ = line.ask(timeout=2 * HOUR)
    patient, _ = line.ask()
    line.answer_pings(3 + OVERDUE_TICKS)
    assert line.connection.alive
    line.answer_pings(1)
    assert "at its deadline" in str(error_of(request))
    assert isinstance(error_of(patient), SandboxLostError)


def test_no_deadline_passes_while_somebody_debugs(line: Line) -> None:
    request, _ = line.ask(timeout=HOUR)
    line.connection.pause()
    line.agent.receive(wire.PAUSE)
    line.answer_pings(5 * OVERDUE_TICKS)
    assert line.connection.alive
    line.connection.resume()
    line.agent.receive(wire.RESUME)
    line.answer_pings(3 + OVERDUE_TICKS)
    assert isinstance(error_of(request), SandboxLostError)


# -- its end


def test_closing_is_no_loss(line: Line) -> None:
    request, _ = line.ask()
    line.connection.close()
    with pytest.raises(SandboxLostError, match="has been closed"):
        request.future.result(DEADLINE)
    with pytest.raises(SandboxLostError, match="has been closed"):
        line.connection.hello.result(DEADLINE)
    assert line.agent.hung_up_on()
    line.connection.lose("too late")
    assert line.losses == []


def test_streams_end_with_the_error(line: Line) -> None:
    stream = Piped()
    line.request("popen", {}, timeout=None, sinks=(stream, Piped()))
    line.agent.send(wire.STDOUT, line.agent.receive_request()[0], b"first")
    line.agent.close()
    assert stream.read(DEADLINE) == b"first"
    with pytest.raises(SandboxLostError):
        stream.read(DEADLINE)


def test_an_agent_that_ends_without_having_read_all_has_ended_all_the_same(line: Line) -> None:
    """Its socket says so in another way."""
    lost = line.request("exec", {}, timeout=None)
    line.tick()
    line.agent.close()
    with pytest.raises(SandboxLostError, match="its agent ended"):
        lost.future.result(DEADLINE)


def test_a_request_made_while_the_loss_is_told_learns_of_it_too(line: Line) -> None:
    late: list[Request] = []
    line.on_lost = lambda: late.append(line.request("exec", {}, timeout=None))
    line.connection.lose("for a reason")
    with pytest.raises(SandboxLostError, match="it was lost: for a reason"):
        late[0].future.result(DEADLINE)


def test_losing_it_from_many_threads_is_one_loss(line: Line) -> None:
    request, _ = line.ask()
    threads = [threading.Thread(target=line.connection.lose, args=(str(each),)) for each in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert str(error_of(request)) == f"it was lost: {line.losses[0]}"
    assert len(line.losses) == 1


def test_what_was_closed_before_the_thread_is_closed_for_good() -> None:
    with line() as made:
        request, _ = made.ask()
        go = threading.Event()
        made.io.submit(lambda: go.wait(DEADLINE))
        made.connection.close()
        closing = threading.Thread(target=made.io.close)
        closing.start()
        wait_until(lambda: made.io._closed)
        go.set()
        closing.join(DEADLINE)
        assert isinstance(error_of(request), SandboxLostError)
        assert made.agent.hung_up_on()


def test_nothing_is_left_behind() -> None:
    def count() -> int:
        return sum(thread.name == "sandboxes-io" for thread in live_threads())

    before, already = open_descriptors(), count()
    for by_agent in (False, True):
        with line() as made:
            request, _ = made.ask()
            assert count() == already + 1
            if by_agent:
                made.agent.close()
            else:
                made.connection.close()
            error_of(request)
    assert count() == already
    assert open_descriptors() <= before


def test_bad_arguments_leave_no_request_behind(line: Line) -> None:
    with pytest.raises(ValueError, match="256 KiB"):
        line.request("exec", {"argv": bytes(wire.MAX_PAYLOAD)}, timeout=1)
    with pytest.raises(TypeError):
        line.request("exec", {"argv": object()}, timeout=1)
    line.answer_pings(10 * OVERDUE_TICKS)
    assert line.connection.alive


def test_an_io_thread_that_was_never_used_was_never_started() -> None:
    before = live_threads()
    io = IOThread()
    io.close()
    assert not live_threads() - before
    io.submit(lambda: pytest.fail("ran on a closed thread"))
    with pytest.raises(RuntimeError, match="closed"):
        io.loop()


# -- forks


def test_a_forked_child_neither_keeps_the_sandbox_alive_nor_uses_it(line: Line) -> None:
    line.ask()
    said, say = os.pipe()
    wait, release = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and forks: what this is about
        child = os.fork()
    if not child:
        try:
            line.request("exec", {}, timeout=None)
        except RuntimeError as error:
            os.write(say, str(error).encode())
        os.close(release)
        os.read(wait, 1)
        os._exit(0)
    try:
        os.close(say)
        os.close(wait)
        assert b"forked child" in os.read(said, 1000)
        line.connection.close()
        assert line.agent.hung_up_on(), "the child holds the stream"
    finally:
        os.close(said)
        os.close(release)
        os.waitpid(child, 0)


def test_a_loss_at_the_very_end_still_closes_the_stream() -> None:
    for _ in range(20):
        ours, theirs = socket.socketpair()
        io = IOThread()
        told = threading.Event()

        def lost(reason: str, told: threading.Event = told) -> Exception:
            told.set()
            time.sleep(0.01)  # as one that has to ask an engine
            return SandboxLostError(reason)

        Connection(ours, io, lost)
        theirs.close()
        assert told.wait(DEADLINE)
        io.close()
        assert ours.fileno() == -1


def test_ends_that_take_long_to_find_out_about_do_not_wait_for_each_other() -> None:
    """A service that does not answer is asked about each of the sandboxes that are lost with it."""
    io = IOThread()
    together = threading.Barrier(9)
    for _ in range(8):
        io.submit_aside(lambda: together.wait(DEADLINE))
    try:
        together.wait(DEADLINE)
    finally:
        together.abort()
        io.close()

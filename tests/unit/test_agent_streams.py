from __future__ import annotations

import pytest

from pytest_sandboxes.agent import wire
from tests.unit.running_agent import KINDS, RunningAgent


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_words_before_the_end_arrive(agent: RunningAgent, kind: str) -> None:
    number = agent.start_as(kind, "sh", "-c", "head -c 3000000 /dev/zero; echo end")
    agent.wait_for_ends(number, agent.result(number))
    assert agent.output[number, wire.STDOUT] == bytes(3_000_000) + b"end\n"


@pytest.mark.parametrize("kind", ["exec", "supervised"])
@pytest.mark.parametrize(("limit", "cut"), [(0, True), (999, True), (1000, False), (1001, False)])
def test_output_beyond_the_limit_is_cut_and_stops_nobody(
    agent: RunningAgent,
    kind: str,
    limit: int,
    cut: bool,
) -> None:
    script = "head -c 1000 /dev/zero; head -c 1000 /dev/zero >&2"
    number = agent.start_as(kind, "sh", "-c", script, limit=limit)
    answer = agent.result(number)
    assert (answer["stdout_cut"], answer["stderr_cut"]) == (cut, cut)
    assert len(agent.output.get((number, wire.STDOUT), b"")) == min(limit, 1000)
    assert len(agent.output.get((number, wire.STDERR), b"")) == min(limit, 1000)


def test_a_flood_beyond_the_limit_is_thrown_away(agent: RunningAgent) -> None:
    answer, output = agent.run("head", "-c", "100000000", "/dev/zero", limit=10)
    assert (len(output), answer["stdout_cut"], answer["status"]) == (10, True, 0)


def test_an_unread_stream_stops_its_own_command_only(agent: RunningAgent) -> None:
    size = 3 * wire.WINDOW
    number = agent.start("sh", "-c", f"head -c {size} /dev/zero; echo end", kind="popen")
    agent.withheld.add(number)
    agent.wait_for_output(number, bytes(wire.WINDOW))
    assert agent.run("echo", "beside")[1] == "beside\n"
    agent.settle()
    assert len(agent.output[number, wire.STDOUT]) == wire.WINDOW, "more than was granted"
    agent.withheld.clear()
    agent.grant(number, wire.WINDOW)
    agent.wait_for_ends(number, agent.result(number))
    assert agent.output[number, wire.STDOUT] == bytes(size) + b"end\n"


def test_input_is_taken_as_it_is_read_and_credit_returned_for_it(agent: RunningAgent) -> None:
    number = agent.start("sh", "-c", "read line; echo $line; cat >/dev/null", stdin=True)
    total = b"line\n" + bytes(4 * wire.WINDOW)
    sent = credited = 0
    while sent < len(total):
        while sent - credited == wire.WINDOW:
            assert agent.receive()
            grants = [frame for frame in agent.frames if frame[:2] == (wire.STDIN_CREDIT, number)]
            credited = sum(int.from_bytes(content, "big") for _, _, content in grants)
            assert credited <= sent
        piece = total[sent : sent + min(wire.CHUNK, wire.WINDOW - (sent - credited))]
        agent.send(wire.STDIN, number, piece)
        sent += len(piece)
    agent.send(wire.STDIN_END, number)
    assert agent.result(number)["status"] == 0
    assert agent.output[number, wire.STDOUT] == b"line\n"


def test_input_that_nobody_reads_any_more_is_told(agent: RunningAgent) -> None:
    number = agent.start("sh", "-c", "exec <&-; echo closed; sleep 1000", stdin=True, kind="popen")
    agent.wait_for_output(number, b"closed")
    told = 0
    while told < 2:  # its supervisor may still have to let go of the pipe
        agent.send(wire.STDIN, number, b"x")
        told += agent.wait_for(wire.STDIN_CREDIT, number) == bytes(4)
        agent.frames.clear()


@pytest.mark.parametrize("script", ["exit", "read line", "exec <&-"])
@pytest.mark.parametrize("kind", ["exec", "popen"])
def test_nothing_is_said_about_a_request_after_its_end(agent: RunningAgent, kind: str, script: str) -> None:
    for _ in range(20):
        number = agent.start("sh", "-c", script, kind=kind, stdin=True)
        while not any(frame[:2] == (wire.RESULT, number) for frame in agent.frames):
            agent.send(wire.STDIN, number, b"x\n")
            agent.peek()
        answer = agent.result(number)
        agent.wait_for_ends(number, answer)
        agent.settle()
        last = [kind for kind, whose, _ in agent.frames if whose == number][-1]
        assert last in ({wire.STDOUT, wire.STDERR} if answer["streams_open"] else {wire.RESULT})


HOLDER = """
import array, os, socket, time
server = socket.socket(socket.AF_UNIX)
server.bind("meeting")
server.listen()
print("ready", flush=True)
_, ancillary, _, _ = server.accept()[0].recvmsg(1, 100)
print("got", flush=True)
time.sleep(1000)
"""
GIVER = """
import array, socket
client = socket.socket(socket.AF_UNIX)
client.connect("meeting")
client.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1, 2]))])
print("given", flush=True)
"""


def test_a_pipe_that_somebody_else_holds_does_not_hold_up_the_answer(agent: RunningAgent) -> None:
    holder = agent.start("python3", "-c", HOLDER, kind="popen")
    agent.wait_for_output(holder, b"ready")
    answer, output = agent.run("python3", "-c", GIVER)
    assert (answer["status"], output) == (0, "given\n")
    agent.wait_for_output(holder, b"got")


def test_a_popen_is_answered_at_its_end_though_its_output_is_not_read(agent: RunningAgent) -> None:
    number = agent.start("head", "-c", str(wire.WINDOW + 10), "/dev/zero", kind="popen")
    agent.withheld.add(number)
    answer = agent.result(number)
    assert (answer["status"], answer["streams_open"]) == (0, True)
    agent.grant(number, 100)
    agent.wait_for_ends(number, answer)
    assert len(agent.output[number, wire.STDOUT]) == wire.WINDOW + 10


def test_output_that_nobody_wants_any_more_is_dropped(agent: RunningAgent) -> None:
    number = agent.start("head", "-c", str(wire.WINDOW + 10), "/dev/zero", kind="popen")
    agent.withheld.add(number)
    answer = agent.result(number)
    agent.send(wire.KILL, number)
    agent.wait_for_ends(number, answer)
    assert len(agent.output[number, wire.STDOUT]) == wire.WINDOW

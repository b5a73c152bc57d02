"""A real agent that waits without a controller: whom it answers, what it overhears, and its end."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pytest_sandboxes.agent import parking, wire
from tests.unit.running_agent import RunningAgent, running_agent

KEY = bytes(range(32))
NONCE = b"n" * parking.NONCE_SIZE
IDENTITY = b"docker 1234 recipe"
CALL = parking.watchword(KEY) + NONCE


def park(agent: RunningAgent, seconds: float = 60.0) -> dict[str, object]:
    number = agent.request("park", {"seconds": seconds, "key": KEY, "identity": IDENTITY})
    return agent.result(number)


def take_over(agent: RunningAgent, call: bytes = CALL) -> bytes:
    agent.send_bare(call)
    agent.number_anew()
    return agent.receive_bare(parking.PROOF_SIZE)


def test_a_proof_is_a_keyed_digest_of_what_was_asked_and_of_who_is_asked() -> None:
    proof = parking.proof(KEY, NONCE, IDENTITY)
    assert proof == hashlib.blake2b(b"proof" + NONCE + IDENTITY, key=KEY, digest_size=32).digest()
    others = [
        parking.proof(KEY, b"o" * 32, IDENTITY),
        parking.proof(KEY, NONCE, b"another"),
        parking.proof(bytes(32), NONCE, IDENTITY),
        parking.watchword(KEY),
    ]
    assert proof not in others


def test_who_has_the_key_takes_over_and_all_goes_on(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        assert park(agent) == {}
        assert take_over(agent) == parking.proof(KEY, NONCE, IDENTITY)
        answer, output = agent.run("echo", "again")
        assert (answer["status"], output) == (0, "again\n")


@pytest.mark.parametrize("size", [1, 31, 32, 33, 63, 200])
def test_nothing_before_the_watchword_counts_however_it_is_cut(tmp_path: Path, size: int) -> None:
    left = wire.frame(wire.PING, 0, b"late") + wire.frame(wire.REQUEST, 9, b"x" * 100)[:-3] + CALL[:20]
    with running_agent(tmp_path) as agent:
        park(agent)
        whole = left + CALL
        for start in range(0, len(whole), size):
            agent.send_bare(whole[start : start + size])
        agent.number_anew()
        assert agent.receive_bare(parking.PROOF_SIZE) == parking.proof(KEY, NONCE, IDENTITY)
        assert agent.run("echo", "again")[1] == "again\n"


def test_what_its_last_controller_says_after_the_end_is_not_heard(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        message = wire.encode(
            {"op": "park", "slot": 0, "timeout": None, "seconds": 60.0, "key": KEY, "identity": b""}
        )
        late = wire.frame(wire.PING, 0, b"late") + wire.frame(wire.PING, 0)[:-2]
        agent.send_frames(wire.frame(wire.REQUEST, 77, message) + late)
        assert agent.result(77) == {}
        assert take_over(agent) == parking.proof(KEY, NONCE, b"")


def test_a_key_serves_once(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        park(agent)
        take_over(agent)
        agent.send_bare(CALL)  # by now that is a frame, and none that can be
        assert agent.wait() != 0


def test_nothing_is_parked_in_which_something_runs(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        agent.start("sleep", "1000", kind="popen")
        assert park(agent)["message"] == "something still runs in it"
        assert agent.run("echo", "goes on")[1] == "goes on\n"


def test_it_ends_by_itself_when_its_time_is_up(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        park(agent, 0.1)
        assert agent.wait() == 0


def test_who_only_makes_noise_does_not_prolong_its_time(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        park(agent, 0.3)
        while agent.alive:
            agent.send_bare(b"noise", or_else_gone=True)


def test_it_ends_with_its_stream(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        park(agent)
        agent.hang_up()
        assert agent.wait() == 0


def test_a_tie_ends_it_until_it_is_parked(tmp_path: Path) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    try:
        with running_agent(tmp_path) as one, running_agent(tmp_path) as other:
            for agent in (one, other):
                assert agent.result(agent.request("rely_on", {"pid": pid})) == {}
            park(one)
            os.close(write)
            write = -1
            assert other.wait() == 0
            assert take_over(one) == parking.proof(KEY, NONCE, IDENTITY)
    finally:
        if write >= 0:
            os.close(write)
        os.waitpid(pid, 0)


def test_a_tie_to_nobody_is_refused(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        answer = agent.result(agent.request("rely_on", {"pid": 1 << 30}))
        assert answer["error"] == "OSError"
        assert agent.run("echo", "goes on")[1] == "goes on\n"

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_sandboxes.agent import wire
from pytest_sandboxes.connection import LATE
from tests.unit.running_agent import KINDS, Marked, RunningAgent, running_agent
from tests.waiting import wait_until


@pytest.fixture
def neighbour(agent: RunningAgent) -> int:
    """A command that runs beside the one under test, which it makes a supervised one."""
    number = agent.start("sh", "-c", "echo ready; read line; echo got $line", stdin=True)
    agent.wait_for_output(number, b"ready")
    return number


def check_unharmed(agent: RunningAgent, neighbour: int) -> None:
    agent.send(wire.STDIN, neighbour, b"word\n")
    answer = agent.result(neighbour)
    assert (answer["status"], answer["timed_out"]) == (0, False)
    assert agent.output[neighbour, wire.STDOUT] == b"ready\ngot word\n"


def wait_for_end(mark: Marked) -> None:
    """What was never killed sleeps on; what was may not be buried yet when the agent answers, which waits only so long."""
    wait_until(lambda: not mark.pids(), "the end of all that was started")


# -- whole trees

LEFTOVERS = {
    "a background child": "sleep {0} & wait_for 1",
    "a child that ignores signals": "sh -c 'trap \"\" TERM HUP INT; sleep {0}; :' & wait_for 1",
    "a daemon": "setsid sh -c 'setsid sleep {0} &' & wait_for 1",
    "a child that holds no pipes": "setsid sleep {0} </dev/null >/dev/null 2>&1 & wait_for 1",
    "a stopped child": "sleep {0} & wait_for 1; kill -STOP $!",
    "many": "for i in 1 2 3 4 5 6 7 8 9; do setsid sleep {0} & done; wait_for 9",
    "a chain": "sh -c 'sh -c \"sleep {0} & sleep {0}\" & sleep {0}' & wait_for 3",
}
WAIT_FOR = (  # busy until so many processes with the mark as their argument are there
    "wait_for() {{ until [ $(grep -lsz '^{0}$' /proc/[0-9]*/cmdline | wc -l) -ge $1 ]; do :; done; }}; "
)


def leave(mark: Marked, leftover: str, then: str = "echo done") -> str:
    """A script that leaves marked processes and goes on with `then`, in which `{0}` stands for the mark."""
    return (WAIT_FOR + LEFTOVERS[leftover] + "; " + then).format(mark.seconds)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leftover", LEFTOVERS)
def test_all_that_a_command_has_started_ends_with_it(
    agent: RunningAgent, kind: str, leftover: str, mark: Marked
) -> None:
    number = agent.start_as(kind, "sh", "-c", leave(mark, leftover))
    answer = agent.result(number)
    assert os.waitstatus_to_exitcode(answer["status"]) == 0
    wait_for_end(mark)
    agent.wait_for_ends(number, answer)
    assert agent.output[number, wire.STDOUT] == b"done\n"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leftover", ["a daemon", "a child that ignores signals", "a stopped child"])
def test_a_deadline_ends_all_of_it_and_keeps_the_output_so_far(
    agent: RunningAgent, kind: str, leftover: str, mark: Marked
) -> None:
    script = leave(mark, leftover, "echo so far; while :; do :; done")
    agent.send(wire.PAUSE)  # until it has come so far
    number = agent.start_as(kind, "sh", "-c", script, timeout=0.05)
    agent.wait_for_output(number, b"so far")
    assert mark.pids(), "the counter sees nothing"
    agent.send(wire.RESUME)
    answer = agent.result(number)
    assert answer["timed_out"] is True
    assert answer["late"] >= 0
    wait_for_end(mark)
    agent.wait_for_ends(number, answer)
    assert agent.output[number, wire.STDOUT] == b"so far\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_ends_all_of_it(agent: RunningAgent, kind: str, mark: Marked) -> None:
    number = agent.start_as(kind, "sh", "-c", leave(mark, "a daemon", "echo ready; exec sleep {0}"))
    agent.wait_for_output(number, b"ready")
    assert mark.pids(), "the counter sees nothing"
    agent.send(wire.KILL, number)
    answer = agent.result(number)
    assert os.waitstatus_to_exitcode(answer["status"]) == -signal.SIGKILL
    assert answer["timed_out"] is False
    wait_for_end(mark)


def test_an_end_is_nobody_elses(agent: RunningAgent, neighbour: int, new_mark: Callable[[], Marked]) -> None:
    mark, another, third = new_mark(), new_mark(), new_mark()
    sleeping = agent.start("sh", "-c", leave(another, "a daemon", "echo ready; sleep {0}"), kind="popen")
    agent.wait_for_output(sleeping, b"ready")
    for kind in ("exec", "popen"):
        agent.result(agent.start("sh", "-c", leave(mark, "a daemon"), kind=kind))
        wait_for_end(mark)
    timed = agent.start("sh", "-c", leave(third, "a daemon", "echo ready; sleep {0}"), timeout=1000)
    agent.wait_for_output(timed, b"ready")
    agent.send(wire.KILL, timed)
    agent.result(timed)
    wait_for_end(third)
    assert len(another.pids()) >= 1
    check_unharmed(agent, neighbour)
    assert len(another.pids()) >= 1, "the end of the one that is not supervised took another's along"
    agent.send(wire.KILL, sleeping)
    agent.result(sleeping)
    wait_for_end(another)


@pytest.mark.parametrize("kind", ["supervised", "popen"])
def test_code_that_kills_its_supervisor_has_ended(agent: RunningAgent, kind: str, mark: Marked) -> None:
    script = leave(mark, "a daemon", "kill -9 $PPID; sleep {0}")
    number = agent.start_as(kind, "sh", "-c", script)
    answer = agent.result(number)
    assert os.waitstatus_to_exitcode(answer["status"]) == -signal.SIGKILL
    for beside in set(range(1, number)):
        agent.send(wire.STDIN, beside, b"\n")
    agent.run("true")
    wait_until(lambda: not mark.pids(), "the end of what had lost its supervisor")


def test_a_process_name_cannot_hide_its_parent(agent: RunningAgent, mark: Marked, tmp_path: Path) -> None:
    program = tmp_path / ") R 1 1 ("
    program.write_bytes(Path("/bin/sleep").resolve().read_bytes())
    program.chmod(0o755)
    script = WAIT_FOR.format(mark.seconds) + f"'./{program.name}' {mark.seconds} & wait_for 1"
    agent.run("sh", "-c", script)
    wait_for_end(mark)


# -- deadlines and heartbeats


def test_no_deadline_passes_while_somebody_debugs(agent: RunningAgent) -> None:
    agent.send(wire.PAUSE)
    number = agent.start("sleep", "1000", timeout=0.1)
    agent.run("sleep", "1.5")
    assert not [frame for frame in agent.frames if frame[:2] == (wire.RESULT, number)]
    resumed = time.monotonic()
    agent.send(wire.RESUME)
    answer = agent.result(number)
    assert answer["timed_out"] is True
    assert answer["late"] <= time.monotonic() - resumed, "the time of the pause was counted"


def test_a_command_is_no_longer_for_a_pause(agent: RunningAgent) -> None:
    timeout = 0.5
    agent.send(wire.PAUSE)
    number = agent.start("sh", "-c", "echo ready; read line", stdin=True, timeout=timeout)
    agent.wait_for_output(number, b"ready")
    agent.run("sleep", f"{timeout + LATE}")
    # the next pause is there for its end, which may take its time on a busy machine
    agent.send_frames(wire.frame(wire.RESUME, 0) + wire.frame(wire.PAUSE, 0))
    agent.send(wire.STDIN, number, b"\n")
    answer = agent.result(number)
    assert answer["timed_out"] is False
    assert 0 < answer["duration"] < timeout


def test_what_is_started_while_somebody_debugs_has_all_its_time_after_that(agent: RunningAgent) -> None:
    timeout = 0.5
    agent.send(wire.PAUSE)
    agent.run("sleep", f"{timeout}")
    number = agent.start("sleep", "1000", timeout=timeout)
    agent.run("sleep", f"{timeout}")
    resumed = time.monotonic()
    agent.send(wire.RESUME)
    answer = agent.result(number)
    assert answer["timed_out"] is True
    assert timeout <= answer["duration"] <= time.monotonic() - resumed


def test_a_command_that_ends_by_itself_while_somebody_debugs_has_ended(agent: RunningAgent) -> None:
    agent.send(wire.PAUSE)
    answer, output = agent.run("sh", "-c", "sleep 0.2; echo done", timeout=0.1)
    assert (answer["timed_out"], output) == (False, "done\n")


def test_an_agent_that_hears_nothing_ends_with_all_it_runs(tmp_path: Path, mark: Marked) -> None:
    with running_agent(tmp_path, heartbeat_deadline=3.0) as agent:
        for kind in ("popen", "exec"):
            number = agent.start("sh", "-c", leave(mark, "a daemon", "echo ready; sleep {0}"), kind=kind)
            while b"ready" not in agent.output.get((number, wire.STDOUT), b""):
                agent.settle()  # or it hears nothing for too long before a busy machine has started them
        assert agent.wait() == 0
        wait_for_end(mark)


@pytest.mark.parametrize("kind", ["exec", "popen"])
def test_the_end_of_the_stream_ends_all(agent: RunningAgent, kind: str, mark: Marked) -> None:
    number = agent.start("sh", "-c", leave(mark, "many", "echo ready; sleep {0}"), kind=kind)
    agent.wait_for_output(number, b"ready")
    wait_until(lambda: len(mark.pids()) >= 9)
    agent.hang_up()
    assert agent.wait() == 0
    wait_for_end(mark)


def test_a_kept_agent_outlives_its_stream(agent: RunningAgent, mark: Marked) -> None:
    number = agent.start("sh", "-c", leave(mark, "a daemon", "echo ready; sleep {0}"), kind="popen")
    agent.wait_for_output(number, b"ready")
    agent.result(agent.request("keep", {"seconds": 1000.0}))
    agent.end_sending()
    while agent.receive():
        pass
    assert agent.alive
    assert mark.pids()
    agent.kill()


def test_a_kept_agent_ends_in_time(agent: RunningAgent, mark: Marked) -> None:
    number = agent.start("sh", "-c", leave(mark, "a daemon", "echo ready; sleep {0}"), kind="popen")
    agent.wait_for_output(number, b"ready")
    agent.result(agent.request("keep", {"seconds": 0.1}))
    agent.hang_up()
    assert agent.wait() == 0
    wait_for_end(mark)

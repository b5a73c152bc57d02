from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_sandboxes.agent import wire
from pytest_sandboxes.agent.jobs import Report
from pytest_sandboxes.agent.link import Poller
from pytest_sandboxes.file_operations import _parse_entries
from tests.unit.running_agent import KINDS, RunningAgent, running_agent

# -- commands


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_runs_to_its_end(agent: RunningAgent, kind: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    script = 'read line; echo "$line $NAME $(pwd)"; echo error >&2; exit 3'
    number = agent.start_as(kind, "sh", "-c", script, stdin=True, cwd="sub", env={"NAME": "value"})
    agent.send(wire.STDIN, number, b"input\n")
    agent.send(wire.STDIN_END, number)
    answer = agent.result(number)
    agent.wait_for_ends(number, answer)
    assert agent.output[number, wire.STDOUT] == f"input value {tmp_path}/sub\n".encode()
    assert agent.output[number, wire.STDERR] == b"error\n"
    assert os.waitstatus_to_exitcode(answer["status"]) == 3
    assert (answer["timed_out"], answer["stdout_cut"], answer["stderr_cut"]) == (False, False, False)
    assert answer["duration"] > 0
    assert answer["cpu"] >= 0
    assert answer["peak"] > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGPIPE])
def test_the_signal_that_ended_a_command_is_told(agent: RunningAgent, kind: str, number: int) -> None:
    answer = agent.result(agent.start_as(kind, "sh", "-c", f"kill -{int(number)} $$"))
    assert os.waitstatus_to_exitcode(answer["status"]) == -number


class Impossible(NamedTuple):
    """A command that cannot be started, and the error that says so."""

    argv: str
    cwd: str | None
    number: int
    name: str


IMPOSSIBLE = [
    Impossible("no-such-program", None, errno.ENOENT, "no-such-program"),
    Impossible("./no-such-file", None, errno.ENOENT, "./no-such-file"),
    Impossible("./text", None, errno.EACCES, "./text"),
    Impossible("./folder", None, errno.EACCES, "./folder"),
    Impossible("true", "nowhere", errno.ENOENT, "{}/nowhere"),
    Impossible("true", "text", errno.ENOTDIR, "{}/text"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", IMPOSSIBLE, ids=lambda case: f"{case.argv}-{case.cwd}")
def test_what_cannot_be_started_is_an_error_with_its_name(
    agent: RunningAgent, kind: str, case: Impossible, tmp_path: Path
) -> None:
    (tmp_path / "text").touch(mode=0o644)
    (tmp_path / "folder").mkdir()
    answer = agent.result(agent.start_as(kind, case.argv, cwd=case.cwd))
    assert (answer["errno"], answer["filename"].decode()) == (case.number, case.name.format(tmp_path))
    assert agent.run("echo", "alive")[1] == "alive\n"


def test_a_start_is_announced_before_the_end(agent: RunningAgent) -> None:
    number = agent.start("true", kind="popen")
    agent.result(number)
    said = [kind for kind, whose, _ in agent.frames if whose == number]
    assert said.index(wire.STARTED) < said.index(wire.RESULT)


def test_the_start_of_an_exec_is_nobodys_concern(agent: RunningAgent) -> None:
    number = agent.start_as("supervised", "true")
    assert agent.result(number)["status"] == 0
    assert [kind for kind, whose, _ in agent.frames if whose == number] == [wire.RESULT]


LAST = r"""
import os
from pytest_sandboxes.agent.identity import Identity
from pytest_sandboxes.agent.spawn import Command, supervised

PROGRAM = b'''
rank() { cut -d' ' -f19 "/proc/$1/stat"; }
until [ "$(rank $$)" = 19 ]; do :; done
rank $PPID
'''
for _ in range(4):
    os.open("/dev/null", os.O_RDWR)
report = os.pipe()[1]
command = Command([b"/bin/sh", b"-c", PROGRAM], dict(os.environb), b"/", (0, 1, 2), Identity(), 19)
os.waitpid(supervised(command, report, announce=False), 0)
"""


def test_a_command_that_goes_last_has_a_supervisor_that_does_not() -> None:
    """Otherwise the word of its end would have to wait for all others."""
    ran = subprocess.run([sys.executable, "-c", LAST], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == f"{os.getpriority(os.PRIO_PROCESS, 0)}\n"


def test_children_inherit_nothing_of_the_agent(agent: RunningAgent) -> None:
    for kind in KINDS:
        number = agent.start_as(kind, "ls", "/proc/self/fd")
        agent.wait_for_ends(number, agent.result(number))
        assert agent.output[number, wire.STDOUT].split() == [b"0", b"1", b"2", b"3"], (
            "3 is the listed directory"
        )


def test_file_workers_hold_nothing_of_the_agent(agent: RunningAgent) -> None:
    message = {"action": "list", "path": b"/proc/self/fd", "limit": 10_000, "stdin": False}
    number = agent.request("file", {**message, "recursive": False, "digests": False, "entries": 100})
    agent.result(number)
    listed = _parse_entries(agent.output[number, wire.STDOUT], 100)
    assert {entry.path for entry in listed} == {"0", "1", "2", "3", "4"}, (
        "3 is its report, 4 the listed directory"
    )


def test_limits_and_sacrifices_reach_children(tmp_path: Path) -> None:
    with running_agent(tmp_path, sacrifice_children=True, process_limit=4000) as agent:
        _, limits = agent.run("cat", "/proc/self/limits")
        assert "Max processes             4000                 4000" in limits
        assert "Max core file size        0                    0" in limits
        for kind in KINDS:
            number = agent.start_as(kind, "sh", "-c", "cat /proc/self/oom_score_adj")
            agent.wait_for_ends(number, agent.result(number))
            assert agent.output[number, wire.STDOUT] == b"1000\n"
        assert (
            Path(f"/proc/{agent.pid}/oom_score_adj").read_text()
            == Path("/proc/self/oom_score_adj").read_text()
        )


# -- what it makes of nonsense


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        wire.encode([]),
        wire.encode({}),
        wire.encode({"op": "no-such-operation"}),
        wire.encode({"op": 1}),
        wire.encode({"op": "exec", "timeout": None}),
        wire.encode({"op": "file", "timeout": None, "action": "no-such-action", "path": b"a", "limit": 0}),
    ],
)
def test_a_request_that_makes_no_sense_is_an_error_and_nothing_else(
    agent: RunningAgent, content: bytes
) -> None:
    agent.send(wire.REQUEST, 77, content)
    assert isinstance(agent.result(77)["error"], str)
    assert agent.run("echo", "alive")[1] == "alive\n"


def test_frames_for_what_is_not_there_are_ignored(agent: RunningAgent) -> None:
    for kind in (wire.STDIN, wire.STDIN_END, wire.KILL, wire.RESUME):
        agent.send(kind, 99, b"x")
    agent.grant(99, 1)
    agent.settle()
    assert [frame for frame in agent.frames if frame[1] == 99] == []


def test_it_holds_no_more_descriptors_after_a_thousand_jobs() -> None:
    agent = RunningAgent()
    try:
        agent.run("true")
        before = agent.descriptors()
        kinds = itertools.cycle(["exec", "exec", "popen", "missing", "file"])
        for _ in range(100):
            running = []
            for kind, _ in zip(kinds, range(10), strict=False):
                if kind == "file":
                    message = {"action": "read", "path": b"/etc/passwd", "limit": 10, "stdin": False}
                    running.append(agent.request("file", message, timeout=None))
                elif kind == "missing":
                    running.append(agent.start("no-such-program"))
                else:
                    running.append(agent.start("true", kind=kind, stdin=True))
            for number in running:
                answer = agent.result(number)
                if "streams_open" in answer:
                    agent.wait_for_ends(number, answer)
            agent.frames.clear()
        agent.settle()
        assert agent.descriptors() == before
    finally:
        agent.close()


# -- reports


@pytest.fixture
def pipe() -> Iterator[tuple[Report, int]]:
    read, write = os.pipe()
    report = Report(read, Poller())
    yield report, write
    report.close()
    os.close(write)


def message(content: object) -> bytes:
    data = wire.encode(content)
    return len(data).to_bytes(4, "big") + data


def test_reports_are_read_one_by_one_as_they_come(pipe: tuple[Report, int]) -> None:
    report, write = pipe
    data = message({"started": True}) + message({"status": 0})
    for byte in data[:-1]:
        os.write(write, bytes((byte,)))
    assert report.message() == {"started": True}
    assert report.message() is None
    os.write(write, data[-1:])
    assert report.message() == {"status": 0}
    assert report.message() is None


@pytest.mark.parametrize("data", [message([1]), b"\0\0\0\2xx", b"\0\0\0\0", b"\xff\xff\xff\xff"])
def test_a_report_that_is_none_says_nothing(pipe: tuple[Report, int], data: bytes) -> None:
    report, write = pipe
    os.write(write, data)
    assert report.message() is None


def test_an_endless_report_is_not_kept(pipe: tuple[Report, int]) -> None:
    report, write = pipe
    os.set_blocking(write, False)
    for _ in range(10):
        if report.fd is None:
            break
        os.write(write, b"\xff" * (wire.MAX_RESULT // 2))
        assert report.message() is None
    assert report.fd is None

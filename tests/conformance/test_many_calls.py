"""Many calls at once: results in order, none hidden by another, on one slot or several, by commands or tool calls."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import pytest

from pytest_sandboxes import (
    CommandFailedError,
    ExecResult,
    ExecTimeoutError,
    LeaseClosedError,
    ManyCallsError,
    Slot,
    ToolResult,
    exec_many,
)
from tests.conformance.helpers import GENEROUS, SlotFactory, eventually, waits
from tests.conformance.leftovers import Leftovers
from tests.threads import live_threads


@pytest.mark.sandbox(slots=2)
def test_results_are_in_order_and_calls_side_by_side(sandbox: tuple[Slot, Slot]) -> None:
    one, two = sandbox
    # each waits for what the other does: only side by side can both end
    meet = "touch here; while [ ! -e go ]; do sleep 0.01; done; echo {}"
    calls = [
        (one, ["sh", "-c", meet.format(0)]),
        (one, ["sh", "-c", "while [ ! -e here ]; do sleep 0.01; done; touch go; echo 1"]),
        (two, ["sh", "-c", meet.format(2)], {"timeout": GENEROUS}),
        (two, ["sh", "-c", "while [ ! -e here ]; do sleep 0.01; done; touch go; echo 3"]),
        (two, ["cat"], {"input": "4\n"}),
        (two, "pwd", {"cwd": "/"}),
        (two, ["sh", "-c", "echo $A"], {"env": {"A": "6"}}),
    ]
    results = exec_many(calls)
    assert [result.stdout for result in results] == ["0\n", "1\n", "2\n", "3\n", "4\n", "/\n", "6\n"]


def test_no_failure_hides_another_or_a_result(sandbox: Slot, sandbox_factory: SlotFactory) -> None:
    with sandbox_factory() as given_back:
        pass
    calls = [
        (sandbox, ["echo", "0"]),
        (sandbox, ["sleep", "1000"], {"timeout": 0.2}),
        (sandbox, ["false"], {"check": True}),
        (sandbox, ["false"]),
        (sandbox, ["no-such-program"]),
        (given_back, ["true"]),
        (sandbox, ["echo", "6"]),
    ]
    kinds = [
        ExecResult,
        ExecTimeoutError,
        CommandFailedError,
        ExecResult,
        FileNotFoundError,
        LeaseClosedError,
    ]
    found = exec_many(calls, return_exceptions=True)
    assert [type(each) for each in found] == [*kinds, ExecResult]
    assert (found[0].stdout, found[3].returncode, found[6].stdout) == ("0\n", 1, "6\n")
    with pytest.raises(ManyCallsError, match=r"^4 of 7 calls failed: \[1\], \[2\], \[4\], \[5\]") as caught:
        exec_many(calls)
    assert [type(each) for each in caught.value.results] == [*kinds, ExecResult]
    assert len(caught.value.exceptions) == 4
    timeouts = caught.value.subgroup(ExecTimeoutError)
    assert timeouts is not None
    assert [type(each) for each in timeouts.exceptions] == [ExecTimeoutError]


def test_more_than_run_at_once(sandbox: Slot) -> None:
    results = exec_many([(sandbox, ["echo", str(number)]) for number in range(100)])
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(100)]


def test_nothing_is_nothing() -> None:
    assert exec_many([]) == []


def test_no_thread_for_each(sandbox: Slot) -> None:
    before = live_threads()
    seen: list[list[str]] = []

    def watch() -> None:
        try:
            eventually(lambda: len(sandbox.list_files()) == 16, "16 commands at once")
            started = live_threads() - before - {threading.current_thread()}
            seen.append([each.name for each in started if not each.name.startswith("sandboxes-")])
        finally:
            sandbox.write_text("go", "")

    watcher = threading.Thread(target=watch)
    watcher.start()
    exec_many(
        [
            (sandbox, ["sh", "-c", f"touch {number}; until [ -e go ]; do sleep 0.05; done"])
            for number in range(16)
        ]
    )
    watcher.join()
    assert seen == [[]]  # but for what the pool and the backend have anyway


class _Interrupted(BaseException):
    """What a signal handler raises into a test, as Ctrl-C and pytest-timeout do."""


def test_an_interrupted_call_kills_all_that_runs(sandbox: Slot, leftovers: Leftovers) -> None:
    def interrupt(_: int, __: FrameType | None) -> None:
        raise _Interrupted

    def once_they_run() -> None:
        leftovers.appear(3)
        main = threading.main_thread()
        # an interrupt before that is one of the start, which may have nothing to kill yet
        eventually(lambda: waits(main), "the main thread to wait")
        signal.pthread_kill(main.ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    interrupter = threading.Thread(target=once_they_run)
    try:
        interrupter.start()
        with pytest.raises(_Interrupted):
            exec_many([(sandbox, ["sleep", "1000"], {"env": leftovers.env})] * 3)
    finally:
        interrupter.join()
        signal.signal(signal.SIGUSR1, before)
    leftovers.vanish()
    assert sandbox.exec("true").success


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (7, r"calls\[1\] has to be \(slot, command\) or \(slot, command, options\), not 7"),
        (("slot",), r"calls\[1\] has to be"),
        (("slot", ["true"]), r"the slot of calls\[1\] is 'slot'"),
        ((..., ["true"], 7), r"the options of calls\[1\] have to be a mapping, not 7"),
        (
            (..., ["true"], {"shell": True}),
            r"calls\[1\] has no option 'shell': it takes input, env, cwd, timeout and",
        ),
        (
            (..., {"name": "bash"}, {"input": "x"}),
            r"calls\[1\] has no option 'input': it takes env, cwd and timeout",
        ),
        ((..., ["true"], {"timeout": "1"}), "timeout has to be a number of seconds"),
        ((..., []), "exec needs a command"),
        ((..., ["a\0"]), "the program holds a NUL byte"),
        ((..., "ls -l"), "exec takes a program and its arguments one by one"),
    ],
)
def test_misuse_raises_before_anything_is_started(sandbox: Slot, call: Any, complaint: str) -> None:
    if isinstance(call, tuple):
        call = tuple(sandbox if each is ... else each for each in call)
    with pytest.raises((TypeError, ValueError), match=complaint):
        exec_many([(sandbox, ["touch", "started"]), call])
    assert sandbox.list_files() == []


class TestToolCalls:
    def test_as_agents_emit_them(self, sandbox: Slot) -> None:
        write = {"name": "write_file", "input": {"path": "a/b.txt", "content": "größer\n"}, "id": "1"}
        (wrote,) = exec_many([(sandbox, write)])
        assert (wrote.name, wrote.content, wrote.is_error, wrote.id) == (
            "write_file",
            "wrote a/b.txt",
            False,
            "1",
        )
        read, ran = exec_many(
            [
                (sandbox, {"name": "read_file", "arguments": '{"path": "a/b.txt"}'}),
                (
                    sandbox,
                    {
                        "function": {
                            "name": "bash",
                            "arguments": {"command": "cat a/b.txt; echo x >&2; exit 3"},
                        }
                    },
                ),
            ]
        )
        assert (read.content, read.result) == ("größer\n", None)
        assert (ran.content, ran.is_error) == ("größer\nstderr:\nx\nexit code 3", False)
        assert (ran.result.returncode, ran.result.stdout) == (3, "größer\n")

    def test_a_shell_is_bash_where_there_is_one(self, sandbox: Slot) -> None:
        call = {"name": "bash", "input": {"command": 'echo "$0 ${BASH_VERSION:+bash}" $A; pwd'}}
        (ran,) = exec_many([(sandbox, call, {"env": {"A": "given"}, "cwd": "/", "timeout": GENEROUS})])
        has_bash = sandbox.sh("command -v bash").success
        assert ran.content.split() == [*(["bash", "bash"] if has_bash else ["sh"]), "given", "/"]

    @pytest.mark.parametrize(
        ("name", "given", "said"),
        [
            ("read_file", {"path": "missing"}, "No such file or directory"),
            ("read_file", {"path": "."}, "Is a directory"),
            ("read_file", {"path": "/dev/zero"}, "Invalid argument"),
            ("read_file", {"path": "a\0b"}, "NUL"),
            ("read_file", {"path": ""}, ""),
            ("read_file", {"path": "x" * 5000}, "File name too long"),
            ("read_file", {"path": "\ud800"}, "surrogates not allowed"),
            ("write_file", {"path": "/proc/1/mem", "content": ""}, ""),
            ("write_file", {"path": "x", "content": "\ud800"}, "surrogates not allowed"),
            ("bash", {"command": "a\0b"}, "NUL"),
            ("bash", {"command": "true " + "x" * 200_000}, ""),
            ("bash", {"command": "true " + "x" * 300_000}, "limited to 256 KiB"),
            ("bash", {"cmd": "true"}, "bash has no argument 'cmd'"),
            ("rm", {}, "there is no tool 'rm'"),
        ],
    )
    def test_what_a_model_may_come_up_with_is_a_result(
        self, sandbox: Slot, name: str, given: dict[str, str], said: str
    ) -> None:
        good = {"name": "bash", "input": {"command": "echo fine"}}
        bad, fine = exec_many([(sandbox, {"name": name, "input": given}), (sandbox, good)])
        assert isinstance(bad, ToolResult)
        assert bad.is_error
        assert said in bad.content
        bad.content.encode()
        assert fine.content == "fine"

    def test_a_deadline_is_a_result_too(self, sandbox: Slot) -> None:
        call = {"name": "bash", "input": {"command": "echo so far; sleep 1000"}}
        (late,) = exec_many([(sandbox, call, {"timeout": 2})])
        assert late.is_error
        assert late.content.endswith("still running after 2 s\nso far")
        assert late.result.timed_out

    def test_what_is_no_model_s_business_is_raised(self, sandbox_factory: SlotFactory) -> None:
        with sandbox_factory() as given_back:
            pass
        call = {"name": "bash", "input": {"command": "true"}}
        (error,) = exec_many([(given_back, call)], return_exceptions=True)
        assert isinstance(error, LeaseClosedError)

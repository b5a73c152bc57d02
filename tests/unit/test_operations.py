from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes import commands, file_operations, operations
from pytest_sandboxes.agent import wire
from pytest_sandboxes.commands import command_arguments, command_message
from pytest_sandboxes.errors import (
    CommandFailedError,
    ExecTimeoutError,
    SandboxesError,
    SandboxLostError,
)
from pytest_sandboxes.operations import Pending
from pytest_sandboxes.request import Request
from pytest_sandboxes.results import ExecResult
from pytest_sandboxes.streams import Kept
from tests.unit.fake_agent import FILE_RESULT, RESULT, junk, line
from tests.unit.fake_port import AnsweringPort


def run(
    port: AnsweringPort, *, timeout: float | None = 1.0, check: bool = False, limit: int = 100
) -> ExecResult:
    return commands.run(
        port,
        [b"prog", b"arg"],
        input=None,
        env=None,
        cwd=None,
        timeout=timeout,
        check=check,
        limit=limit,
        seen=lambda _: None,
    ).result()


FILE_OPERATIONS: dict[str, Callable[[AnsweringPort], object]] = {
    "read": lambda port: file_operations.read(port, "a", 10).result(),
    "write": lambda port: file_operations.write(port, "a", b"abc", None).result(),
    "list": lambda port: file_operations.list_files(
        port, "a", recursive=True, sha256=False, max_entries=3
    ).result(),
    "archive": lambda port: file_operations.archive(port, "a", "tar", 10).result(),
    "send": lambda port: file_operations.send_tree(port, "a", Kept(), 3).result(),
    "receive": lambda port: file_operations.receive_tree(port, "a").result(),
}


# -- results


def test_a_result_is_what_the_agent_says() -> None:
    port = AnsweringPort({**RESULT, "status": 0x0300, "stdout_cut": True}, b"output")
    port.oom = [1, 2]
    result = run(port)
    assert result == ExecResult(
        argv=("prog", "arg"),
        returncode=3,
        stdout_bytes=b"output",
        stderr_bytes=b"",
        stdout_truncated=True,
        duration=0.5,
        cpu_time=0.25,
        peak_memory=4096,
        oom_killed=True,
    )
    assert port.losses == []


@pytest.mark.parametrize(("status", "code"), [(0, 0), (0xFF00, 255), (9, -9), (0x80 | 11, -11)])
def test_a_signal_is_a_negative_code(status: int, code: int) -> None:
    assert run(AnsweringPort({**RESULT, "status": status})).returncode == code


IMPOSSIBLE: dict[str, list[object]] = {
    "status": [-1, 0x10000, 1 << 40, 0x7F, 0xFFFF, 0.0, True, None, "0", b"\0"],
    "duration": [float("nan"), float("inf"), -0.5, 1, None, "1"],
    "cpu": [float("nan"), float("inf"), -0.5, 1, None],
    "peak": [-1, 1.5, True, None],
    "stdout_cut": [0, 1, None, "no"],
    "stderr_cut": [0, 1, None, "no"],
    "timed_out": [0, 1, None, "no"],
    "late": [float("nan"), float("inf"), -0.5, 1, None],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in IMPOSSIBLE.items() for value in values]
)
def test_an_impossible_result_loses_the_sandbox(field: str, value: object) -> None:
    port = AnsweringPort({**RESULT, "timed_out": field == "late", field: value})
    with pytest.raises(SandboxLostError, match="broke the protocol"):
        run(port)
    assert len(port.losses) == 1


@pytest.mark.parametrize("field", IMPOSSIBLE)
def test_an_incomplete_result_loses_the_sandbox(field: str) -> None:
    answer = {**RESULT, "timed_out": True}
    del answer[field]
    port = AnsweringPort(answer)
    with pytest.raises(SandboxLostError, match=f"without a possible {field}"):
        run(port)
    assert len(port.losses) == 1


answers = st.fixed_dictionaries(
    {},
    optional={
        name: junk | st.just(value)
        for name, value in {**FILE_RESULT, "error": None, "errno": 2, "message": "", "filename": b""}.items()
    },
)


@given(answers | st.builds(lambda changes: {**FILE_RESULT, **changes}, answers), st.booleans())
def test_any_answer_is_a_result_or_an_error_of_ours(answer: dict[str, object], check: bool) -> None:
    port = AnsweringPort(answer)
    try:
        result = run(port, check=check)
    except (ExecTimeoutError, CommandFailedError) as error:
        result = error.result
    except SandboxLostError:
        assert port.losses
        return
    except (SandboxesError, OSError):
        assert not port.losses
        return
    assert port.losses == []
    assert -128 < result.returncode < 256
    assert result.returncode == 0 or not result.success
    assert 0 <= result.duration < float("inf")
    assert result.peak_memory >= 0
    assert repr(result)


@given(
    st.sampled_from(list(FILE_OPERATIONS)),
    answers | st.builds(lambda changes: {**FILE_RESULT, **changes}, answers),
    st.binary(max_size=10),
)
def test_any_answer_about_a_file_is_an_answer_or_an_error_of_ours(
    operation: str, answer: dict[str, object], output: bytes
) -> None:
    port = AnsweringPort(answer, output if operation in {"read", "list", "archive"} else b"")
    try:
        FILE_OPERATIONS[operation](port)
    except SandboxLostError:
        assert port.losses
    except (SandboxesError, OSError):
        assert not port.losses
    else:
        assert not port.losses


# -- deadlines


def test_a_timeout_carries_what_there_was() -> None:
    seen: list[ExecResult] = []
    port = AnsweringPort({**RESULT, "status": 9, "timed_out": True}, b"so far")
    pending = commands.run(
        port, [b"prog"], input=None, env=None, cwd=None, timeout=1.0, check=True, limit=10, seen=seen.append
    )
    with pytest.raises(ExecTimeoutError, match=r"prog was still running after 1\.0 s") as caught:
        pending.result()
    assert caught.value.result.stdout == "so far"
    assert seen == [caught.value.result]
    assert port.losses == []


@pytest.mark.parametrize(
    "changes",
    [{"timed_out": True, "late": 1.5, "status": 9}, {"duration": 2.6}, {"duration": 3.0, "status": 256}],
)
def test_a_deadline_that_was_noticed_late_says_nothing_about_the_code(changes: dict[str, object]) -> None:
    port = AnsweringPort({**RESULT, **changes})
    with pytest.raises(SandboxLostError, match=r"noticed (1\.5|1\.6|2\.0) s late"):
        run(port, timeout=1.0)
    assert len(port.losses) == 1


def test_without_a_deadline_nothing_is_late() -> None:
    assert run(AnsweringPort({**RESULT, "duration": 1e6}), timeout=None).success


def test_a_failure_is_an_error_only_where_asked_for() -> None:
    port = AnsweringPort({**RESULT, "status": 0x0100})
    assert run(port).returncode == 1
    with pytest.raises(CommandFailedError, match="prog ended with return code 1"):
        run(port, check=True)


# -- errors


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, FileNotFoundError),
        (errno.EISDIR, IsADirectoryError),
        (errno.EACCES, PermissionError),
        (errno.ENOTDIR, NotADirectoryError),
        (errno.ENOSPC, OSError),
    ],
)
@pytest.mark.parametrize("operation", ["exec", *FILE_OPERATIONS])
def test_errors_are_pythons_own(operation: str, number: int, kind: type[OSError]) -> None:
    port = AnsweringPort({"error": "X", "errno": number, "message": "", "filename": b"caf\xc3\xa9\x1b[2J"})
    with pytest.raises(kind) as caught:
        FILE_OPERATIONS.get(operation, run)(port)
    assert (caught.value.errno, caught.value.filename) == (number, r"café\x1b[2J")
    assert caught.value.strerror == os.strerror(number)


def test_an_error_without_a_number_is_told_safely_and_in_short() -> None:
    port = AnsweringPort({"error": "KeyError", "errno": 0, "message": "\x1b[31m" * 1000, "filename": b""})
    with pytest.raises(SandboxesError, match="the agent could not do it") as caught:
        run(port)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_running_out_of_memory_in_the_agent_is_an_os_error() -> None:
    with pytest.raises(OSError, match="Cannot allocate memory"):
        run(AnsweringPort({"error": "MemoryError", "errno": 0, "message": "", "filename": b""}))


@pytest.mark.parametrize("operation", FILE_OPERATIONS)
def test_a_killed_file_operation_is_an_error(operation: str) -> None:
    with pytest.raises(OSError, match="killed the file operation"):
        FILE_OPERATIONS[operation](AnsweringPort({**FILE_RESULT, "status": 9}))
    with pytest.raises(TimeoutError, match="longer than 600 s"):
        FILE_OPERATIONS[operation](AnsweringPort({**FILE_RESULT, "status": 9, "timed_out": True}))


# -- arguments


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("a", b"b", Path("c")), [b"a", b"b", b"c"]),
        ((["a", "b c"],), [b"a", b"b c"]),
        ((("a",),), [b"a"]),
        (("a", ""), [b"a", b""]),
        (("a b", "c"), [b"a b", b"c"]),
        (("caf\udcff",), [b"caf\xff"]),
    ],
)
def test_right_commands(argv: tuple[Any, ...], words: list[bytes]) -> None:
    assert command_arguments(argv) == words


@pytest.mark.parametrize(
    ("argv", "error", "complaint"),
    [
        ((), ValueError, "needs a command"),
        (([],), ValueError, "needs a command"),
        (("ls -l",), ValueError, r"use sh\('ls -l'\)"),
        (("a\nb",), ValueError, "for a shell line"),
        (("",), ValueError, "name is empty"),
        (("a\0",), ValueError, "NUL"),
        (("a", 1), TypeError, r"argument 1 has to be text, bytes or a path, not 1 \(int\)"),
        ((None,), TypeError, "the program has to be text, bytes or a path, not None"),
        (("a", ["b"]), TypeError, r"not \['b'\] \(list\)"),
    ],
)
def test_wrong_commands(argv: tuple[Any, ...], error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        command_arguments(argv)


def test_environments() -> None:
    message = command_message([b"a"], {"A": "1", "ü": ""}, "folder", stdin=True, limit=5)
    assert message["env"] == [[b"A", b"1"], ["ü".encode(), b""]]
    assert message["cwd"] == b"folder"
    for wrong in ({"": "a"}, {"A=B": "a"}, {"A": "\0"}):
        with pytest.raises(ValueError, match=r"NUL|a name in env has to be non-empty text without '='"):
            command_message([b"a"], wrong, None, stdin=False, limit=0)
    with pytest.raises(TypeError, match=r"env\['A'\] has to be text"):
        command_message([b"a"], cast("Any", {"A": 1}), None, stdin=False, limit=0)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), -float("inf"), 1e300])
def test_impossible_timeouts(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout has to be a number of seconds above 0"):
        run(AnsweringPort(RESULT), timeout=timeout)


def test_an_endless_timeout_is_none() -> None:
    port = AnsweringPort(RESULT)
    run(port, timeout=float("inf"))
    assert port.asked["timeout"] is None


@pytest.mark.parametrize(
    ("given_input", "sent"), [(None, None), ("ü", "ü".encode()), (b"a", b"a"), (bytearray(b"a"), b"a")]
)
def test_input_is_text_or_bytes(given_input: Any, sent: bytes | None) -> None:
    port = AnsweringPort(RESULT)
    commands.run(
        port,
        [b"a"],
        input=given_input,
        env=None,
        cwd=None,
        timeout=None,
        check=False,
        limit=1,
        seen=lambda _: None,
    )
    assert (port.asked["input"], port.asked["stdin"]) == (sent, sent is not None)


# -- waiting


def pending(future: Future[dict[str, object]], kills: list[int], timeout: float | None) -> Pending[object]:
    request = cast("Request", SimpleNamespace(future=future, kill=lambda: kills.append(1)))
    return Pending(request, lambda answer: answer, timeout)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_an_interrupted_wait_kills_what_it_waited_for(interrupt: type[BaseException]) -> None:
    class Interrupted(Future[dict[str, object]]):
        def exception(self, timeout: float | None = None) -> BaseException | None:
            assert timeout is None or timeout > 0
            raise interrupt

    kills: list[int] = []
    with pytest.raises(interrupt):
        pending(Interrupted(), kills, None).result()
    assert kills == [1]


def test_a_wait_that_nobody_ends_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "HEARTBEAT_DEADLINE", 0.0)
    kills: list[int] = []
    with pytest.raises(SandboxLostError, match="no answer came"):
        pending(Future(), kills, 0.001).result()
    assert kills == [1]


def test_a_cancelled_wait_kills_what_it_waited_for_and_nobody_complains_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with line() as made:
        request = made.request("exec", {}, timeout=None)
        number, _ = made.agent.receive_request()

        async def main() -> None:
            waiting = asyncio.create_task(Pending(request, lambda answer: answer, None).result_async())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

        asyncio.run(main())
        assert made.agent.receive(wire.KILL)[0] == number
        with caplog.at_level(logging.DEBUG):
            made.agent.answer(number)
            assert request.future.result(60)["status"] == 0
            made.connection.close()
            assert made.agent.hung_up_on()
    assert caplog.records == []

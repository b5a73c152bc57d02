"""Commands that a slot is asked to run: arguments checked here, answers checked here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from pytest_sandboxes import arguments
from pytest_sandboxes.connection import LATE
from pytest_sandboxes.errors import CommandFailedError, ExecTimeoutError, SandboxLostError
from pytest_sandboxes.operations import Answer, Pending, Port, Text, field, lied, raise_error
from pytest_sandboxes.results import ExecResult, describe_name
from pytest_sandboxes.streams import Kept, Sink

__tracebackhide__ = True  # a failing test shows its own line, not ours

_UNLIMITED = 1 << 62


def command_arguments(argv: Sequence[object]) -> list[bytes]:
    """`argv` as bytes: separate arguments, or one list of them.

    Raises TypeError for what is no text, ValueError for an empty command, a NUL, or a whole shell line in one
    string.
    """
    if len(argv) == 1 and isinstance(argv[0], list | tuple):
        argv = argv[0]
    if not argv:
        raise ValueError("exec needs a command, such as exec('python3', 'solution.py')")
    words = [
        arguments.as_bytes(word, f"argument {place}" if place else "the program")
        for place, word in enumerate(argv)
    ]
    if len(words) == 1 and (b" " in words[0] or b"\n" in words[0]):
        line = os.fsdecode(words[0])
        raise ValueError(
            f"exec takes a program and its arguments one by one; for a shell line, use sh({line!r})"
        )
    if not words[0]:
        raise ValueError("the program's name is empty")
    return words


def shell_arguments(script: str) -> tuple[bytes, ...]:
    """The command that runs `script`. Raises TypeError for what is no text, ValueError for a NUL."""
    return b"/bin/sh", b"-c", arguments.as_bytes(script, "script")


def run(
    port: Port,
    argv: list[bytes],
    *,
    input: str | bytes | None,
    env: Mapping[str, str] | None,
    cwd: Text | None,
    timeout: float | None,
    check: bool,
    limit: int,
    seen: Callable[[ExecResult], None],
) -> Pending[ExecResult]:
    """Run a command to its end; `seen` gets its result even where that is raised."""
    timeout = arguments.deadline(timeout)
    stdout, stderr = Kept(limit), Kept(limit)
    words = tuple(describe_name(word) for word in argv)
    oom_before = port.oom_kills()

    def convert(answer: Answer) -> ExecResult:
        raise_error(answer)
        result = _exec_result(port, answer, words, oom_before, (stdout.bytes(), stderr.bytes()))
        seen(result)
        _judge_deadline(port, answer, timeout)
        if result.timed_out:
            raise ExecTimeoutError(f"{words[0]} was still running after {timeout} s", result)
        if check and not result.success:
            raise CommandFailedError(f"{words[0]} ended with return code {result.returncode}", result)
        return result

    content = None if input is None else arguments.text_or_content(input, "input")
    request = port.request(
        "exec",
        command_message(argv, env, cwd, stdin=content is not None, limit=limit),
        timeout=timeout,
        input=content,
        sinks=(stdout, stderr),
    )
    return Pending(request, convert, timeout)


def start(
    port: Port,
    argv: list[bytes],
    *,
    env: Mapping[str, str] | None,
    cwd: Text | None,
    timeout: float | None,
    sinks: tuple[Sink, Sink],
    seen: Callable[[ExecResult], None],
) -> Pending[ExecResult]:
    """Start a command that outlives this call. The result comes at its end, with the streams left to the sinks."""
    timeout = arguments.deadline(timeout)
    words = tuple(describe_name(word) for word in argv)
    oom_before = port.oom_kills()

    def convert(answer: Answer) -> ExecResult:
        raise_error(answer)
        _judge_deadline(port, answer, timeout)
        result = _exec_result(port, answer, words, oom_before, (b"", b""))
        seen(result)
        return result

    message = command_message(argv, env, cwd, stdin=True, limit=_UNLIMITED)
    return Pending(port.request("popen", message, timeout=timeout, sinks=sinks), convert, timeout)


def command_message(
    argv: list[bytes], env: Mapping[str, str] | None, cwd: Text | None, *, stdin: bool, limit: int
) -> dict[str, object]:
    """The arguments of an exec or popen request."""
    return {
        "argv": argv,
        "env": [[name, value] for name, value in arguments.environment(env).items()],
        "cwd": b"" if cwd is None else arguments.as_bytes(cwd, "cwd"),
        "stdin": stdin,
        "limit": limit,
    }


def _exec_result(
    port: Port, answer: Answer, words: tuple[str, ...], oom_before: int, output: tuple[bytes, bytes]
) -> ExecResult:
    status = field(port, answer, "status", int)
    if not 0 <= status <= 0xFFFF:
        raise lied(port, f"impossible wait status {status}")
    try:
        returncode = os.waitstatus_to_exitcode(status)
    except ValueError:
        raise lied(port, f"impossible wait status {status}") from None
    return ExecResult(
        argv=words,
        returncode=returncode,
        stdout_bytes=output[0],
        stderr_bytes=output[1],
        stdout_truncated=field(port, answer, "stdout_cut", bool),
        stderr_truncated=field(port, answer, "stderr_cut", bool),
        duration=field(port, answer, "duration", float),
        cpu_time=field(port, answer, "cpu", float),
        peak_memory=field(port, answer, "peak", int),
        oom_killed=port.oom_kills() > oom_before or answer.get("oom_killed") is True,
        timed_out=field(port, answer, "timed_out", bool),
    )


def _judge_deadline(port: Port, answer: Answer, timeout: float | None) -> None:
    """A deadline that was noticed late says nothing about the command: give the sandbox up."""
    if timeout is None:
        return
    late = field(port, answer, "late", float)
    if not field(port, answer, "timed_out", bool):
        late = field(port, answer, "duration", float) - timeout
    if late > LATE:
        reason = f"a deadline of {timeout} s was noticed {late:.1f} s late: the machine stood still"
        port.lose(reason)
        raise SandboxLostError(reason)

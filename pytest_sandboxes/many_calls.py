"""Many commands and tool calls at once, on slots of any profiles and backends."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from pytest_sandboxes import arguments, commands, file_operations
from pytest_sandboxes.connection import HEARTBEAT_DEADLINE
from pytest_sandboxes.errors import (
    InfrastructureError,
    LeaseClosedError,
    ManyCallsError,
    SandboxesError,
    SandboxLostError,
)
from pytest_sandboxes.operations import Answer, Pending
from pytest_sandboxes.results import ExecResult
from pytest_sandboxes.slot import Slot
from pytest_sandboxes.tool_calls import LONGEST_CONTENT, ToolCall, ToolResult, parse
from pytest_sandboxes.wording import alternatives, shown

__tracebackhide__ = True  # a failing test shows its own line, not ours

AT_ONCE = 64
"""Requests under way at a time; the others follow as those end."""

_LOOK_AGAIN = 5.0  # seconds between looks at whether an answer is overdue
_OPTIONS = ("input", "env", "cwd", "timeout", "check")
_TOOL_OPTIONS = ("env", "cwd", "timeout")

T = TypeVar("T")
Outcome = ExecResult | ToolResult | Exception


def exec_many(calls: Iterable[Sequence[Any]], *, return_exceptions: bool = False) -> list[Any]:
    """Carry out all of `calls` in parallel, and return their results in order once the last has ended.

    A call is `(slot, command)` or `(slot, command, options)`. A command is a list, or one word, as `Slot.exec` takes
    it, and has an `ExecResult`; its options are a mapping of those of `exec`. A mapping in its place is a tool call as
    agents emit them (see `tool_calls.parse`) and has a `ToolResult`, also where it is malformed or fails; its options
    are `env`, `cwd` and `timeout`, of `bash`.

    Every call has its own deadline, and none is given up because another fails. What they raise, each as `Slot.exec`
    would, comes at the end in one `ManyCallsError`, whose `results` has all results, and an exception in place of each
    that there is not; with `return_exceptions` that list is returned instead.

    Raises TypeError or ValueError, before anything is started, for what is no call, for arguments that cannot be, and
    for options that there are not.
    """
    outcomes = _run([_start_of(call, number) for number, call in enumerate(calls)])
    failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    if failures and not return_exceptions:
        raise ManyCallsError(failures, outcomes)
    return outcomes


# -- what each call is


def _start_of(call: object, number: int) -> Callable[[], Pending[Any] | ToolResult]:
    """What starts a call. Raises TypeError or ValueError for what is none."""
    what = f"calls[{number}]"
    if not isinstance(call, tuple | list) or len(call) not in (2, 3):
        raise TypeError(f"{what} has to be (slot, command) or (slot, command, options), not {shown(call)}")
    slot, command, options = call[0], call[1], call[2] if len(call) == 3 else {}
    if not isinstance(slot, Slot):
        raise TypeError(
            f"the slot of {what} is {shown(slot)}: give what the fixture `sandbox` gives, not its twin"
        )
    is_tool = isinstance(command, Mapping)
    _check_options(options, _TOOL_OPTIONS if is_tool else _OPTIONS, what)
    if is_tool:
        parsed = parse(command)
        return (lambda: parsed) if isinstance(parsed, ToolResult) else partial(_use, slot, parsed, options)
    argv = command if isinstance(command, list | tuple) else [command]
    return partial(_execute, slot, commands.command_arguments(argv), options)


def _check_options(options: object, known: tuple[str, ...], what: str) -> None:
    if not isinstance(options, Mapping):
        raise TypeError(f"the options of {what} have to be a mapping, not {shown(options)}")
    for name in options:
        if name not in known:
            raise TypeError(f"{what} has no option {shown(name)}: it takes {alternatives(known, 'and')}")
    arguments.deadline(options.get("timeout"))
    arguments.environment(options.get("env"))
    if options.get("cwd") is not None:
        arguments.as_bytes(options["cwd"], "cwd")
    if options.get("input") is not None:
        arguments.text_or_content(options["input"], "input")


def _execute(slot: Slot, argv: Sequence[str | bytes], options: Mapping[str, Any]) -> Pending[ExecResult]:
    return slot._exec(  # as its own `exec` does, which waits
        argv,
        options.get("input"),
        options.get("env"),
        options.get("cwd"),
        options.get("timeout"),
        bool(options.get("check", False)),
    )


def _use(slot: Slot, call: ToolCall, options: Mapping[str, Any]) -> Pending[ToolResult] | ToolResult:
    pending: Pending[Any]
    try:
        if call.name == "bash":
            pending = _execute(slot, call.argv(), options)
        elif call.name == "read_file":
            pending = file_operations.read(slot._port, call.arguments["path"], 4 * LONGEST_CONTENT)
        else:
            path, content = call.arguments["path"], call.arguments["content"]
            pending = file_operations.write_text(slot._port, path, content, "utf-8", None)
    except ValueError as error:  # NUL bytes, half characters, more than a command may have
        return call.failed(error)

    def convert(answer: Answer) -> ToolResult:
        try:
            return call.succeeded(pending.convert(answer))
        except (InfrastructureError, LeaseClosedError):  # not the model's business
            raise
        except (OSError, SandboxesError) as error:
            return call.failed(error)

    return Pending(pending.request, convert, pending.timeout)


# -- all of them


@dataclass(frozen=True)
class _UnderWay:
    number: int
    pending: Pending[Any]
    overdue: float | None
    """When to stop waiting for an answer; the connection gives up before, unless its thread is gone."""


def _run(starts: Sequence[Callable[[], Pending[Any] | ToolResult]]) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    queue = deque(enumerate(starts))
    under_way: dict[Future[Answer], _UnderWay] = {}
    try:
        while queue or under_way:
            while queue and len(under_way) < AT_ONCE:
                number, start = queue.popleft()
                begun = _attempt(start)
                if isinstance(begun, Pending):
                    overdue = begun.timeout and time.monotonic() + begun.timeout + 2 * HEARTBEAT_DEADLINE
                    under_way[begun.request.future] = _UnderWay(number, begun, overdue)
                else:
                    outcomes[number] = begun
            done = wait(under_way, _LOOK_AGAIN, FIRST_COMPLETED).done
            now = time.monotonic()
            for future, each in list(under_way.items()):
                if future in done:
                    outcomes[each.number] = _attempt(each.pending.result)
                elif each.overdue is not None and now > each.overdue:
                    each.pending.request.kill()
                    outcomes[each.number] = SandboxLostError("no answer came, nor word that none will")
                else:
                    continue
                del under_way[future]
    except BaseException:  # an interrupted wait (Ctrl-C, a test's timeout) kills all that still runs
        for each in under_way.values():
            each.pending.request.kill()
        raise
    return [outcomes[number] for number in range(len(starts))]


def _attempt(step: Callable[[], T]) -> T | Exception:
    try:
        return step()
    except Exception as error:  # noqa: BLE001 - whatever it is, it stands in its place and hides no other
        return error

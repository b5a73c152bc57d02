"""Tool calls as agents emit them, which a slot carries out.

What a model writes is as hostile as what its code does: a call may be anything that JSON can say. One that is malformed
has a result that says so, for the model to read, and never ends the test that passes it on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_sandboxes.display import one_line, printable, tail
from pytest_sandboxes.results import ExecResult, FileBytes
from pytest_sandboxes.wording import alternatives, did_you_mean, shown

__tracebackhide__ = True  # a failing test shows its own line, not ours

LONGEST_CONTENT = 100_000
"""Characters of a result's content; the middle of what is longer is left out."""

TOOLS: Mapping[str, tuple[str, ...]] = {
    "bash": ("command",),
    "read_file": ("path",),
    "write_file": ("path", "content"),
}
"""Names of tools, and of their arguments, which are texts and all have to be there."""

# Those of images that have no bash do what sh can do.
_SHELL = 'if command -v bash >/dev/null 2>&1; then exec bash -c "$1"; fi; exec sh -c "$1"'


@dataclass(frozen=True)
class ToolResult:
    """What came of a tool call."""

    name: str
    """The tool; empty where the call names none."""
    content: str
    """What to tell the model: output and exit code, a file's content, or what was wrong."""
    is_error: bool = False
    """The call was malformed, could not be carried out, or ran out of time. A command that has failed is none."""
    id: str | None = None
    """The call's own `id` or `call_id`."""
    result: ExecResult | None = field(default=None, compare=False)
    """Of `bash`: all that the command has said, also where it ran out of time."""

    def __repr__(self) -> str:
        head = f"<ToolResult {one_line(self.name, 60) or 'of no tool'}{': error' if self.is_error else ''}>"
        return f"{head}\n{tail(self.content)}" if self.content else head


@dataclass(frozen=True)
class ToolCall:
    """A call that is well-formed."""

    name: str
    arguments: Mapping[str, str]
    id: str | None = None

    def argv(self) -> tuple[str, ...]:
        """The command of a call of `bash`."""
        return "/bin/sh", "-c", _SHELL, "sh", self.arguments["command"]

    def failed(self, error: BaseException) -> ToolResult:
        """The result of a call that could not be carried out."""
        result = getattr(error, "result", None)
        if isinstance(result, ExecResult):
            said = f"{error.args[0]}\n{_output(result)}"
            return ToolResult(self.name, _shortened(said), is_error=True, id=self.id, result=result)
        reason = str(error) or type(error).__name__
        return ToolResult(self.name, _shortened(printable(reason)), is_error=True, id=self.id)

    def succeeded(self, value: object) -> ToolResult:
        """The result of a call that was carried out, of which `value` came."""
        if isinstance(value, ExecResult):
            return ToolResult(self.name, _shortened(_output(value)), id=self.id, result=value)
        if isinstance(value, FileBytes):
            cut = "\n[the file is longer]" if value.truncated else ""
            return ToolResult(self.name, _shortened(value.decode("utf-8", "replace")) + cut, id=self.id)
        return ToolResult(self.name, f"wrote {one_line(self.arguments['path'])}", id=self.id)


def parse(call: Mapping[Any, Any]) -> ToolCall | ToolResult:
    """A call, of the shape `{"name": …, "arguments" or "input": {…}}`, or the result that says what is wrong with it.

    Both may be within `function`, and the arguments may be text with JSON, as chat interfaces have them.
    """
    identity = next((call[key] for key in ("id", "call_id") if isinstance(call.get(key), str)), None)
    inner = call.get("function", call)
    if not isinstance(inner, Mapping):
        return ToolResult("", f"function is {shown(inner)}, not a mapping", is_error=True, id=identity)
    name = inner.get("name")

    def malformed(what: str) -> ToolResult:
        known = name if isinstance(name, str) and name in TOOLS else ""
        return ToolResult(known, what, is_error=True, id=identity)

    if not isinstance(name, str):
        return malformed(f"the call has no name of a tool: there are {alternatives(TOOLS, 'and')}")
    if name not in TOOLS:
        hint = did_you_mean(name, TOOLS)
        return malformed(f"there is no tool {shown(name)}: there are {alternatives(TOOLS, 'and')}{hint}")
    given = [inner[key] for key in ("arguments", "input") if inner.get(key) is not None]
    if len(given) != 1:
        return malformed(f"{name} takes its arguments as one mapping, called arguments or input")
    arguments = given[0]
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            return malformed(f"the arguments of {name} are not valid JSON: {one_line(str(error))}")
    complaint = _complaint(name, arguments)
    return malformed(complaint) if complaint else ToolCall(name, dict(arguments), identity)


def _complaint(name: str, arguments: object) -> str:
    """What is wrong with the arguments of a tool, empty if nothing is."""
    wanted = TOOLS[name]
    if not isinstance(arguments, Mapping):
        return f"the arguments of {name} are {shown(arguments)}, not a mapping"
    for key in arguments:
        if key not in wanted:
            hint = did_you_mean(key, wanted) if isinstance(key, str) else ""
            return f"{name} has no argument {shown(key)}: it takes {alternatives(wanted, 'and')}{hint}"
    for key in wanted:
        if key not in arguments:
            return f"{name} lacks its argument {key!r}"
        if not isinstance(arguments[key], str):
            return f"{key} of {name} is {shown(arguments[key])}, not text"
    return ""


def _output(result: ExecResult) -> str:
    parts: list[tuple[object, Callable[[], str]]] = [
        (result.stdout, lambda: result.stdout),
        (result.stderr, lambda: f"stderr:\n{result.stderr}"),
        (result.truncated, lambda: "[the output is longer]"),
        (result.oom_killed, lambda: "killed at the memory limit"),
        (result.returncode and not result.timed_out, lambda: f"exit code {result.returncode}"),
    ]
    return "\n".join(text().removesuffix("\n") for is_there, text in parts if is_there) or "(no output)"


def _shortened(text: str) -> str:
    left_out = len(text) - LONGEST_CONTENT
    if left_out <= 0:
        return text
    half = LONGEST_CONTENT // 2
    return f"{text[:half]}\n[{left_out} characters left out]\n{text[-half:]}"

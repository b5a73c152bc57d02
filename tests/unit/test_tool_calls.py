"""Tool calls: the shapes that agents emit, and that nothing a model writes is more than a result for it to read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes import ExecResult, ExecTimeoutError, FileBytes
from pytest_sandboxes.tool_calls import LONGEST_CONTENT, TOOLS, ToolCall, ToolResult, parse

BASH = ToolCall("bash", {"command": "ls"})


@pytest.mark.parametrize(
    "call",
    [
        {"name": "bash", "arguments": {"command": "ls"}},
        {"name": "bash", "input": {"command": "ls"}},
        {"name": "bash", "arguments": '{"command": "ls"}'},
        {"name": "bash", "arguments": None, "input": {"command": "ls"}},
        {"function": {"name": "bash", "arguments": '{"command": "ls"}'}, "type": "function"},
        {"type": "tool_use", "name": "bash", "input": {"command": "ls"}, "caller": {}},
    ],
)
@pytest.mark.parametrize("identity", [{}, {"id": "toolu_1"}, {"call_id": "toolu_1"}, {"id": 7}])
def test_shapes(call: dict[str, Any], identity: dict[str, Any]) -> None:
    found = parse({**call, **identity})
    assert found == ToolCall("bash", {"command": "ls"}, "toolu_1" if "toolu_1" in identity.values() else None)


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        ({}, "the call has no name of a tool: there are bash, read_file and write_file"),
        ({"name": ["bash"]}, "the call has no name of a tool"),
        ({"function": "bash"}, "function is 'bash', not a mapping"),
        (
            {"name": "Bash"},
            "there is no tool 'Bash': there are bash, read_file and write_file; did you mean 'bash'?",
        ),
        ({"name": "\x1b[2J" * 1000}, "there is no tool '\\x1b[2J"),
        ({"name": "bash"}, "bash takes its arguments as one mapping, called arguments or input"),
        ({"name": "bash", "input": {}, "arguments": {}}, "bash takes its arguments as one mapping"),
        ({"name": "bash", "input": ["ls"]}, "the arguments of bash are ['ls'], not a mapping"),
        ({"name": "bash", "input": "ls"}, "the arguments of bash are not valid JSON"),
        ({"name": "bash", "input": "[" * 100_000}, "the arguments of bash are not valid JSON"),
        ({"name": "bash", "input": "1" * 10_000}, "the arguments of bash are not valid JSON"),
        ({"name": "bash", "input": {}}, "bash lacks its argument 'command'"),
        ({"name": "bash", "input": {"command": 1}}, "command of bash is 1, not text"),
        ({"name": "bash", "input": {"command": None}}, "command of bash is None, not text"),
        (
            {"name": "bash", "input": {"comand": "ls"}},
            "bash has no argument 'comand': it takes command; did you mean",
        ),
        ({"name": "bash", "input": {1: "ls"}}, "bash has no argument 1: it takes command"),
        ({"name": "write_file", "input": {"path": "x"}}, "write_file lacks its argument 'content'"),
        ({"name": "read_file", "input": {"path": "x", "content": ""}}, "read_file has no argument 'content'"),
    ],
)
def test_a_malformed_call_is_a_result_that_says_so(call: dict[Any, Any], complaint: str) -> None:
    found = parse({**call, "id": "7"})
    assert isinstance(found, ToolResult)
    assert found.content.startswith(complaint)
    assert len(found.content) < 500
    assert (found.is_error, found.id) == (True, "7")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(sorted(TOOLS)),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(["command", "path", "content", "name", "input"]) | st.text(), below, max_size=3
        )
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["name", "input", "arguments", "function", "id", "type"]), VALUES),
    st.booleans(),
)
def test_whatever_it_is_it_is_a_call_or_a_result(call: dict[str, Any], as_text: bool) -> None:
    if as_text and "arguments" in call:
        call["arguments"] = json.dumps(call["arguments"])
    found = parse(call)
    if isinstance(found, ToolCall):
        assert sorted(found.arguments) == sorted(TOOLS[found.name])
        assert all(isinstance(value, str) for value in found.arguments.values())
    else:
        assert found.is_error
        found.content.encode()
        repr(found).encode()


def result(**changes: Any) -> ExecResult:
    return ExecResult(
        **{"argv": ("x",), "returncode": 0, "stdout_bytes": b"", "stderr_bytes": b"", **changes}
    )


@pytest.mark.parametrize(
    ("value", "content"),
    [
        (result(), "(no output)"),
        (result(stdout_bytes=b"a\nb\n"), "a\nb"),
        (result(stdout_bytes=b"a\n", stderr_bytes=b"b\n", returncode=2), "a\nstderr:\nb\nexit code 2"),
        (result(stdout_bytes=b"\xff", stdout_truncated=True), "\ufffd\n[the output is longer]"),
        (result(returncode=-9, oom_killed=True), "killed at the memory limit\nexit code -9"),
        (FileBytes(b"text"), "text"),
        (FileBytes(b"text", truncated=True), "text\n[the file is longer]"),
    ],
)
def test_what_the_model_is_told(value: object, content: str) -> None:
    told = BASH.succeeded(value)
    assert (told.content, told.is_error) == (content, False)


def test_a_deadline_leaves_what_there_was() -> None:
    late = result(stdout_bytes=b"so far", returncode=-9, timed_out=True)
    told = BASH.failed(ExecTimeoutError("it was still running after 1 s", late))
    assert told.content == "it was still running after 1 s\nso far"
    assert (told.is_error, told.result) == (True, late)


def test_the_middle_of_what_is_too_long_is_left_out() -> None:
    content = BASH.succeeded(result(stdout_bytes=b"a" * LONGEST_CONTENT + b"b" * 1000)).content
    assert len(content) < LONGEST_CONTENT + 100
    assert "[1000 characters left out]" in content
    assert content.endswith("b")

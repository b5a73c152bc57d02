"""What a call cannot take is refused by name, by both twins, and the slot goes on."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_sandboxes import Slot

TIMEOUT = "timeout has to be a number of seconds above 0, up to a year, or math.inf, not "

WRONG: list[tuple[str, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ("exec", ("cat",), {"input": 3}, TypeError, "input has to be text or bytes, not 3 (int)"),
    ("exec", ("cat",), {"input": ["a"]}, TypeError, "input has to be text or bytes, not ['a'] (list)"),
    ("exec", ("cat",), {"timeout": "3"}, TypeError, f"{TIMEOUT}'3' (str)"),
    ("exec", ("cat",), {"timeout": True}, TypeError, f"{TIMEOUT}True (bool)"),
    ("exec", ("cat",), {"timeout": 0}, ValueError, f"{TIMEOUT}0"),
    ("exec", ("cat",), {"timeout": 1e300}, ValueError, f"{TIMEOUT}1e+300"),
    ("popen", ("cat",), {"timeout": float("nan")}, ValueError, f"{TIMEOUT}nan"),
    ("popen", ("cat",), {"timeout": [1]}, TypeError, f"{TIMEOUT}[1] (list)"),
    (
        "exec",
        ("cat",),
        {"env": ["A"]},
        TypeError,
        "env has to be a mapping of names to texts, not ['A'] (list)",
    ),
    ("exec", ("cat",), {"env": {1: "a"}}, TypeError, "a name in env has to be text, not 1 (int)"),
    (
        "popen",
        ("cat",),
        {"env": {"A": 1}},
        TypeError,
        "env['A'] has to be text, bytes or a path, not 1 (int)",
    ),
    ("exec", ("cat",), {"cwd": 1}, TypeError, "cwd has to be text, bytes or a path, not 1 (int)"),
    ("exec", ("cat", None), {}, TypeError, "argument 1 has to be text, bytes or a path, not None"),
    ("sh", (3,), {}, TypeError, "script has to be text, bytes or a path, not 3 (int)"),
    ("sh", ("true",), {"input": 3}, TypeError, "input has to be text or bytes, not 3 (int)"),
    ("write_bytes", ("x", [1, 2]), {}, TypeError, "content has to be bytes, not [1, 2] (list)"),
    ("write_bytes", ("x", 2), {}, TypeError, "content has to be bytes, not 2 (int)"),
    ("write_bytes", ("x", "text"), {}, TypeError, "content has to be bytes, not 'text' (str)"),
    ("write_text", ("x", b"bytes"), {}, TypeError, "content has to be text, not b'bytes' (bytes)"),
    (
        "write_text",
        ("x", ""),
        {"mode": "0755"},
        TypeError,
        "mode has to be permission bits such as 0o644, at most 0o7777, not '0755' (str)",
    ),
    ("read_bytes", (None,), {}, TypeError, "path has to be text, bytes or a path, not None"),
    (
        "read_text",
        ("x",),
        {"max_bytes": "3"},
        TypeError,
        "max_bytes has to be a whole number that is not below 0, not '3' (str)",
    ),
    (
        "list_files",
        (),
        {"max_entries": -1},
        ValueError,
        "max_entries has to be a whole number that is not below 0, not -1",
    ),
    (
        "download",
        (".", "x"),
        {"max_entries": None},
        TypeError,
        "max_entries has to be a whole number that is not below 0, not None",
    ),
    (
        "download",
        (".", "x"),
        {"max_bytes": 1.5},
        TypeError,
        "max_bytes has to be a whole number that is not below 0, not 1.5 (float)",
    ),
    (
        "download",
        (".", None),
        {},
        TypeError,
        "destination has to be a path, as text or a path object, not None",
    ),
    ("upload", (1, "x"), {}, TypeError, "source has to be a path, as text or a path object, not 1 (int)"),
]


@pytest.mark.asyncio
async def test_what_cannot_be_is_refused_by_name(sandbox: Slot) -> None:
    for call, positional, named, error, message in WRONG:
        with pytest.raises(error) as caught:
            getattr(sandbox, call)(*positional, **named)
        assert str(caught.value) == message
        with pytest.raises(error) as caught:
            await getattr(sandbox.aio, call)(*positional, **named)
        assert str(caught.value) == message
    assert sandbox.list_files() == []


@pytest.mark.asyncio
async def test_a_process_takes_text_or_bytes(sandbox: Slot) -> None:
    complaint = r"data has to be text or bytes, not 4 \(int\)"
    wrong: Any = 4
    process = sandbox.popen("cat")
    with pytest.raises(TypeError, match=complaint):
        process.write(wrong)
    twin = await sandbox.aio.popen("cat")
    with pytest.raises(TypeError, match=complaint):
        await twin.write(wrong)


def test_a_process_is_waited_for_for_some_seconds(sandbox: Slot) -> None:
    process = sandbox.popen("sleep", "1000")
    wrong: Any
    for wrong in ("3", True):
        for wait in (process.wait, process.stdout.read, process.stdout.readline):
            with pytest.raises(TypeError, match="timeout has to be a number of seconds"):
                wait(wrong)
    with pytest.raises(ValueError, match="timeout has to be a number of seconds, up to a year"):
        process.wait(1e300)
    for passed in (0, -1):
        with pytest.raises(TimeoutError, match=f"still running after {passed} s"):
            process.wait(passed)
    process.kill()
    assert process.wait(float("inf")) == -9

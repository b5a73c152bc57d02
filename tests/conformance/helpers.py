"""What the tests of this suite share: waiting for conditions, and running Python in a slot."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from textwrap import dedent

from pytest_sandboxes import ExecResult, Process, Slot

GENEROUS = 60.0
"""Seconds after which what has not happened will not happen, on however busy a machine."""

SlotFactory = Callable[..., AbstractContextManager[Slot]]
"""What the fixture `sandbox_factory` is, for one slot at a time."""


def eventually(condition: Callable[[], object], what: str) -> None:
    """Return once `condition` holds; fails when it never does."""
    deadline = time.monotonic() + GENEROUS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


def waits(thread: threading.Thread) -> bool:
    """Whether it waits for something that another thread does, such as hear of an answer."""
    assert thread.ident is not None
    return sys._current_frames()[thread.ident].f_code is threading.Condition.wait.__code__


def python(
    slot: Slot,
    code: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> ExecResult:
    """Run Python code in a slot."""
    return slot.exec(*_python(code), *arguments, env=env, timeout=timeout)


def start_python(
    slot: Slot, code: str, *arguments: str, env: Mapping[str, str] | None = None, until: str = ""
) -> Process:
    """Start Python code in a slot; with `until`, wait until it has printed that line."""
    return _started(slot.popen(*_python(code), *arguments, env=env), until)


def start(slot: Slot, script: str, *, env: Mapping[str, str] | None = None, until: str = "") -> Process:
    """Start a script of the shell in a slot; with `until`, wait until it has printed that line."""
    return _started(slot.popen("sh", "-c", script, env=env), until)


def _started(process: Process, until: str) -> Process:
    if until:
        assert process.stdout.readline(GENEROUS) == f"{until}\n"
    return process


def _python(code: str) -> tuple[str, ...]:
    return ("python3", "-I", "-S", "-c", dedent(code))


_DEAF = f"trap '' {' '.join(map(str, (*range(1, 9), *range(10, 17), *range(20, 32))))}"
DAEMON = f"""
exec 3>&1
# the inner shell's output is waited for until the daemon has closed it
: "$( (setsid sh -c "{_DEAF}; cd /; echo daemon >&3; exec sleep 1000 </dev/null >/dev/null 2>&1 3>&-" &) )"
exec 3>&-
true"""
"""A script of the shell that starts a daemon, as textbooks make one, deaf to whatever it may be deaf to.

The daemon says `daemon`; the script goes on without it.
"""

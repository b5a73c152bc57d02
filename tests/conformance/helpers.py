"""What the tests of this suite share: waiting for conditions, and running Python in a slot."""

from __future__ import annotations

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
    process = slot.popen(*_python(code), *arguments, env=env)
    if until:
        assert process.stdout.readline(GENEROUS) == f"{until}\n"
    return process


def _python(code: str) -> tuple[str, ...]:
    return ("python3", "-I", "-S", "-c", dedent(code))


DAEMON = """
    import os, signal, sys, time

    # a daemon as textbooks make one, deaf to whatever it may be deaf to
    is_up, up = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        os.chdir("/")
        print("daemon", flush=True)
        os.write(up, b"x")
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        while True:
            time.sleep(1000)
    os.read(is_up, 1)
"""
"""Starts a daemon, which says `daemon`, and ends."""

"""Commands that end what was kept on this machine."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import uuid

import pytest

from pytest_sandboxes.backends import children
from pytest_sandboxes.errors import SandboxesError
from tests.processes import carrying
from tests.waiting import wait_until


def test_a_command_that_fails_is_no_end() -> None:
    children.run_command("true")
    with pytest.raises(SandboxesError, match=re.escape("`echo no >&2; false` failed: no")):
        children.run_command("echo no >&2; false")


def test_a_command_that_does_not_end_is_killed_with_all_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_COMMAND_TIMEOUT", 0.1)
    mark = f"MARK={uuid.uuid4().hex}"
    with pytest.raises(SandboxesError, match="; true` has not ended within"):
        children.run_command(f"env {mark} sleep 1000; true")
    wait_until(lambda: not carrying(mark, "environ", "cmdline"))


INTERRUPTED = """
from pytest_sandboxes.backends import children
children.run_command("sleep 0.1; kill -INT $PPID; sleep 0.1")
"""


def test_ctrl_c_is_no_error_of_a_command_that_ends_in_that_moment() -> None:
    run = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert run.returncode == -signal.SIGINT, run.stderr
    assert run.stderr.strip().endswith("KeyboardInterrupt")

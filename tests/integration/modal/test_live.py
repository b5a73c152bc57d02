"""What `tox run -e modal-live` does, on an emulator."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.emulators.modal.control import Control
from tests.integration.conftest import ROOT

IN_ONE_USER = ("--", "--sandbox-isolation=sandbox", "-p", "no:cacheprovider")
"""Arguments of pytest: an ordinary user's emulator has no other users for slots."""


def live(*arguments: str) -> tuple[int, str]:
    """Exit code and output."""
    command = [sys.executable, "-m", "tests.live.modal", *arguments]
    ran = subprocess.run(
        command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120, check=False
    )
    return ran.returncode, ran.stdout + ran.stderr


def test_it_runs_the_suite_and_counts(emulator: Control) -> None:
    code, said = live("--sandboxes", "1", *IN_ONE_USER, "-k", "test_text_in_another_encoding")
    assert code == 0, said
    assert re.search(
        r"^modal: [1-9]\d* sandboxes, \d+ sandbox-seconds, at most \$0\.0\d$", said, re.MULTILINE
    ), said
    assert emulator.running() == []


def test_it_ends_at_its_limit(emulator: Control) -> None:
    code, said = live("--seconds", "0", *IN_ONE_USER, "-k", "test_text")
    assert code == 1, said
    assert "0 sandbox-seconds have been used, and no more are allowed" in said
    assert emulator.running() == []


def test_it_does_nothing_without_credentials(emulator: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"):
        monkeypatch.delenv(name)
    code, said = live()
    assert (code, said.partition(":")[0]) == (0, "skipped")
    assert not emulator.events("call")

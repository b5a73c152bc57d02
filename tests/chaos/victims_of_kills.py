"""Runs of pytest that are started to be killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

PATIENCE = 10.0
_VICTIMS = Path(__file__).with_name("victims.py")
_START_TIMEOUT = 60.0


def start_victim(
    marker: str,
    folder: Path,
    profile: str = "",
    *options: str,
    dies_after: str | None = None,
    environment: Mapping[str, str] | None = None,
    wait: bool = True,
) -> subprocess.Popen[bytes]:
    """Start a run with `marker` in its processes; it is busy in sandboxes when this returns, unless nobody waits.

    With `dies_after`, it kills itself, see `tests.chaos.dying`. Raises AssertionError if it does not get going.
    """
    ready = folder / f"ready-{marker}"
    profiles = folder / f"{marker}.yaml"
    profile = profile or f"{{workspace_base: /{marker}, execution_timeout_s: 1000}}"
    profiles.write_text(f"profiles:\n  default: {profile}\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        *(["-p", "tests.chaos.dying"] if dies_after else []),
        str(_VICTIMS),
        f"--sandbox-profiles-file={profiles}",
        f"--rootdir={folder}",
        "-c",
        os.devnull,
    ]
    victim = subprocess.Popen(
        [*command, *options],
        cwd=folder,
        env={
            **os.environ,
            **(environment or {}),
            "VICTIMS_READY": str(ready),
            "VICTIMS_DIE_AFTER": dies_after or "",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + _START_TIMEOUT
    while wait and not ready.exists():
        assert victim.poll() is None, f"the victim ended by itself with {victim.returncode}"
        assert time.monotonic() < deadline, "the victim did not get going"
        time.sleep(0.002)
    return victim

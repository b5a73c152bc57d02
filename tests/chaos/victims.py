"""A suite to be killed: hostile trees in every slot, some commands short, some long, file transfers in between."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pytest_sandboxes import Slot

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # below nohup it is ignored, and that is inherited

DAEMONS = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for generation in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        if generation == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
print("ready", flush=True)
time.sleep(1000)
"""


def test_daemons(sandbox: Slot) -> None:
    process = sandbox.popen("python3", "-c", DAEMONS)
    assert process.stdout.readline(timeout=60) == "ready\n"
    Path(os.environ["VICTIMS_READY"]).touch()
    sandbox.sh("sleep 1000 & setsid sleep 1000 & sleep 0.05")


@pytest.mark.parametrize("number", range(1000))
def test_busy(sandbox: Slot, number: int) -> None:
    sandbox.write_bytes("data", bytes(100_000))
    sandbox.sh("setsid sleep 1000 & (trap '' TERM; sleep 1000) & true")
    sandbox.exec("sleep", "0.02")

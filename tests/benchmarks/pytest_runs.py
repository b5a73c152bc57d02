"""Whole runs of pytest: what the plugin costs those who do not use it, and what is left of it after a SIGKILL."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.benchmarks.measuring import Row, milliseconds, times

_TRIVIAL = """\
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_trivial(number):
    assert number >= 0
"""
_ENDLESS = """\
def test_endless(sandbox):
    sandbox.exec("sleep", "{seconds}", timeout=3000)
"""
_OPTIONS = ("-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", ".")


def unused(*, quick: bool) -> Iterator[Row]:
    """Tests that want no sandbox, with the plugin and without; in seconds of CPU, which neighbours disturb least."""
    count, rounds = (400, 2) if quick else (4000, 5)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_trivial.py").write_text(_TRIVIAL.format(count=count))
        _cpu_seconds(folder, "-p", "sandboxes")  # compiles what a user has compiled long ago
        installed, without = [], []
        for _ in range(rounds):
            installed.append(_cpu_seconds(folder, "-p", "sandboxes"))
            without.append(_cpu_seconds(folder, "-p", "no:sandboxes"))
    yield Row(
        f"installed but unused: {count:,} trivial tests",
        f"{median(installed):.2f} s CPU",
        f"{median(without):.2f} s CPU `-p no:sandboxes`",
        times(median(installed) / median(without)),
        "<= 1.02 x",
        rounds,
    )


def _cpu_seconds(folder: str, *options: str) -> float:
    """CPU time of a run with no other plugin installed."""
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPYCACHEPREFIX": folder}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "pytest", *_OPTIONS, *options, "test_trivial.py"]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def killed(*, quick: bool) -> Iterator[Row]:
    """SIGKILL of pytest in the middle of an exec, until the last process of the run has ended."""
    samples = 2 if quick else 10
    durations = [_kill_and_wait() for _ in range(samples)]
    yield Row(
        "kill -9 of pytest until the last process is gone",
        f"{milliseconds(median(durations))} (at most {milliseconds(max(durations))})",
        target="<= 100 ms",
        samples=samples,
    )


def _kill_and_wait() -> float:
    seconds = str(100_000 + os.getpid())  # tells our sleep from everybody else's
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_endless.py").write_text(_ENDLESS.format(seconds=seconds))
        command = [sys.executable, "-m", "pytest", *_OPTIONS, "test_endless.py"]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        family = _wait_for_sleep(process, f"sleep\0{seconds}\0".encode())
        watched = [os.pidfd_open(pid) for pid in family]
        begin = time.perf_counter()
        process.send_signal(signal.SIGKILL)
        for descriptor in watched:  # readable once its process has ended
            select.select([descriptor], [], [])
            os.close(descriptor)
        duration = time.perf_counter() - begin
        process.wait()
        return duration


def _wait_for_sleep(process: subprocess.Popen[bytes], command: bytes) -> list[int]:
    """Wait until the run's command runs; return all processes of the run."""
    while process.poll() is None:
        family = _family(process.pid)
        if any(_command_of(pid) == command for pid in family) and family == _family(process.pid):
            return family
        time.sleep(0.01)
    raise RuntimeError("pytest ended before its test had started")


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _family(root: int) -> list[int]:
    """`root` and all its descendants that live."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                children.setdefault(int(parent), []).append(int(name))
    found = [root]
    for pid in found:
        found += children.get(pid, ())
    return found

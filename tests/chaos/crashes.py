"""Workers of pytest-xdist forced to crash: `python -m tests.chaos.crashes [count]` proves that every slot comes back.

So many tests crash their worker once, each in one of five ways, and pass when they are run again. A log outside of the
workers proves each hit.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from tests.chaos import leftovers

WORKERS = 4
_SECONDS_PER_CRASH = 10.0  # of a machine with other things to do
_SUITE = """
import ctypes, os, signal, threading, time
from pathlib import Path

import pytest

HITS = Path(os.environ["CRASHES_HITS"])
HELD = HITS.with_name("held")

def exit(): os._exit(3)
def kill(): os.kill(os.getpid(), signal.SIGKILL)
def segfault(): ctypes.string_at(0)
def abort(): os.abort()
def fork():
    if os.fork() == 0:  # holds every pipe of the worker's
        time.sleep(5)
        os._exit(0)
    os._exit(3)

WAYS = (exit, kill, segfault, abort, fork)

def busy_nowhere(sandbox): pass
def busy_in_a_command(sandbox): threading.Thread(target=lambda: sandbox.sh("sleep 1000 & sleep 1000"), daemon=True).start()
def busy_in_a_stream(sandbox): sandbox.popen("yes").stdout.read()
def busy_in_a_file(sandbox): threading.Thread(target=lambda: sandbox.write_bytes("f", bytes(30_000_000)), daemon=True).start()

BUSY = (busy_nowhere, busy_in_a_command, busy_in_a_stream, busy_in_a_file)

@pytest.mark.parametrize("number", range(int(os.environ["CRASHES_COUNT"])))
def test_crashes_once(sandbox, sandbox_pool, number):
    sandbox.write_text("mine", str(number))
    assert [each.path for each in sandbox.list_files()] == ["mine"]
    now = sandbox_pool.statistics()
    assert now.leased + now.idle + now.starting <= 1, now
    hits = HITS.read_text().split()
    if str(number) not in hits:
        with HITS.open("a") as log:
            log.write(f"{number}\\n")
        BUSY[number % len(BUSY)](sandbox)
        time.sleep(number % 7 / 100)
        WAYS[number % len(WAYS)]()
    assert sandbox.read_text("mine") == str(number)
"""


def crash(count: int) -> str:
    """Run so many crashes with four workers and one sandbox; return the summary. Raises AssertionError for a slot lost."""
    marker = f"victim-crashes-{os.getpid()}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_it.py").write_text(_SUITE)
        (folder / "hits").touch()
        profiles = folder / "profiles.yaml"
        profiles.write_text(
            f"profiles:\n  default: {{workspace_base: /{marker}, max_sandboxes: 1, buffer_sandboxes: 1}}\n"
        )
        report = folder / "report.xml"
        ran = subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", "-q", "-n", str(WORKERS), "test_it.py"),
                *("-p", "no:cacheprovider", "-p", "no:faulthandler", "-c", os.devnull, f"--rootdir={folder}"),
                *(f"--max-worker-restart={10 * count}", f"--sandbox-profiles-file={profiles}"),
                f"--junitxml={report}",
            ],
            cwd=folder,
            env={
                **os.environ,
                "CRASHES_HITS": str(folder / "hits"),
                "CRASHES_COUNT": str(count),
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = ran.communicate(timeout=60 + _SECONDS_PER_CRASH * count)
        except subprocess.TimeoutExpired:
            os.killpg(ran.pid, signal.SIGKILL)
            raise
        assert ran.returncode == 0, output[-5000:]
        hits = Counter((folder / "hits").read_text().split())
        assert len(hits) == count, "not every test has crashed its worker"
        assert set(hits.values()) == {1}, "a test has crashed its worker again"
        _check(report, count)
    leftovers.seconds_until_gone(marker, 10)
    (summary,) = re.findall(r"^.* leased, .*$", output, re.MULTILINE)
    return str(summary)


def _check(report: Path, count: int) -> None:
    entries = list(ET.parse(report).iter("testcase"))
    assert len({entry.attrib["name"] for entry in entries}) == len(entries) == count, (
        "a test is lost, or twice there"
    )
    attempts = Counter(
        each.attrib["value"]
        for entry in entries
        for each in entry.iter("property")
        if each.attrib["name"] == "sandbox.attempts"
    )
    assert attempts == {"2": count}, attempts


def main(count: int) -> None:
    """Crash `count` workers and print the figures."""
    begin = time.monotonic()
    summary = crash(count)
    print(
        f"{count} crashes in {time.monotonic() - begin:.0f} s, every test passed the second time: {summary}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)

"""A run in a storm: `python -m tests.chaos.storm [tests] [--image NAME] [--profiles N]`.

It kills sandboxes and workers while the run goes on. Where there are several profiles, the tests take turns at them, and
all together may have as many sandboxes as there are workers.

Each test is hit at most once, because code that loses its sandbox twice has failed, and a second crash is an error. What
is about to be hit is stopped first, so that it is known for certain which test it is at. The verdicts that are expected,
failures among them, are those of a calm day.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests import processes
from tests.chaos.witness import Witness

WORKERS = 4
_SECONDS_PER_TEST = 2.0  # of a machine with other things to do
_PATIENCE = 10.0  # seconds for a process to be gone
_PAUSE = (0.1, 0.9)  # seconds between two hits
# All of a test counts, and there is no moment in which the file is neither this nor that. While its last report is being
# sent, nobody outside can tell whether it is over.
_CONFTEST = """
import os
from pathlib import Path

import pytest

AT = Path(__file__).parent / "at" / str(os.getpid())

def note(what):
    new = AT.with_suffix(".new")
    new.write_text(what)
    new.rename(AT)

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    note(str(item.callspec.params["number"]))
    try:
        return (yield)
    finally:
        note("")

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report):
    if report.when == "teardown":
        note("over")
"""
_SUITE = """
import os

import pytest

from pytest_sandboxes import ExecTimeoutError

MARKER = os.environ["STORM_MARKER"]

def shell(number, script):
    return f": {MARKER}-{number}-; sleep 0.2; {script}"

def right(sandbox, number):
    sandbox.write_text("mine", str(number))
    assert sandbox.sh(shell(number, "cat mine")).stdout == str(number)
    assert [each.path for each in sandbox.list_files()] == ["mine"]

def wrong(sandbox, number):
    assert sandbox.sh(shell(number, "echo wrong")).stdout == "right"

def too_slow(sandbox, number):
    with pytest.raises(ExecTimeoutError):
        sandbox.sh(shell(number, "sleep 1000 & sleep 1000"), timeout=0.4)

def dies(sandbox, number):
    assert sandbox.sh(shell(number, "kill -9 $$")).returncode == -9

def fails(sandbox, number):
    sandbox.sh(shell(number, "exit 3"), check=True)


def skips(sandbox, number):
    right(sandbox, number)
    pytest.skip("for a reason")

KINDS = (right, wrong, too_slow, right, dies, fails, right, skips)

PROFILES = int(os.environ["STORM_PROFILES"])

def numbers(first, count):
    marks = [pytest.mark.sandbox(profile=f"number-{number}") for number in range(PROFILES)]
    # neighbours of one profile now and then, so that a sandbox is sometimes used again
    return [pytest.param(number, marks=marks[number // 3 % PROFILES]) for number in range(first, first + count)]

@pytest.mark.parametrize("number", numbers(0, int(os.environ["STORM_TESTS"])))
def test_it(sandbox, number):
    KINDS[number % len(KINDS)](sandbox, number)

@pytest.mark.xfail
@pytest.mark.parametrize("number", numbers(int(os.environ["STORM_TESTS"]), 20))
def test_known_to_be_wrong(sandbox, number):
    wrong(sandbox, number)
"""
_VERDICTS = ("passed", "failure", "passed", "passed", "passed", "failure", "passed", "skipped")
_KNOWN = 20


@dataclass
class Storm:
    """Hits a run, and keeps a log of each hit outside of it."""

    marker: str
    folder: Path
    controller: int
    chance: random.Random
    hit: dict[int, str] = field(default_factory=dict)
    """For each test that was hit: what was killed."""
    idle_workers: int = 0
    """Workers that were killed between two tests."""

    @property
    def hit_sandboxes(self) -> list[int]:
        """The tests whose sandbox was killed."""
        return [number for number, what in self.hit.items() if what.startswith("sandbox")]

    def strike(self) -> None:
        """Kill a worker or a sandbox, if there is one at a test that has not been hit before."""
        if self.chance.random() < 0.3:
            self._strike_worker()
        else:
            self._strike_sandbox()

    def _strike_worker(self) -> None:
        workers = [pid for pid in _children(self.controller) if b"exec(eval(" in _command_line(pid)]
        if not workers:
            return
        pid = self.chance.choice(workers)
        with _stopped(pid):
            at = self.folder / "at" / str(pid)
            if not at.exists():
                return  # it has not begun with any test
            number = at.read_text()
            if number == "over" or (number and int(number) in self.hit):
                return
            if not _kill(pid):
                return  # it had ended, with the run
            if number:
                self.hit[int(number)] = f"worker {pid}"
            else:
                self.idle_workers += 1

    def _strike_sandbox(self) -> None:
        for pid, number in self._at_work():
            agent = _first_process(pid)
            if number in self.hit or agent is None:
                continue
            with _stopped(agent):
                if (pid, number) in self._at_work() and _kill(agent):
                    self.hit[number] = f"sandbox {agent}"
                    return

    def _at_work(self) -> list[tuple[int, int]]:
        """Processes of tests in sandboxes, each with its test's number."""
        found = []
        for pid in processes.carrying(f"{self.marker}-", "cmdline"):
            named = re.search(rb"-(\d+)-; sleep", _command_line(pid))
            if named and _first_process(pid) is not None:
                found.append((pid, int(named[1])))
        self.chance.shuffle(found)
        return found


def rage(tests: int, *, image: str | None = None, profiles: int = 1, seed: int = 0) -> str:
    """Run so many tests in a storm, on backend docker where there is an `image`; return the figures.

    Raises AssertionError for a wrong verdict, and for what is left over.
    """
    if image is None:
        storm, said = _run(tests, {}, profiles, "local", seed)
    else:
        with Witness() as witness:
            storm, said = _run(tests, {"image": image}, profiles, "docker", seed)
            assert not witness.left(storm.controller)
            assert witness.killed(storm.controller) >= len(storm.hit_sandboxes)
            assert 0 < witness.most_at_once(storm.controller) <= WORKERS
    assert not processes.carrying(storm.marker, "cmdline")
    return (
        f"{tests + _KNOWN} tests of {profiles} profiles, {len(storm.hit_sandboxes)} sandboxes and "
        f"{len(storm.hit) - len(storm.hit_sandboxes)} workers killed at a test, {storm.idle_workers} workers between "
        f"tests; {said}"
    )


def _run(tests: int, profile: dict[str, object], count: int, backend: str, seed: int) -> tuple[Storm, str]:
    marker = f"storm{os.getpid()}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "at").mkdir()
        (folder / "conftest.py").write_text(_CONFTEST)
        (folder / "test_it.py").write_text(_SUITE)
        profiles, report = folder / "profiles.yaml", folder / "report.xml"
        named = {
            f"number-{number}": {**profile, "env_vars": {"NUMBER": str(number)}} for number in range(count)
        }
        profiles.write_text(json.dumps({"profiles": named}))
        command = [sys.executable, "-m", "pytest", "-n", str(WORKERS), "test_it.py", "--tb=line"]
        command += [
            "-p",
            "no:cacheprovider",
            "-p",
            "no:faulthandler",
            "-c",
            os.devnull,
            f"--rootdir={folder}",
        ]
        command += ["--max-worker-restart=10000", f"--junitxml={report}"]
        command += [f"--sandbox-max-sandboxes={WORKERS}", "--sandbox-profile=number-0"]
        command += [f"--sandbox-backend={backend}", f"--sandbox-profiles-file={profiles}"]
        with (folder / "output").open("w") as output:
            run = subprocess.Popen(
                command,
                cwd=folder,
                env={
                    **os.environ,
                    "STORM_MARKER": marker,
                    "STORM_TESTS": str(tests),
                    "STORM_PROFILES": str(count),
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        storm = Storm(marker, folder, run.pid, random.Random(seed))
        deadline = time.monotonic() + 60 + _SECONDS_PER_TEST * tests
        try:
            while run.poll() is None:
                assert time.monotonic() < deadline, "the run does not end"
                time.sleep(storm.chance.uniform(*_PAUSE))
                storm.strike()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        text = (folder / "output").read_text()
        assert run.returncode == 1, text[-5000:]
        _check(report, tests, storm, text)
        return storm, text.strip().splitlines()[-1].strip("= ")


def _check(report: Path, tests: int, storm: Storm, output: str) -> None:
    entries = {
        int(re.findall(r"\d+", entry.attrib["name"])[0]): entry for entry in ET.parse(report).iter("testcase")
    }
    assert len(list(ET.parse(report).iter("testcase"))) == len(entries) == tests + _KNOWN, (
        "lost, or twice there"
    )
    for number, entry in sorted(entries.items()):
        expected = _VERDICTS[number % len(_VERDICTS)] if number < tests else "skipped"
        found = [each.tag for each in entry if each.tag in {"failure", "error", "skipped"}] or ["passed"]
        attempts = [
            e.attrib["value"] for e in entry.iter("property") if e.attrib["name"] == "sandbox.attempts"
        ]
        text = ET.tostring(entry, encoding="unicode")[:3000]
        assert found == [expected], (
            f"test {number} ({storm.hit.get(number)}): {found}\n{text}\n{output[-3000:]}"
        )
        assert attempts == ["2" if number in storm.hit else "1"], (
            f"{number} ({storm.hit.get(number)}): {text}"
        )


# -- processes


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _kill(pid: int) -> bool:
    """Kill a process, and see that it is gone; tell whether it was there."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        ended, _, _ = select.select([descriptor], [], [], _PATIENCE)
        assert ended, f"process {pid} does not die"
    finally:
        os.close(descriptor)
    return True


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def _command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _first_process(pid: int) -> int | None:
    """The first process of the process id namespace that `pid` is in, if that is another one than ours."""
    while pid > 1:
        try:
            status = dict(
                line.split(":", 1)
                for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                if ":" in line
            )
        except OSError:
            return None
        inside = status["NSpid"].split()
        if len(inside) == 1:
            return None
        if inside[-1] == "1":
            return pid
        pid = int(status["PPid"])
    return None


def main() -> None:
    """Let it rage, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.storm", description=__doc__)
    parser.add_argument("tests", nargs="?", type=int, default=500)
    parser.add_argument("--image", help="to run on backend docker with")
    parser.add_argument("--profiles", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    begin = time.monotonic()
    said = rage(arguments.tests, image=arguments.image, profiles=arguments.profiles, seed=arguments.seed)
    print(f"{said}; {time.monotonic() - begin:.0f} s in all; every verdict is right, nothing is left")


if __name__ == "__main__":
    main()

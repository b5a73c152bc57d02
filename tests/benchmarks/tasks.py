"""The main job: short Python tasks, two at a time, next to a runner that isolates nothing."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_sandboxes.backends.bubblewrap import Interpreter
from pytest_sandboxes.slot import Slot
from tests.benchmarks.local_slots import BACKEND, warm_pool
from tests.benchmarks.measuring import Row, milliseconds, taking_turns, times

_WORKERS = 2
_TIMEOUT = 600.0  # seconds
_SOLUTION = """\
import json, sys
words = json.load(sys.stdin)
print(json.dumps({word: words.count(word) for word in sorted(set(words))}))
"""
_INPUT = '["b", "a", "b"]'
_EXPECTED = '{"a": 1, "b": 2}\n'

_SUITE = """\
import subprocess

import pytest

tasks = pytest.mark.parametrize("task", range(COUNT))


@tasks
def test_isolated(sandbox, task):
    sandbox.write_text("solution.py", SOLUTION)
    assert sandbox.exec("python3", "solution.py", input=INPUT).stdout == EXPECTED


@tasks
def test_bare(tmp_path, task):
    (tmp_path / "solution.py").write_text(SOLUTION)
    ran = subprocess.run([PYTHON, "solution.py"], cwd=tmp_path, input=INPUT, capture_output=True, text=True)
    assert ran.stdout == EXPECTED
"""


def threads(*, quick: bool) -> Iterator[Row]:
    """Tasks from two threads of one process."""
    count, rounds = (20, 1) if quick else (160, 3)
    with warm_pool(_WORKERS) as (pool, profile):

        def isolated() -> None:
            with pool.lease(BACKEND, profile) as lease:
                slot = Slot(lease)
                slot.write_text("solution.py", _SOLUTION)
                assert slot.exec("python3", "solution.py", input=_INPUT).stdout == _EXPECTED

        ours, floor = taking_turns(
            rounds, lambda: _from_threads(isolated, count), lambda: _from_threads(_bare, count)
        )
    yield compared_with_bare(
        f"{count} Python tasks, {_WORKERS} threads", ours, floor, count=count, rounds=rounds
    )


def suites(*, quick: bool) -> Iterator[Row]:
    """The same tasks as tests, by pytest-xdist with the plugin."""
    count, rounds = (20, 1) if quick else (160, 2)
    with suite(count) as run:
        ours, floor = taking_turns(rounds, lambda: run("test_isolated"), lambda: run("test_bare"))
    yield compared_with_bare(
        f"{count} Python tasks, `pytest -n {_WORKERS}`", ours, floor, count=count, rounds=rounds
    )


@contextmanager
def suite(count: int, more: str = "", *, python: str | None = None) -> Iterator[Callable[..., None]]:
    """So many tasks as a suite, and `more` tests; what is yielded runs those of one name, with further options.

    `python` is what the bare runner takes, by default what sandboxes of this machine have.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "test_tasks.py"
        names = {
            "COUNT": count,
            "SOLUTION": _SOLUTION,
            "INPUT": _INPUT,
            "EXPECTED": _EXPECTED,
            "PYTHON": python or _python(),
        }
        assignments = "".join(f"{name} = {value!r}\n" for name, value in names.items())
        file.write_text(assignments + _SUITE + more)

        def run(name: str, *options: str) -> None:
            command = [sys.executable, "-m", "pytest", "-q", "-n", str(_WORKERS), "-p", "no:cacheprovider"]
            command += ["--rootdir", folder, "-c", "/dev/null", *options, f"{file}::{name}"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=_TIMEOUT)

        yield run


def compared_with_bare(
    what: str, ours: float, floor: float, *, count: int, rounds: int, target: str = "<= 1.5 x"
) -> Row:
    """A row about so many tasks, which a bare runner does in `floor` seconds."""
    each = milliseconds(floor * _WORKERS / count)
    return Row(
        f"{what}, against a bare runner",
        f"{ours:.2f} s",
        f"{floor:.2f} s, {each} a task",
        times(ours / floor),
        target,
        rounds,
    )


def _bare() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "solution.py").write_text(_SOLUTION)
        command = [_python(), "solution.py"]
        ran = subprocess.run(command, cwd=folder, input=_INPUT, capture_output=True, text=True, check=True)
        assert ran.stdout == _EXPECTED


def _from_threads(task: Callable[[], None], count: int) -> None:
    left = iter(range(count))

    def work() -> None:
        for _ in left:  # the next of an iterator over a range is one step: no two threads get the same
            task()

    workers = [threading.Thread(target=work) for _ in range(_WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _python() -> str:
    """What a sandbox finds as `python3`: the same interpreter on both sides."""
    return Interpreter.current().executable

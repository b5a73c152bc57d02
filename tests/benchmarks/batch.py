"""What it costs the controller to have tests run in shards: CPU of its process alone, shards not counted."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests import wheelhouses
from tests.benchmarks.measuring import NOTHING, Row, milliseconds, times

_TRIVIAL = """\
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_trivial(number):
    assert number >= 0
"""
_TELL = """\
import os
import resource
import time

def pytest_collection_finish(session):
    if "SANDBOXES_SHARD" in os.environ:
        with open(f"{os.environ['PYTEST_TOLD_TO']}-shard-{os.getpid()}", "w") as file:
            file.write(str(len(session.items)))

def pytest_unconfigure(config):
    if "SANDBOXES_SHARD" not in os.environ:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with open(os.environ["PYTEST_TOLD_TO"], "w") as file:
            file.write(f"{time.process_time()} {peak * 1024}")
"""


def shards(*, quick: bool) -> Iterator[Row]:
    """Trivial tests in shards and in a plain run: what each test costs, and whether many shards are even."""
    with tempfile.TemporaryDirectory() as folder:
        project, wheels, kept = (Path(folder, name) for name in ("project", "wheels", "kept"))
        for each in (project, wheels, kept):
            each.mkdir()
        wheelhouses.fill(wheels, kept)
        batch = ("--sandbox-mode=batch", f"--sandbox-wheelhouse={wheels}")
        yield from _more_tests(project, (*batch, "--sandbox-shards=2"), quick=quick)
        yield from _many_shards(project, batch, quick=quick)


def _more_tests(project: Path, batch: tuple[str, ...], *, quick: bool) -> Iterator[Row]:
    """Seconds and bytes for each test more, between sizes of suite."""
    few, many, rounds = (200, 1000, 1) if quick else (1000, 5000, 3)
    costs = {
        options: [_each_more(project, options, few, many) for _ in range(rounds)] for options in (batch, ())
    }
    seconds, least = (median(cost for cost, _ in costs[options]) for options in (batch, ()))
    memory, less = (median(size for _, size in costs[options]) for options in (batch, ()))
    far = [_each_more(project, batch, many, 2 * many) for _ in range(rounds)]
    later, more = median(cost for cost, _ in far), median(size for _, size in far)
    what = f"each test in 2 shards, the controller's CPU, from {few:,} to {many:,} tests"
    plain = f"{milliseconds(least)} a plain run"
    yield Row(what, milliseconds(seconds), plain, times(seconds / least), "<= 2 ms", rounds)
    what, before = f"… from {many:,} to {2 * many:,} tests", f"{milliseconds(seconds)} before"
    yield Row(what, milliseconds(later), before, times(later / seconds), "linear", rounds)
    plain = f"{less:,.0f} B a plain run"
    yield Row("… the controller's memory", f"{memory:,.0f} B", plain, _ratio(memory, less), samples=rounds)
    what, before = f"… from {many:,} to {2 * many:,} tests", f"{memory:,.0f} B before"
    yield Row(what, f"{more:,.0f} B", before, _ratio(more, memory), "linear", rounds)


def _many_shards(project: Path, batch: tuple[str, ...], *, quick: bool) -> Iterator[Row]:
    """One parametrized file: how many tests each shard gets, and what all of it costs the controller."""
    tests, count = (100, 5) if quick else (2000, 50)
    least, less = _cost(project, (), tests)
    seconds, memory = _cost(project, (*batch, f"--sandbox-shards={count}"), tests)
    sizes = [int(told.read_text()) for told in project.parent.glob("told-shard-*")]
    assert (len(sizes), sum(sizes)) == (count, tests)
    what = f"{tests:,} tests of one file in {count} shards: tests in each"
    yield Row(what, f"{min(sizes)} to {max(sizes)}", f"{tests / count:.0f}", target="even")
    what, plain = (
        "… the controller's CPU for each test, all told",
        f"{milliseconds(least / tests)} a plain run",
    )
    yield Row(what, milliseconds(seconds / tests), plain, times(seconds / least), "<= 2 ms")
    what, plain = "… the controller's memory", f"{less / 1e6:.0f} MB a plain run"
    yield Row(what, f"{memory / 1e6:.0f} MB", plain, times(memory / less))


def _ratio(size: float, floor: float) -> str:
    """Of memory, whose peak may be elsewhere in suites that are small."""
    return times(size / floor) if floor > 0 else NOTHING


def _each_more(project: Path, options: tuple[str, ...], few: int, many: int) -> tuple[float, float]:
    """CPU seconds and bytes for each test that `many` are more than `few`."""
    (some, small), (all_, large) = (_cost(project, options, count) for count in (few, many))
    return (all_ - some) / (many - few), (large - small) / (many - few)


def _cost(project: Path, options: tuple[str, ...], count: int) -> tuple[float, float]:
    (project / "test_trivial.py").write_text(_TRIVIAL.format(count=count))
    (project / "conftest.py").write_text(_TELL)
    (project / "pytest.ini").write_text("[pytest]\n")
    for command in (["git", "init", "-q"], ["git", "add", "."]):
        subprocess.run(command, cwd=project, check=True, timeout=60)
    told = project.parent / "told"
    for shard in project.parent.glob("told-shard-*"):
        shard.unlink()
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_TOLD_TO": str(told)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "pytest_sandboxes.plugin",
        *options,
    ]
    subprocess.run(command, cwd=project, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=600)
    seconds, peak = told.read_text().split()
    return float(seconds), float(peak)

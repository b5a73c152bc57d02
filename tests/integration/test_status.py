"""The words behind the dots that say what tests wait for."""

from __future__ import annotations

import re

import pytest

from pytest_sandboxes.pool.statistics import Statistics
from pytest_sandboxes.reporting.status import describe
from tests.integration.conftest import Inner
from tests.integration.terminal import on_terminal, screen

SUITE = """
import time

import pytest

@pytest.fixture(scope="module")
def hog(sandbox_factory):
    with sandbox_factory():
        yield

def test_quick(sandbox):
    pass

@pytest.mark.sandbox(acquire_timeout_s=3)
def test_waits(hog, sandbox):
    pass
"""
PROFILES = """
profiles:
  default: {max_sandboxes: 1, buffer_sandboxes: 0}
"""


@pytest.mark.parametrize("options", [("-p", "no:xdist"), ("-v", "-p", "no:xdist"), ("-n", "1")], ids=" ".join)
def test_a_terminal_shows_what_is_waited_for(inner: Inner, options: tuple[str, ...]) -> None:
    inner.write("sandboxes.yaml", PROFILES)
    inner.write("test_it.py", SUITE)
    said = on_terminal(inner.path, 150, "--sandbox-infra-retries=0", *options)
    assert re.search(r"  sandboxes: 1 lease waits, \d+ s; 1 leased\x08+", said), said
    shown = screen(said)
    assert not [line for line in shown if "1 lease waits" in line], shown
    assert [line for line in shown if re.fullmatch(r"=+ 1 passed, 1 error in .*", line)], shown


def test_a_log_shows_nothing(inner: Inner) -> None:
    inner.write("sandboxes.yaml", PROFILES)
    inner.write("test_it.py", SUITE)
    assert "lease waits" not in inner.run_apart("--sandbox-infra-retries=0").stdout


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (Statistics(waiting=1), "1 lease waits, 12 s; none there"),
        (Statistics(waiting=2, starting=3), "2 leases wait, 12 s; 3 starting"),
        (Statistics(waiting=1, leased=4, resetting=1), "1 lease waits, 12 s; 1 being reset, 4 leased"),
    ],
)
def test_words(now: Statistics, said: str) -> None:
    assert describe(now, 12.3) == f"sandboxes: {said}"

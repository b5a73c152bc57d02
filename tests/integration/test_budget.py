"""A run whose sandbox-seconds are used up: what runs goes on, what comes after is no verdict."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Inner

# By it, not by a wait: on a busy machine, a budget that a short wait uses up is gone before its time.
JUMPING_CLOCK = """
import time
from pathlib import Path

from pytest_sandboxes.pool.alarm import MachineClock

LATE = Path(__file__).with_name("late")
MachineClock.now = lambda _: time.monotonic() + 200 * LATE.exists()
"""
SUITE = """
from pathlib import Path

import pytest

@pytest.mark.sandbox(buffer_sandboxes=0, slots=2)
@pytest.mark.parametrize("number", range(4))
def test_it(sandbox, number):
    busy, other = sandbox
    if number == 1:
        running = busy.popen("sh", "-c", "until [ -e go ]; do sleep 0.01; done; echo late")
        Path(__file__).with_name("late").touch()
        other.reset()  # after which the pool has looked at its clock
        busy.write_text("go", "")
        assert running.stdout.readline(timeout=30) == "late\\n"
        busy.reset()
        assert busy.sh("echo again").stdout == "again\\n"
    assert number != 0
"""


@pytest.mark.parametrize("workers", [0, 1], ids=["alone", "xdist"])
def test_what_comes_after_the_budget_is_an_error_that_says_so(inner: Inner, workers: int) -> None:
    inner.write("conftest.py", JUMPING_CLOCK)
    inner.write("test_it.py", SUITE)
    inner.write("pytest.ini", "[pytest]\nsandbox_budget = 100\n")
    run = inner.run_apart(*(["-n", str(workers)] if workers else []))
    assert run.verdicts == {
        "test_it[0]": "failure",
        "test_it[1]": "passed",
        "test_it[2]": "error",
        "test_it[3]": "error",
    }, run.stdout
    for name in ("test_it[2]", "test_it[3]"):
        text = run.cases[name].text
        assert (
            "the budget of 100 sandbox-seconds (ini option sandbox_budget in pytest.ini) is used up" in text
        )
        assert "by profile 'default' on local" in text
        assert run.cases[name].attempts in (0, 1), "it was tried again"
    assert "sandbox-seconds" in run.stdout

"""What the tests of the core work with: agents real and made up, and pools of sandboxes that are not there."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from pytest_sandboxes import connection as connection_module
from pytest_sandboxes.pool import pool as pool_module
from tests.unit import fake_agent
from tests.unit.fake_agent import Line
from tests.unit.fake_pool import FakePool
from tests.unit.fake_port import FakePort
from tests.unit.running_agent import Marked, RunningAgent, agent_port, running_agent
from tests.waiting import DEADLINE

# no deadline, because machines are busy; nothing kept, because a checkout may be somebody else's; no surprises in CI
settings.register_profile("core", deadline=None, database=None, derandomize="CI" in os.environ)
settings.load_profile("core")

_marks = itertools.count(1)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RunningAgent]:
    with running_agent(tmp_path) as agent:
        yield agent


@pytest.fixture
def new_mark() -> Iterator[Callable[[], Marked]]:
    """Makes marks for processes of the test's own."""
    made: list[Marked] = []

    def make() -> Marked:
        made.append(Marked(os.getpid() * 100_000 + next(_marks)))
        return made[-1]

    yield make
    for mark in made:
        mark.kill()


@pytest.fixture
def mark(new_mark: Callable[[], Marked]) -> Marked:
    """Processes that sleep for this many seconds are the test's own."""
    return new_mark()


@pytest.fixture
def late_deadlines_are_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may notice a deadline so late that the sandbox would be given up."""
    monkeypatch.setattr("pytest_sandboxes.commands.LATE", DEADLINE)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[FakePort]:
    """A connection to a real agent, whose workspace is beside everything else of the test."""
    with agent_port(tmp_path / "workspace") as port:
        yield port


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """A connection to a fake agent whose clock stands still, but for `tick`."""
    monkeypatch.setattr(connection_module, "TICK", fake_agent.HOUR)
    with fake_agent.line() as made:
        yield made


@pytest.fixture
def new_fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakePool]]:
    """Makes pools that look often, and that have to have ended all that they started."""
    monkeypatch.setattr(pool_module, "_LOOK_AGAIN", 0.001)
    others = set(threading.enumerate())  # another test of this process may have a pool
    made: list[FakePool] = []

    def make(**arguments: Any) -> FakePool:
        made.append(FakePool(**arguments))
        return made[-1]

    yield make
    for fake in made:
        fake.before_start = lambda: None
        fake.pool.close()
        assert [each.closed + each.parked for each in fake.sandboxes] == [1] * len(fake.sandboxes)
        assert fake.backend.closed == 1
    left = set(threading.enumerate()) - others
    assert not [thread for thread in left if thread.name.startswith("sandboxes-")]


@pytest.fixture
def fake(new_fake: Callable[..., FakePool]) -> FakePool:
    """A pool without a cap."""
    return new_fake()


@pytest.fixture
def threads(fake: FakePool) -> Iterator[ThreadPoolExecutor]:
    """Threads of users, which end before the pool does."""
    with ThreadPoolExecutor(32) as threads:
        yield threads

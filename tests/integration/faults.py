"""A plugin for runs of pytest within tests: faults injected for real.

Agents are found through /proc, as children of this process, without a word from the program under test.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration import faulty_backends

if TYPE_CHECKING:
    from pytest_sandboxes import Slot
    from pytest_sandboxes.backends.base import Backend, BackendOptions
    from pytest_sandboxes.lease import Lease

DEADLINE = 60.0
"""Seconds after which what has not happened does not happen, on however busy a machine."""
Fault = Callable[["Slot"], None]

_attempts = pytest.StashKey[int]()
_leases: list[Lease] = []
"""Those that are held now."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault", default="never", help="when `fault` strikes: never, once or always")
    parser.addoption("--after-code", action="store_true", help="`fault` runs code in the sandbox first")
    parser.addoption("--failing-launches", type=int, default=0, help="how many launches of `unsteady` fail")


def pytest_sandboxes_backends(config: pytest.Config) -> Mapping[str, Callable[[BackendOptions], Backend]]:
    return {
        "second": faulty_backends.Second,
        "liar": faulty_backends.Liar,
        "unsteady": lambda options: faulty_backends.Unsteady(options, config.getoption("--failing-launches")),
    }


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_attempts] = item.stash.get(_attempts, 0) + 1


@pytest.fixture
def attempt(request: pytest.FixtureRequest) -> int:
    """The number of this attempt at the test, from 1."""
    return request.node.stash[_attempts]  # type: ignore[no-any-return]


def pytest_sandboxes_leased(lease: Lease) -> None:
    _leases.append(lease)


def pytest_sandboxes_released(lease: Lease) -> None:
    _leases.remove(lease)


@pytest.fixture
def lose() -> Callable[[], None]:
    """Kills every agent, and returns once the losses are on record."""
    return lose_all


@pytest.fixture
def fault(request: pytest.FixtureRequest, attempt: int) -> Fault:
    """Loses the sandbox when the options say so."""
    when = request.config.getoption("--fault")

    def strike(slot: Slot) -> None:
        if request.config.getoption("--after-code"):
            slot.exec("true")
        if when == "always" or (when == "once" and attempt == 1):
            lose_all()

    return strike


def lose_all() -> None:
    """Kill every agent of this process; return once each lease knows."""
    signal_agents(signal.SIGKILL)
    wait_until(lambda: all(_names_lost(lease).issuperset(_names(lease)) for lease in _leases))


def _names(lease: Lease) -> set[str]:
    return {sandbox.name for sandbox in lease.sandboxes}


def _names_lost(lease: Lease) -> set[str]:
    return {loss.sandbox for loss in lease.losses}


def signal_agents(number: int) -> list[int]:
    """Send a signal to the agent of each sandbox of this process; return their pids."""
    found = agents()
    assert found, "there is no sandbox"
    for pid in found:
        with contextlib.suppress(ProcessLookupError):  # one that has been given up may be on its way out
            os.kill(pid, number)
    return found


def agents(root: int | None = None) -> list[int]:
    """Agents below process `root`, this one by default: the first processes of pid namespaces of their own."""
    parents: dict[int, int] = {}
    first: list[int] = []
    for name in os.listdir("/proc"):
        status = _status(name) if name.isdigit() else {}
        if not status or status["State"].startswith("Z"):
            continue
        parents[int(name)] = int(status["PPid"])
        namespaces = status["NSpid"].split()
        if len(namespaces) > 1 and namespaces[-1] == "1":
            first.append(int(name))
    return [pid for pid in first if (root or os.getpid()) in _ancestors(pid, parents)]


def _ancestors(pid: int, parents: Mapping[int, int]) -> list[int]:
    found = []
    while pid := parents.get(pid, 0):
        found.append(pid)
    return found


def _status(name: str) -> dict[str, str]:
    try:
        lines = Path("/proc", name, "status").read_text().splitlines()
    except OSError:  # gone meanwhile
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def wait_until(condition: Callable[[], object]) -> None:
    """Return once `condition` holds. Raises AssertionError when it never does."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)

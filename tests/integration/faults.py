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

from pytest_sandboxes import commands
from pytest_sandboxes.streams import Kept
from tests import processes
from tests.integration import faulty_backends
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pytest_sandboxes import Slot
    from pytest_sandboxes.backends.base import Backend, BackendOptions
    from pytest_sandboxes.lease import Lease

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
    """Kill every agent of this process, or of this worker's leases; return once each lease knows."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        for pid in agents_of_worker():
            os.kill(pid, signal.SIGKILL)
    else:
        signal_agents(signal.SIGKILL)
    wait_until(lambda: all(_names_lost(lease).issuperset(_names(lease)) for lease in _leases))


def _names(lease: Lease) -> set[str]:
    return {port.name for port in lease.ports}


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


def agents_of_worker() -> list[int]:
    """Agents of what this worker of pytest-xdist has leased; they are the controller's children, like all others.

    Each is found by a process started through it, which no lease counts as code.
    """
    found = []
    for number, port in enumerate(port for lease in _leases for port in lease.ports):
        mark = f"{os.getpid()}{time.monotonic_ns()}{number}"
        commands.start(
            port,
            [b"sleep", mark.encode()],
            env=None,
            cwd=None,
            timeout=None,
            sinks=(Kept(), Kept()),
            seen=lambda _: None,
        )
        wait_until(lambda mark=mark: processes.carrying(mark, "cmdline"))  # type: ignore[misc]
        (pid,) = processes.carrying(mark, "cmdline")
        found += [agent for agent in agents(os.getppid()) if agent in _ancestors(pid, _parents())]
    return found


def _parents() -> dict[int, int]:
    statuses = {int(name): _status(name) for name in os.listdir("/proc") if name.isdigit()}
    return {pid: int(status["PPid"]) for pid, status in statuses.items() if status}


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

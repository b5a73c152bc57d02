"""What it costs to get a slot, to make it as new, and to give it back; and to start a sandbox from nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from statistics import median

from pytest_sandboxes.backends.base import Launched
from pytest_sandboxes.backends.bubblewrap import Interpreter
from pytest_sandboxes.io_thread import IOThread
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.sandbox import Sandbox
from pytest_sandboxes.slot import Slot
from tests.benchmarks.local_slots import BACKEND, backend, wait_until_warm, warm_pool
from tests.benchmarks.measuring import Row, compared, milliseconds, seconds_of, timed

_BUFFER = 2
_BARE = ("-I", "-S", "-E", "-c", "pass")


def warm(*, quick: bool) -> Iterator[Row]:
    """Lease, reset and release while the pool has the next sandboxes ready."""
    samples = 10 if quick else 60
    leases, resets, releases = [], [], []
    with warm_pool(_BUFFER) as (pool, profile):
        for _ in range(samples):
            wait_until_warm(pool, _BUFFER)
            lease, seconds = timed(partial(pool.lease, BACKEND, profile))
            leases.append(seconds)
            slot = Slot(lease)
            slot.exec("true")
            wait_until_warm(pool, _BUFFER)
            resets.append(seconds_of(slot.reset))
            slot.exec("true")
            releases.append(seconds_of(lease.release))
    for what, found in (("lease", leases), ("reset", resets), ("release", releases)):
        yield Row(f"{what}, warm, local", milliseconds(median(found)), target="<= 2 ms", samples=samples)


def ready(*, quick: bool) -> Iterator[Row]:
    """A sandbox from nothing to its first request, and the parts of that."""
    samples = 5 if quick else 40
    profile = Profile()
    whole, launches, greetings, bare = [], [], [], []
    io = IOThread()
    with backend() as local:
        Sandbox.start(local, profile, io).close()
        for _ in range(samples):
            sandbox, seconds = timed(partial(Sandbox.start, local, profile, io))
            whole.append(seconds)
            sandbox.close()
            launched, seconds = timed(partial(local.launch, profile))
            launches.append(seconds)
            greetings.append(seconds_of(partial(_greet, launched)))
            launched.stream.close()
            launched.end()
            bare.append(seconds_of(_start_interpreter))
    io.close()
    total, bwrap, greeting, floor = (median(found) for found in (whole, launches, greetings, bare))
    yield compared(
        "local sandbox ready",
        total,
        floor,
        samples=samples,
        target="<= 30 ms",
        name="the bare interpreter",
    )
    yield Row("… of which bubblewrap", milliseconds(bwrap), samples=samples)
    yield Row("… the interpreter and the agent's program", milliseconds(greeting), samples=samples)
    yield Row("… the agent's set-up", milliseconds(max(0.0, total - bwrap - greeting)), samples=samples)


def _greet(launched: Launched) -> None:
    """Send the agent's program and wait for its first word."""
    launched.stream.sendall(launched.payload)
    launched.stream.recv(1)


def _start_interpreter() -> None:
    program = Interpreter.current().executable
    os.waitpid(os.posix_spawn(program, [program, *_BARE], {}), 0)

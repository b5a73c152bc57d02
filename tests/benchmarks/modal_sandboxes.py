"""Backend modal beside the same client on its own, at an emulator in a process of its own, which is this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pytest_sandboxes import registry
from pytest_sandboxes.backends.base import BackendOptions
from pytest_sandboxes.pool.pool import Pool
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.slot import Slot
from tests.benchmarks.execs import spawn
from tests.benchmarks.measuring import Row, compared, taking_turns

_MESSAGE = bytes(100)


def execs(*, quick: bool) -> Iterator[Row]:
    """One command after the other: in a slot, by the client's own exec, and a message to and fro without any."""
    samples, few = (50, 5) if quick else (1000, 50)
    with _emulator(), _slot() as slot, _sandbox() as (echo, run):
        ours, echoed, _ = taking_turns(samples, lambda: slot.exec("true"), echo, spawn, warm_up=20)
        (ran,) = taking_turns(few, run)
    what = "exec of `true`, modal, emulated"
    yield compared(
        what, ours, echoed, samples=samples, target="<= 3 x", name="100 bytes to and fro by the client"
    )
    yield compared(what, ours, ran, samples=few, name="the client's `exec`")


@contextmanager
def _emulator() -> Iterator[None]:
    before = dict(os.environ)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.emulators.modal"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        os.environ.update(json.loads(process.stdout.readline())["environment"])
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
            process.send_signal(signal.SIGTERM)


@contextmanager
def _slot() -> Iterator[Slot]:
    profile = Profile().override({"buffer_sandboxes": 0, "max_sandboxes": 1}, "benchmarks")
    backend = registry.make("modal", BackendOptions(), {})
    backend.check_machine(profile)
    pool = Pool({"modal": backend})
    try:
        yield Slot(pool.lease("modal", profile))
    finally:
        pool.close()


@contextmanager
def _sandbox() -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """A sandbox by the client alone: an echo in it, and a command."""
    import modal

    sandbox = modal.Sandbox.create(
        "sleep",
        "infinity",
        app=modal.App.lookup("benchmarks", create_if_missing=True),
        image=modal.Image.debian_slim(),
    )
    process = sandbox.exec("cat", text=False)
    pieces = iter(process.stdout)

    def echo() -> None:
        process.stdin.write(_MESSAGE)
        process.stdin.drain()
        left = len(_MESSAGE)
        while left:
            left -= len(next(pieces))

    def run() -> None:
        sandbox.exec("true").wait()

    try:
        yield echo, run
    finally:
        sandbox.terminate()

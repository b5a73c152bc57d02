"""An emulator for a test, in whose environment this process and its children are, and pools of sandboxes on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_sandboxes.backends.base import BackendOptions
from pytest_sandboxes.backends.modal import ModalBackend
from pytest_sandboxes.pool.pool import Pool
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.slot import Slot
from tests.emulators.modal.control import Control
from tests.emulators.modal.emulator import Options, running
from tests.integration.conftest import Inner

pytest.importorskip("modal", reason="Modal's client is not installed")

Start = Callable[..., Control]
SUITE = "def test_one(sandbox): assert sandbox.exec('true').success"
PROFILES = "profiles: {default: {isolation: sandbox, max_sandboxes: 1}}"
SETTINGS = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts emulators as the test wants them; nothing of them may be left."""
    for name in os.environ:
        if name.startswith("MODAL_") or name.upper() in SETTINGS:
            monkeypatch.delenv(name)
    with ExitStack() as stack:

        def begin(**options: Any) -> Control:
            environment, control = stack.enter_context(running(Options(**options)))
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            stack.callback(_forget_client)
            return control

        yield begin


@pytest.fixture
def emulator(start: Start) -> Control:
    """An emulator whose sandboxes are processes."""
    return start()


@contextmanager
def backend(directory: Path = Path()) -> Iterator[ModalBackend]:
    """A backend, as a run has it."""
    made = ModalBackend(BackendOptions(directory=directory))
    try:
        yield made
    finally:
        made.stop_waiting()
        made.close()


@contextmanager
def pool(backend: ModalBackend, **fields: Any) -> Iterator[tuple[Pool, Profile]]:
    """A pool of sandboxes that are as a test needs them: one lease in each, whoever runs the tests."""
    changes = {"isolation": "sandbox", "buffer_sandboxes": 0, "max_sandboxes": 1, **fields}
    profile = Profile().override(changes, "test")
    backend.check(profile)
    backend.check_machine(profile)
    made = Pool({"modal": backend})
    try:
        yield made, profile
    finally:
        made.close()


@contextmanager
def slot(**fields: Any) -> Iterator[Slot]:
    """A slot of a sandbox of its own."""
    with backend() as made, pool(made, **fields) as (sandboxes, profile):
        lease = sandboxes.lease("modal", profile)
        try:
            yield Slot(lease)
        finally:
            lease.release()


def _forget_client() -> None:
    """The client is the process's own; the next test's emulator is elsewhere."""
    import modal
    from modal.client import Client, _Client

    if _Client._client_from_env is None:  # to ask for it would make one, which goes looking for the service
        return
    client = Client.from_env()
    with suppress(modal.exception.Error):
        getattr(client, "close" if hasattr(client, "close") else "_close")()


def complaint(inner: Inner) -> str:
    """What a run says that ends before its first test."""
    inner.write("test_suite.py", SUITE)
    inner.write("sandboxes.yaml", PROFILES)
    run = inner.run("--sandbox-backend=modal")
    assert run.exit_code == 4, run.stdout
    (line,) = [each for each in run.stderr.splitlines() if each.startswith("ERROR: ")]
    assert "Traceback" not in run.stderr + run.stdout
    return line.removeprefix("ERROR: ")

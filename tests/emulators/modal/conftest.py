"""An emulator for each test, with the unmodified client at it; nothing of either is there afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.emulators.modal.control import Control
from tests.emulators.modal.emulator import Options, running
from tests.emulators.modal.tokens import TOKEN_ID, TOKEN_SECRET
from tests.processes import carrying

if TYPE_CHECKING:
    import modal

SLEEP = ("sleep", "infinity")


@dataclass(frozen=True)
class Service:
    """An emulator, and a client that is connected to it."""

    control: Control
    client: modal.Client
    app: modal.App

    def create(self, *argv: str, image: modal.Image | None = None, **options: Any) -> modal.Sandbox:
        """Create a sandbox, of any image."""
        import modal

        image = image or modal.Image.from_registry("pytest-sandboxes/busybox")
        return modal.Sandbox.create(
            *(argv or SLEEP), app=self.app, image=image, client=self.client, **options
        )

    def run(self, sandbox: modal.Sandbox, script: str, **options: Any) -> tuple[str, str, int]:
        """Run a script of the shell: both outputs, and the exit code."""
        process = sandbox.exec("sh", "-c", script, **options)
        return process.stdout.read(), process.stderr.read(), process.wait()

    def processes(self, sandbox: modal.Sandbox) -> set[int]:
        """All that runs in a sandbox, seen from outside."""
        return carrying(sandbox.object_id, "environ")


@contextmanager
def connect(token_id: str = TOKEN_ID, token_secret: str = TOKEN_SECRET) -> Iterator[modal.Client]:
    """A client at the emulator of this process's environment."""
    import modal

    client = modal.Client.from_credentials(token_id, token_secret)
    try:
        yield client
    finally:  # 1.6.0 does not have it in public
        getattr(client, "close" if hasattr(client, "close") else "_close")()


@contextmanager
def serve(options: Options) -> Iterator[Service]:
    """An emulator with a client; checks that nothing is left."""
    import modal

    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        environment, control = stack.enter_context(running(options))
        for name, value in environment.items():
            patch.setenv(name, value)
        client = stack.enter_context(connect())
        app = modal.App.lookup("tests", create_if_missing=True, client=client)
        yield Service(control, client, app)
        sandboxes = [entry["sandbox"] for entry in control.events("sandbox_created")]
        directory = control.path.parent
        assert directory.exists()
    left = {sandbox: pids for sandbox in sandboxes if (pids := carrying(sandbox, "environ"))}
    assert not left
    assert not carrying(str(directory), "cmdline")
    assert not directory.exists()


Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts emulators as the test wants them."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(serve(Options(**options)))


@pytest.fixture
def service(start: Start) -> Service:
    """An emulator whose sandboxes are processes."""
    return start()

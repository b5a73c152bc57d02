"""A sandbox ends as a whole, whatever has become of its processes, and so does an emulator."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.emulators.ends import opened, wait_for_the_end
from tests.emulators.modal.conftest import Service, connect
from tests.emulators.modal.control import Control

if TYPE_CHECKING:
    import modal

ROOT = Path(__file__).parents[3]
LEAVE_DAEMON = """
setsid sh -c 'setsid sleep 1000 & echo $$ $! > /daemons.new; mv /daemons.new /daemons; sleep 1000' >/dev/null 2>&1 &
until [ -e /daemons ]; do sleep 0.01; done
"""


def begin_sandbox_with_daemon(service: Service, *argv: str, **options: Any) -> modal.Sandbox:
    """One with a process that belongs to none of its commands any more, which the count of processes sees."""
    sandbox = service.create(*argv, **options)
    before = service.processes(sandbox)
    assert service.run(sandbox, LEAVE_DAEMON)[2] == 0
    assert len(service.processes(sandbox) - before) >= 2
    return sandbox


def end_of(service: Service, sandbox: modal.Sandbox) -> str:
    """Why it has ended, after a look that nothing of it has stayed."""
    (ended,) = service.control.wait("sandbox_ended", sandbox=sandbox.object_id)
    assert not service.processes(sandbox)
    return str(ended["cause"])


def test_with_its_main_command(service: Service) -> None:
    sandbox = begin_sandbox_with_daemon(service, "cat")
    sandbox.stdin.write_eof()
    sandbox.stdin.drain()
    assert end_of(service, sandbox) == "its main command has ended"
    assert sandbox.poll() == 0


def test_when_terminated(service: Service) -> None:
    sandbox = begin_sandbox_with_daemon(service)
    sandbox.terminate()
    assert end_of(service, sandbox) == "a client has terminated it"


def test_at_its_timeout(service: Service) -> None:
    from modal.exception import SandboxTimeoutError

    sandbox = begin_sandbox_with_daemon(service, timeout=10)
    with pytest.raises(SandboxTimeoutError):
        sandbox.wait()
    assert end_of(service, sandbox) == "its timeout has passed"
    assert sandbox.returncode == 124


def test_when_killed(service: Service) -> None:
    from modal.exception import SandboxTerminatedError

    sandbox = begin_sandbox_with_daemon(service)
    service.control.kill(sandbox.object_id)
    assert not service.processes(sandbox)
    assert end_of(service, sandbox) == "a control has killed it"
    with pytest.raises(SandboxTerminatedError):
        sandbox.wait()


def test_when_idle_but_not_while_a_command_runs(service: Service) -> None:
    sandbox = service.create(idle_timeout=3)
    assert sandbox.exec("sleep", "4").wait() == 0
    assert end_of(service, sandbox) == "it was idle"
    (ended,), (idle,) = service.control.events("exec_ended"), service.control.events("sandbox_ended")
    assert idle["time"] - ended["time"] >= 3


def test_not_with_a_command_of_its_own(service: Service) -> None:
    sandbox = service.create()
    assert service.run(sandbox, "exit 1")[2] == 1
    assert sandbox.poll() is None


def test_the_first_process_cannot_be_killed_from_inside(service: Service) -> None:
    sandbox = service.create()
    assert service.run(sandbox, "kill -9 1; echo here")[0] == "here\n"
    sandbox.exec("sh", "-c", "kill -9 -1")  # all others, the main command among them
    assert end_of(service, sandbox) == "its main command has ended"
    assert sandbox.poll() == 137


@contextmanager
def emulator_apart(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`python -m tests.emulators.modal`, and what it has said."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.emulators.modal", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_emulator_on_its_own(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import modal

    log = tmp_path / "log"
    with emulator_apart("--log", str(log)) as (process, said):
        for name, value in said["environment"].items():
            monkeypatch.setenv(name, value)
        control = Control(Path(said["control"]))
        with connect() as client:
            app = modal.App.lookup("tests", create_if_missing=True, client=client)
            service = Service(control, client, app)
            sandbox = begin_sandbox_with_daemon(service)
            inside = opened(service.processes(sandbox))
        process.send_signal(number)
        process.wait(30)
    wait_for_the_end(sandbox.object_id, inside, control.path.parent)
    names = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    if number == signal.SIGKILL:
        assert "sandbox_created" in names
        assert "sandbox_ended" not in names
    else:
        assert names[-2:] == ["sandbox_ended", "emulator_ended"]
    assert process.returncode == (-number if number == signal.SIGKILL else 0)

"""What fails on the way to the service, or there: what is told of it, and that no verdict comes of it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_sandboxes import connection
from pytest_sandboxes.backends.modal import ModalBackend, sandboxes, service
from pytest_sandboxes.backends.modal import backend as modal_backend
from pytest_sandboxes.errors import (
    CredentialsRefusedError,
    RateLimitedError,
    SandboxLostError,
    SandboxStartError,
    ServiceUnavailableError,
)
from pytest_sandboxes.pool.pool import Pool
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.slot import Slot
from tests.emulators.modal.__main__ import CONTROL
from tests.emulators.modal.control import Control
from tests.integration.conftest import Inner
from tests.integration.modal.conftest import backend, pool, slot


@pytest.fixture
def ready(emulator: Control) -> Iterator[tuple[ModalBackend, Profile]]:
    """A backend that has built and explored its image, and the profile."""
    with backend() as made:
        profile = Profile().override({"isolation": "sandbox"}, "test")
        made.check_machine(profile)
        yield made, profile


Ready = tuple[ModalBackend, Profile]


@pytest.mark.parametrize("kind", ["lost_reply", "lost_request", "unavailable"])
@pytest.mark.parametrize("times", [1, 5], ids=["the client tries again", "the client gives up"])
def test_a_creation_without_an_answer_makes_one_sandbox(
    emulator: Control, ready: Ready, monkeypatch: pytest.MonkeyPatch, kind: str, times: int
) -> None:
    monkeypatch.setattr(sandboxes, "_FIRST_PAUSE", 0.01)
    made, profile = ready
    before = emulator.running()
    emulator.inject("SandboxCreateV2", kind, times=times)  # type: ignore[arg-type]
    launched = made.launch(profile)
    assert len(emulator.events("fault")) >= 1
    assert len(set(emulator.running()) - set(before)) == 1
    launched.stream.close()
    launched.end()
    assert emulator.running() == before
    names = [each["name"] for each in emulator.events("sandbox_created")]
    assert len(set(names)) == len(names) == 2


def test_a_creation_that_takes_too_long_is_found_by_its_name(
    emulator: Control, ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, profile = ready
    emulator.inject("SandboxCreateV2", "late_reply", delay=1000)
    monkeypatch.setattr(sandboxes, "CREATION_TIMEOUT", 5.0)
    begun = time.monotonic()
    launched = made.launch(profile)
    assert time.monotonic() - begun >= 5
    assert len(emulator.events("fault")) == 1
    assert len(emulator.events("sandbox_created")) == 2
    launched.stream.close()
    launched.end()


@pytest.mark.parametrize(
    ("kind", "error"), [("throttled", RateLimitedError), ("unavailable", ServiceUnavailableError)]
)
def test_what_does_not_pass_is_told_by_its_kind(
    emulator: Control,
    ready: Ready,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    error: type[SandboxStartError],
) -> None:
    made, profile = ready
    monkeypatch.setattr(sandboxes, "CREATION_TIMEOUT", 2.0)
    emulator.inject("SandboxCreateV2", kind, times=None)  # type: ignore[arg-type]
    with pytest.raises(error, match="was not created: Modal"):
        made.launch(profile)


def test_a_service_that_is_gone_is_waited_for_once(
    emulator: Control, ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client alone would try for a minute, and each test of a long run would wait for that."""
    monkeypatch.setattr(sandboxes, "CREATION_TIMEOUT", 1.0)
    made, profile = ready
    emulator.disconnect("control_plane")
    with pytest.raises(ServiceUnavailableError, match="was not created: Modal"):
        made.launch(profile)
    monkeypatch.setattr(sandboxes, "CREATION_TIMEOUT", 60.0)
    before = time.monotonic()
    with pytest.raises(
        ServiceUnavailableError, match="was not created: .*cannot be reached: Connection refused"
    ):
        made.launch(profile)
    assert time.monotonic() - before < 10
    emulator.connect("control_plane")
    launched = made.launch(profile)
    launched.stream.close()
    launched.end()


def test_a_service_that_creates_nothing_is_waited_for_once(
    emulator: Control, ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It greets, and that is all."""
    monkeypatch.setattr(sandboxes, "CREATION_TIMEOUT", 1.0)
    made, profile = ready
    emulator.inject("SandboxCreateV2", "unavailable", times=None)
    for patience in (1.0, 60.0):
        monkeypatch.setattr(sandboxes, "CREATION_TIMEOUT", patience)
        before = time.monotonic()
        with pytest.raises(ServiceUnavailableError):
            made.launch(profile)
        assert time.monotonic() - before < 30


def test_throttling_is_waited_for(emulator: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the backend before there is a pool, and then by the pool, for all backends alike."""
    monkeypatch.setattr(sandboxes, "_FIRST_PAUSE", 0.01)
    emulator.inject("SandboxCreateV2", "throttled", times=2)
    emulator.inject("SandboxCreateV2", "throttled", skip=1)
    with slot() as leased:
        assert leased.exec("true").success
    assert len(emulator.events("fault", kind="throttled")) == 3


@pytest.mark.parametrize(
    ("kind", "methods"),
    [
        (
            "throttled",
            [
                *("ClientHello", "AppGetOrCreate", "ImageGetOrCreate", "SandboxListV2", "SandboxCreateV2"),
                *("TaskExecStart", "TaskExecStdioRead"),
            ],
        ),
        ("expired_token", ["SandboxListV2", "SandboxCreateV2", "TaskExecStart"]),
    ],
)
def test_what_fails_for_a_moment_before_the_first_test_is_tried_again(
    emulator: Control, monkeypatch: pytest.MonkeyPatch, kind: str, methods: list[str]
) -> None:
    monkeypatch.setattr(modal_backend, "_PAUSE", 0.01)
    monkeypatch.setattr(sandboxes, "_FIRST_PAUSE", 0.01)
    for method in methods:
        emulator.inject(method, kind)  # type: ignore[arg-type]
    with slot() as leased:
        assert leased.exec("true").success
    assert {fault["method"] for fault in emulator.events("fault")} == {*methods}
    assert emulator.running() == []


def test_a_token_that_expires_before_the_first_test_is_told_at_once(
    emulator: Control, inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as the account's own, which is good: that of the calls about sandboxes, each of which is refused."""
    monkeypatch.setattr(modal_backend, "_PATIENCE", 0.0)
    emulator.inject("SandboxListV2", "expired_token", times=None)
    inner.write("test_suite.py", "def test_one(sandbox): pass")
    run = inner.run("--sandbox-backend=modal")
    assert run.exit_code == 4, run.stdout
    assert (
        "Modal refuses the credentials (The token has expired): see whether they have expired" in run.stderr
    )
    assert "Traceback" not in run.stderr + run.stdout


def test_an_end_that_is_throttled_is_tried_again(emulator: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandboxes, "_FIRST_PAUSE", 0.01)
    emulator.inject("SandboxTerminateV2", "throttled", times=2)
    with slot() as leased:
        assert leased.exec("true").success
    assert len(emulator.events("fault")) == 2
    assert emulator.running() == []


def test_what_takes_longer_than_a_call_has_the_time_that_it_is_given(
    ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an interpreter does that is carried over a slow line."""
    monkeypatch.setattr(sandboxes, "CALL_TIMEOUT", 1.0)
    made, profile = ready
    launched: Any = made.launch(profile)
    try:
        command = ("sh", "-c", "sleep 1.5; cat")
        ran = sandboxes.run(made._service, launched._sandbox, command, "it failed", b"all of it", seconds=60)
        assert ran == (0, b"all of it")
    finally:
        launched.stream.close()
        launched.end()


def stopped_while_launching(emulator: Control, made: ModalBackend, profile: Profile) -> SandboxStartError:
    """What a launch raises when the run ends while a fault keeps it."""
    failures: list[SandboxStartError] = []

    def launch() -> None:
        try:
            made.launch(profile)
        except SandboxStartError as error:
            failures.append(error)

    waiting = threading.Thread(target=launch)
    waiting.start()
    emulator.wait("fault")
    made.stop_waiting()
    waiting.join(20)
    (failure,) = failures
    return failure


def test_the_end_of_the_run_ends_waiting(emulator: Control, ready: Ready) -> None:
    emulator.inject("SandboxCreateV2", "unavailable", times=None)
    assert "the run is over" in str(stopped_while_launching(emulator, *ready))


@pytest.mark.parametrize("method", ["SandboxCreateV2", "TaskExecStart"])
def test_the_end_of_the_run_does_not_wait_for_what_is_being_created(
    emulator: Control, ready: Ready, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The service may take minutes, as for a GPU; what comes of it later ends by itself."""
    monkeypatch.setattr(service, "FAREWELL", 0.2)
    emulator.inject(method, "slow", delay=60)
    stopped_while_launching(emulator, *ready)
    assert emulator.running() == []


def test_a_token_that_expires_in_mid_run(emulator: Control, ready: Ready) -> None:
    made, profile = ready
    emulator.revoke_token()
    with pytest.raises(CredentialsRefusedError, match="see whether they have expired"):
        made.launch(profile)


def test_a_sandbox_that_is_preempted(emulator: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandboxes, "_REASON_TIMEOUT", 60.0)
    with slot() as leased:
        sleeping = leased.popen("sleep", "3600")
        emulator.kill(emulator.running()[0])
        with pytest.raises(SandboxLostError, match="Modal has ended it, as it does with what it preempts"):
            sleeping.wait(60)


def test_a_sandbox_at_its_timeout(emulator: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandboxes, "_REASON_TIMEOUT", 60.0)
    with slot(max_lifetime=3600) as leased:
        sleeping = leased.popen("sleep", "3600")
        emulator.expire(emulator.running()[0])
        with pytest.raises(SandboxLostError, match="it has reached its timeout"):
            sleeping.wait(60)


def test_a_router_that_is_lost_and_comes_back(emulator: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client tries for ten seconds to reach it; who waits for an agent has less patience here."""
    with backend() as made, pool(made, max_sandboxes=2) as (found, profile):
        lease = found.lease("modal", profile)
        assert Slot(lease).exec("true").success
        emulator.disconnect("router")
        with monkeypatch.context() as hasty, pytest.raises(SandboxLostError, match="has not answered"):
            hasty.setattr(connection, "TICK", 0.05)
            Slot(lease).exec("sleep", "60", timeout=60)
        emulator.connect("router")
        lease.release()
        assert _works(found, profile)


def test_a_stream_that_breaks_for_good(emulator: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandboxes, "_REASON_TIMEOUT", 0.1)
    with slot() as leased:
        assert leased.exec("true").success
        emulator.inject("TaskExecStdinWrite", "expired_token", times=None)
        with pytest.raises(SandboxLostError, match="its stream broke: Modal refuses the credentials"):
            leased.exec("sleep", "60", timeout=60)


def _works(found: Pool, profile: Profile) -> bool:
    lease = found.lease("modal", profile)
    success = Slot(lease).exec("true").success
    lease.release()
    return success


SUITE = """
import os
from pathlib import Path

import pytest
from tests.emulators.modal.control import Control

control = Control(Path(os.environ["MODAL_EMULATOR_CONTROL"]))


def once(name):
    try:
        Path(name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def test_right(sandbox):
    assert sandbox.sh("echo right").stdout == "right\\n"


def test_wrong(sandbox):
    assert sandbox.sh("echo wrong").stdout == "right\\n"


def test_preempted(sandbox):
    if once("preempted"):
        for each in control.running():
            control.kill(each)
    assert sandbox.sh("echo right").stdout == "right\\n"


def test_preempted_and_wrong(sandbox):
    if once("wrong"):
        for each in control.running():
            control.kill(each)
    assert sandbox.sh("echo wrong").stdout == "right\\n"


def test_caught(sandbox):
    if once("caught"):
        for each in control.running():
            control.kill(each)
    with pytest.raises(Exception):
        sandbox.sh("echo right")


def test_creation_fails_at_first(sandbox):
    assert sandbox.sh("echo right").stdout == "right\\n"
"""


def test_verdicts_are_the_codes(emulator: Control, inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONTROL, str(emulator.path))
    inner.write("test_suite.py", SUITE)
    inner.write(
        "sandboxes.yaml", "profiles: {default: {isolation: sandbox, max_sandboxes: 1, buffer_sandboxes: 0}}"
    )
    emulator.inject("SandboxCreateV2", "lost_reply", skip=2)
    emulator.inject("SandboxCreateV2", "unavailable", skip=3)
    emulator.inject("SandboxCreateV2", "throttled", skip=4)
    emulator.inject("TaskExecStart", "lost_reply", skip=3)
    monkeypatch.setattr(sandboxes, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(sandboxes, "_REASON_TIMEOUT", 60.0)
    run = inner.run("--sandbox-backend=modal")
    assert run.verdicts == {
        "test_right": "passed",
        "test_wrong": "failure",
        "test_preempted": "passed",
        "test_preempted_and_wrong": "failure",
        "test_caught": "failure",
        "test_creation_fails_at_first": "passed",
    }, run.stdout
    attempts = {name: case.attempts for name, case in run.cases.items()}
    assert attempts["test_preempted"] == attempts["test_preempted_and_wrong"] == attempts["test_caught"] == 2
    assert "Modal has ended it" in str(run.cases["test_preempted"].lost)
    assert len(emulator.events("fault")) == 4
    assert emulator.running() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's processes can become other users")
def test_workers_share_the_pool_and_import_nothing(emulator: Control, inner: Inner) -> None:
    inner.write(
        "test_suite.py",
        """
        import sys

        import pytest


        @pytest.mark.parametrize("number", range(4))
        def test_each(sandbox, number):
            assert sandbox.sh("echo $0").success
            assert not {"modal", "grpclib"} & set(sys.modules)
        """,
    )
    inner.write("sandboxes.yaml", "profiles: {default: {max_sandboxes: 1}}")
    run = inner.run("--sandbox-backend=modal", "-n", "2")
    assert set(run.verdicts.values()) == {"passed"}, run.stdout
    assert len(emulator.events("sandbox_created")) == 2
    assert emulator.running() == []

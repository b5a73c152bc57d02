"""A router that lies about the streams of an agent: the sandbox is lost, in time, and nobody is told what was not so."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_sandboxes import connection, sandbox
from pytest_sandboxes.backends.modal import sandboxes as modal_sandboxes
from pytest_sandboxes.backends.modal.errors import NoAnswerError
from pytest_sandboxes.errors import SandboxLostError
from pytest_sandboxes.slot import Slot
from tests.emulators.modal.control import Control
from tests.emulators.modal.faults import ACCESS, INPUT, OUTPUT, START, STATUS
from tests.integration.modal.conftest import backend, pool, slot

TALK = "for word in one two three four; do echo $word; sleep 0.05; done"
"""Says a few things, each of which reaches the router by itself."""
NO_ORDER = "a frame is missing, comes twice or out of turn"
SILENT = "its agent has not answered"


LIES = {
    "repeated": NO_ORDER,
    "swapped": NO_ORDER,
    "skipped": NO_ORDER,
    "cut": "its agent broke the protocol",
    "giant": "its agent broke the protocol",
    "restarted": "its agent broke the protocol",
    "ended": "its agent ended",
    "silent": SILENT,
    "trickle": SILENT,
}
"""What is told of each lie about output."""


def test_output_that_is_not_what_the_agent_has_said(
    emulator: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    with backend() as made, pool(made) as (found, profile):
        for lie, reason in LIES.items():
            lease = found.lease("modal", profile)
            assert Slot(lease).exec("true").success
            with monkeypatch.context() as hasty:
                if SILENT in reason:
                    hasty.setattr(connection, "TICK", 0.05)
                emulator.inject(OUTPUT, lie, delay=0.1)  # type: ignore[arg-type]
                with pytest.raises(SandboxLostError, match=reason):
                    Slot(lease).sh(TALK, timeout=60)
            lease.release()
    assert [fault["kind"] for fault in emulator.events("fault")] == [*LIES]


def test_a_flood_is_not_kept_and_harms_nobody(emulator: Control) -> None:
    with backend() as made, pool(made, max_sandboxes=2) as (found, profile):
        flooded, neighbour = (found.lease("modal", profile) for _ in range(2))
        talking = Slot(neighbour).popen("cat")
        emulator.inject(OUTPUT, "flood", sandbox=emulator.running()[0])
        with pytest.raises(SandboxLostError):
            Slot(flooded).sh(TALK, timeout=60)
            Slot(neighbour).sh(TALK, timeout=60)
        talking.write(b"unharmed\n")
        assert talking.stdout.readline(60) == "unharmed\n"
        (end,) = emulator.wait("flooded")
        assert end["sent"] < 128 << 20, "of which the client keeps a half, until it is read"
        for lease in (flooded, neighbour):
            lease.release()


def test_code_that_floods_what_carries_its_agent(emulator: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root in a sandbox of its own, it reaches the shell that waits for the agent."""
    monkeypatch.setattr(modal_sandboxes, "_REASON_TIMEOUT", 0.1)
    with slot() as leased, pytest.raises(SandboxLostError, match="its standard error is flooded"):
        leased.sh("read -r _ _ _ shell _ </proc/$PPID/stat; cat /dev/zero >/proc/$shell/fd/2", timeout=60)


@pytest.mark.parametrize(("times", "reason"), [(1, "its agent ended"), (None, SILENT)])
def test_input_that_is_taken_and_reaches_nobody(
    emulator: Control, monkeypatch: pytest.MonkeyPatch, times: int | None, reason: str
) -> None:
    with slot() as leased:
        assert leased.exec("true").success
        if times is None:
            monkeypatch.setattr(connection, "TICK", 0.05)
        emulator.inject(INPUT, "swallowed", times=times)
        with pytest.raises(SandboxLostError, match=reason):
            leased.sh(TALK, timeout=60)


def test_an_agent_that_has_ended_by_its_status_alone_has_not(emulator: Control) -> None:
    """Nor is its sandbox told to wait for the next run."""
    with slot() as leased:
        launched: Any = leased._lease.ports[0].sandbox._launched
        emulator.inject(INPUT, "swallowed", times=None)
        emulator.inject(STATUS, "over", times=None)
        with pytest.raises(NoAnswerError, match="not parked"):
            launched._service.call(launched._bridge.finish, "not parked", 0.2)


@pytest.mark.parametrize(("what", "lie"), [(START, "elsewhere"), (ACCESS, "others_token")])
def test_a_start_that_is_another_sandboxs(
    emulator: Control, monkeypatch: pytest.MonkeyPatch, what: str, lie: str
) -> None:
    with backend() as made, pool(made, max_sandboxes=2) as (found, profile):
        first = found.lease("modal", profile)
        before = emulator.running()
        monkeypatch.setattr(sandbox, "START_TIMEOUT", 2.0)
        emulator.inject(what, lie)  # type: ignore[arg-type]
        second = found.lease("modal", profile)
        assert Slot(second).exec("true").success
        assert Slot(first).exec("true").success
        assert not first.losses
        assert len(emulator.running()) == 2
        assert set(before) < set(emulator.running())
        for lease in (first, second):
            lease.release()
    assert [fault["kind"] for fault in emulator.events("fault")] == [lie]
    assert emulator.running() == []

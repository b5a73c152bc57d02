from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from pytest_sandboxes.backends.base import AgentSetup, Backend, Launched, SlotSetup
from pytest_sandboxes.errors import MemoryLimitExceededError, SandboxLostError
from pytest_sandboxes.io_thread import IOThread
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.sandbox import Sandbox


class Counting(Launched):
    """A sandbox without an agent, whose kernel kills as often as it is told."""

    def __init__(self) -> None:
        self.stream, self.other_end = socket.socketpair()
        self.payload = b""
        self.setup = AgentSetup((SlotSetup("/workspace"),), {})
        self.kills = 0

    def oom_kills(self) -> int:
        return self.kills

    def end(self) -> None:
        self.other_end.close()

    def last_words(self) -> str:
        return ""


@pytest.fixture
def launched() -> Counting:
    return Counting()


@pytest.fixture
def sandbox(launched: Counting) -> Iterator[Sandbox]:
    io = IOThread()
    backend = cast("Backend", SimpleNamespace(name="fake", secrets=lambda _: {}))
    sandbox = Sandbox(backend, Profile(memory=64), launched, io)
    yield sandbox
    sandbox.close()
    io.close()


def loss(sandbox: Sandbox) -> Exception:
    """What whoever holds the sandbox is told when it is lost now."""
    told: list[Exception] = []
    sandbox.lost = told.append
    sandbox.lose("gone")
    (error,) = told
    return error


def test_a_loss_is_the_machines(sandbox: Sandbox) -> None:
    assert isinstance(loss(sandbox), SandboxLostError)


def test_a_loss_at_the_memory_limit_is_the_codes(sandbox: Sandbox, launched: Counting) -> None:
    launched.kills = 1
    error = loss(sandbox)
    assert isinstance(error, MemoryLimitExceededError)
    assert "memory limit of 64 MB" in str(error)


def test_a_loss_at_the_memory_limit_of_several_is_nobodys(sandbox: Sandbox, launched: Counting) -> None:
    launched.kills = 1
    sandbox.is_shared = True
    assert isinstance(loss(sandbox), SandboxLostError)


def test_what_was_killed_before_has_no_part_in_a_loss(sandbox: Sandbox, launched: Counting) -> None:
    launched.kills = 1
    assert sandbox.oom_kills() == 1  # the agent has answered since, as who asks knows
    assert isinstance(loss(sandbox), SandboxLostError)

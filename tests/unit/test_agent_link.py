"""The agent's end of its stream, when the other end goes."""

from __future__ import annotations

import os
import socket

import pytest

from pytest_sandboxes.agent import wire
from pytest_sandboxes.agent.link import Link, Poller


@pytest.mark.parametrize("size", [1, 1_000_000], ids=["nothing waits", "the stream is full"])
def test_a_controller_that_goes_while_there_is_something_for_it(size: int) -> None:
    """A sandbox that is kept lives on without one."""
    poller = Poller()
    here, there = socket.socketpair()
    lost: list[None] = []

    def let_go() -> None:
        lost.append(None)
        link.close()

    link = Link(os.dup(here.fileno()), here.detach(), poller, lambda *_: None, let_go)
    link.send(wire.PONG, 1, bytes(size))
    link.flush()
    there.close()
    link.send(wire.PONG, 1)
    link.flush()
    assert lost == [None]
    link.send(wire.PONG, 2)
    link.flush()
    poller.wait(0)
    assert lost == [None]

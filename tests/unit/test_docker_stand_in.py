"""What stands in for an agent where a container has only a shell: its end, whenever that comes."""

from __future__ import annotations

import socket
from typing import Any

from pytest_sandboxes.backends.docker.shell.stand_in import StandIn
from tests.waiting import DEADLINE


def test_one_that_is_closed_before_its_thread_has_a_turn_ends() -> None:
    no_engine: Any = None
    main, container = socket.socketpair()
    with container:
        stand_in = StandIn(no_engine, "0" * 64, main, user="", image="", counts_oom_kills=False)
        stand_in.close()
        stand_in.start()
        stand_in.close()
        with stand_in.near:
            stand_in.near.settimeout(DEADLINE)
            assert stand_in.near.recv(1) == b""

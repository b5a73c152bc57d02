"""Backends for tests: one that is like `local`, one that fails to launch, and one whose agents lie."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import ClassVar

from pytest_sandboxes.agent import wire
from pytest_sandboxes.backends.base import BackendOptions, Launched
from pytest_sandboxes.backends.local import LocalBackend
from pytest_sandboxes.errors import SandboxStartError
from pytest_sandboxes.profiles.profile import Profile

Forge = Callable[[int, int, bytes], bytes]
"""From the type, number and payload of an agent's frame, what is sent in its place."""


class Second(LocalBackend):
    """As good as `local`."""

    name = "second"


class Unsteady(LocalBackend):
    """Fails some launches before it is as good as `local`."""

    name = "unsteady"

    def __init__(self, options: BackendOptions, failures: int) -> None:
        super().__init__(options)
        self._failures = failures

    def check_machine(self, profile: Profile) -> None:
        """Launch nothing, or it would be this that fails."""

    def launch(self, profile: Profile) -> Launched:
        if self._failures:
            self._failures -= 1
            raise SandboxStartError(f"the far end is on strike, {self._failures} more to come")
        return super().launch(profile)


class Liar(LocalBackend):
    """Has somebody in the middle of each stream, who forges what the agent says."""

    name = "liar"
    forge: ClassVar[Forge | None] = None
    """Forges frames while it is set."""

    def launch(self, profile: Profile) -> Launched:
        launched = super().launch(profile)
        agent, (controller, launched.stream) = launched.stream, socket.socketpair()
        threading.Thread(target=self._stand_between, args=(controller, agent), daemon=True).start()
        return launched

    def _stand_between(self, controller: socket.socket, agent: socket.socket) -> None:
        requests = threading.Thread(target=self._carry_requests, args=(controller, agent), daemon=True)
        with controller, agent:
            requests.start()
            self._carry_answers(controller, agent)
            requests.join()

    def _carry_requests(self, controller: socket.socket, agent: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := controller.recv(1 << 16):
                agent.sendall(data)
        _shut(agent)

    def _carry_answers(self, controller: socket.socket, agent: socket.socket) -> None:
        frames, numbers = wire.FrameReader(), wire.Numbering()
        with contextlib.suppress(OSError):
            while data := agent.recv(1 << 16):
                for kind, number, payload in frames.feed(data):
                    forge = type(self).forge or wire.frame
                    controller.sendall(numbers.number(forge(kind, number, payload)))
        _shut(controller)


def _shut(stream: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side was faster
        stream.shutdown(socket.SHUT_RDWR)

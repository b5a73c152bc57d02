"""The network of a run, on which its sandboxes reach the Internet and not each other."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from pytest_sandboxes.backends.docker.engine import CALL_TIMEOUT, Engine
from pytest_sandboxes.backends.once import Once
from pytest_sandboxes.errors import SandboxStartError

# What a container sends to a neighbour is dropped by the Engine's host, whatever becomes of the rules inside.
_OPTIONS = {"com.docker.network.bridge.enable_icc": "false"}


class Network:
    """A bridge network of the Engine, made when it is needed first, once for all who wait."""

    def __init__(self, engine: Engine, name: str, labels: Mapping[str, str]) -> None:
        self._engine = engine
        self._name = name
        self._labels = labels
        self._made: Once[None, str] = Once()

    def get(self) -> str:
        """Its id. Raises `SandboxStartError` when the Engine makes none; who asks next has it try again."""
        return self._made.get(None, self._make, 2 * CALL_TIMEOUT)

    def forget_if_gone(self) -> None:
        """After a failed start: where somebody has removed the network, the next sandbox gets a new one."""
        from docker.errors import NotFound

        made = self._made.known(None)
        if made is None:
            return
        with (
            contextlib.suppress(SandboxStartError),
            self._engine.errors_as_start_errors("cannot look up the run's network"),
        ):
            try:
                self._engine.api().inspect_network(made)
            except NotFound:
                self._made.forget(None, made)

    def close(self) -> None:
        """Remove it, unless a sandbox that is kept is still on it."""
        made = self._made.known(None)
        if made is None:
            return
        self._made.forget(None, made)
        with (
            contextlib.suppress(SandboxStartError),  # the next run sweeps it
            self._engine.errors_as_start_errors("cannot remove the run's network"),
        ):
            self._engine.api().remove_network(made)

    def _make(self) -> str:
        with self._engine.errors_as_start_errors("cannot make a network for sandboxes"):
            made = self._engine.api().create_network(
                self._name, driver="bridge", options=dict(_OPTIONS), labels=dict(self._labels)
            )
            return str(made["Id"])

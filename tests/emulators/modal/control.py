"""What tests can ask an emulator of Modal for."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from modal_proto import api_pb2 as api

from tests.emulators.control import ControlClient, LogRequests
from tests.emulators.modal.faults import Fault, Kind, Lie

if TYPE_CHECKING:
    from tests.emulators.modal.emulator import Emulator


class Control(ControlClient):
    """What tests ask an emulator for."""

    def inject(self, method: str, kind: Kind | Lie, **options: Any) -> None:
        """Plan a fault, or a lie; `options` are the other fields of `Fault`."""
        self.ask("inject", **asdict(Fault(method, kind, **options)))

    def clear_faults(self) -> None:
        """Plan none."""
        self.ask("clear_faults")

    def fail_builds(self, containing: str, log: str) -> None:
        """Sandboxes of processes, whose images are not built: fail builds with this text in a command, after `log`."""
        self.ask("fail_builds", containing=containing, log=log)

    def kill(self, sandbox_id: str) -> None:
        """End a sandbox, as the service does at its own will; returns when nothing of it runs any more."""
        self.ask("kill", sandbox_id=sandbox_id)

    def expire(self, sandbox_id: str) -> None:
        """Have a sandbox reach its timeout now; returns as `kill` does."""
        self.ask("expire", sandbox_id=sandbox_id)

    def revoke_token(self) -> None:
        """From now on, refuse the account's token."""
        self.ask("revoke_token")

    def disconnect(self, service: str) -> None:
        """Close the port of `control_plane` or `router`, and all connections to it."""
        self.ask("disconnect", service=service)

    def connect(self, service: str) -> None:
        """Open a port that was closed."""
        self.ask("connect", service=service)

    def running(self) -> list[str]:
        """The ids of the sandboxes that run."""
        found: list[str] = self.ask("running")
        return found


class Requests(LogRequests):
    """What each request of a control does, by the request's name."""

    def __init__(self, emulator: Emulator) -> None:
        super().__init__(emulator.events)
        self._emulator = emulator

    async def inject(self, **fields: Any) -> None:
        self._emulator.faults.add(Fault(**fields))

    async def clear_faults(self) -> None:
        self._emulator.faults.clear()

    async def fail_builds(self, containing: str, log: str) -> None:
        self._emulator.host.fail_builds(containing, log)

    async def kill(self, sandbox_id: str) -> None:
        sandbox = self._emulator.sandboxes.find(sandbox_id)
        await sandbox.end(api.GenericResult.GENERIC_STATUS_TERMINATED, "a control has killed it")

    async def expire(self, sandbox_id: str) -> None:
        sandbox = self._emulator.sandboxes.find(sandbox_id)
        await sandbox.end(api.GenericResult.GENERIC_STATUS_TIMEOUT, "a control has had its timeout pass")

    async def revoke_token(self) -> None:
        self._emulator.tokens.account_is_valid = False

    async def disconnect(self, service: str) -> None:
        await self._emulator.ports[service].close()

    async def connect(self, service: str) -> None:
        await self._emulator.ports[service].open()

    async def running(self) -> list[str]:
        return [sandbox.sandbox_id for sandbox in self._emulator.sandboxes.running()]

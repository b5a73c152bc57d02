"""What an emulator does that a test asks for."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tests.emulators.control import LogRequests
from tests.emulators.gcp.control import Remains
from tests.emulators.gcp.faults import Fault
from tests.emulators.gcp.store import Bucket
from tests.emulators.gcp.strikes import Strike

if TYPE_CHECKING:
    from tests.emulators.gcp.allocation import Shortage
    from tests.emulators.gcp.emulator import Emulator


class Requests(LogRequests):
    """What each request of a control does, by the request's name."""

    def __init__(self, emulator: Emulator) -> None:
        super().__init__(emulator.events)
        self._emulator = emulator

    async def inject(self, **fields: Any) -> None:
        self._emulator.faults.add(Fault(**fields))

    async def clear_faults(self) -> None:
        self._emulator.faults.clear()
        self._emulator.store.mutations_apart = None
        await self._emulator.allocation.release()

    async def plan_strike(self, **fields: Any) -> None:
        self._emulator.strikes.add(Strike(**fields))

    async def strike(self, **fields: Any) -> None:
        strike = Strike(**fields)
        await self._emulator.batch.find(strike.job).strike(strike)

    async def withhold_machines(self, shortage: Shortage) -> None:
        await self._emulator.allocation.withhold(shortage)

    async def release_machines(self) -> None:
        await self._emulator.allocation.release()

    async def revoke_tokens(self) -> None:
        self._emulator.tokens.revoke()

    async def limit_mutations(self, seconds: float) -> None:
        self._emulator.store.mutations_apart = seconds

    async def pass_days(self, days: float) -> list[str]:
        return self._emulator.store.expire(days)

    async def add_foreign_bucket(self, name: str) -> None:
        self._emulator.store.buckets[name] = Bucket(name, "of-somebody-else", {})

    async def disconnect(self, service: str) -> None:
        await self._emulator.ports[service].close()

    async def connect(self, service: str) -> None:
        await self._emulator.ports[service].open()

    async def give_roles(self, account: str, roles: list[str]) -> None:
        self._emulator.projects.roles[account] = roles

    async def forget(self) -> None:
        self._emulator.events.forget()

    async def log(self, job: str, index: int) -> str:
        directory = self._emulator.batch.find(job).logs
        files = sorted(
            directory.glob(f"{index}-*-*"), key=lambda path: [int(part) for part in path.name.split("-")]
        )
        return "".join(path.read_text(errors="replace") for path in files)

    async def remains(self) -> dict[str, Any]:
        emulator = self._emulator
        machines = emulator.machines.running.values()
        buckets = emulator.store.buckets.values()
        found = Remains(
            jobs=list(emulator.batch.jobs),
            running_jobs=[job.name for job in emulator.batch.jobs.values() if not job.has_ended],
            machines=[machine.name for machine in machines],
            processes=sum(len(machine.processes) for machine in machines),
            buckets=[bucket.name for bucket in buckets],
            objects=[f"{bucket.name}/{name}" for bucket in buckets for name in bucket.names()],
            soft_deleted=[f"{bucket.name}/{each.name}" for bucket in buckets for each in bucket.soft_deleted],
        )
        return asdict(found)

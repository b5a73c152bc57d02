"""What tests can ask an emulator of Google Cloud for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tests.emulators.control import ControlClient
from tests.emulators.gcp.faults import Fault, Kind
from tests.emulators.gcp.strikes import Strike

if TYPE_CHECKING:
    from tests.emulators.gcp.allocation import Shortage


@dataclass(frozen=True)
class Remains:
    """What is still there."""

    jobs: list[str]
    """Names of those that have not been deleted."""
    running_jobs: list[str]
    """Names of those that have not ended."""
    machines: list[str]
    processes: int
    """Runnables of either kind that run."""
    buckets: list[str]
    objects: list[str]
    """As `bucket/object`."""
    soft_deleted: list[str]
    """The same, of those that have been deleted and are kept for the time being."""


class Control(ControlClient):
    """A client of the emulator's control."""

    def inject(self, method: str, kind: Kind, **options: Any) -> None:
        """Plan a fault; `options` are the other fields of `Fault`."""
        self.ask("inject", **asdict(Fault(method, kind, **options)))

    def clear_faults(self) -> None:
        """Plan none, and have VMs to give out."""
        self.ask("clear_faults")

    def plan_strike(self, **fields: Any) -> None:
        """Have an attempt at a task fail once it runs; `fields` are those of `Strike`."""
        self.ask("plan_strike", **asdict(Strike(**fields)))

    def strike(self, job: str, **fields: Any) -> None:
        """Have one fail that runs; returns when nothing of it runs any more."""
        self.ask("strike", **asdict(Strike(job=job, **fields)))

    def withhold_machines(self, shortage: Shortage) -> None:
        """Give out no VMs until `release_machines`; with `invalid` jobs fail, with others they wait."""
        self.ask("withhold_machines", shortage=shortage)

    def release_machines(self) -> None:
        """Give them out again."""
        self.ask("release_machines")

    def revoke_tokens(self) -> None:
        """Accept none of the access tokens that are out."""
        self.ask("revoke_tokens")

    def limit_mutations(self, seconds: float = 1.0) -> None:
        """Take one mutation in so many seconds of each object, and no more; the service promises one a second."""
        self.ask("limit_mutations", seconds=seconds)

    def pass_days(self, days: float) -> list[str]:
        """Delete what the buckets' lifecycle rules will have deleted in so many days; returns `bucket/object` of each."""
        deleted: list[str] = self.ask("pass_days", days=days)
        return deleted

    def add_foreign_bucket(self, name: str) -> None:
        """Have a bucket that belongs to somebody else."""
        self.ask("add_foreign_bucket", name=name)

    def disconnect(self, service: str) -> None:
        """Close the port of `batch` or `storage`, and all connections to it."""
        self.ask("disconnect", service=service)

    def connect(self, service: str) -> None:
        """Open a port that was closed."""
        self.ask("connect", service=service)

    def give_roles(self, account: str, *roles: str) -> None:
        """Have an account of the project have these roles there, and no others."""
        self.ask("give_roles", account=account, roles=roles)

    def forget(self) -> None:
        """Have the log begin anew."""
        self.ask("forget")

    def log(self, job: str, index: int = 0) -> str:
        """What a task's runnables have written, all attempts one after the other. `job` is a name or an id."""
        text: str = self.ask("log", job=job, index=index)
        return text

    def remains(self) -> Remains:
        """Count what is left."""
        return Remains(**self.ask("remains"))

"""What each test's entry in a JUnit file says of its sandboxes."""

from __future__ import annotations

from collections.abc import Collection

from pytest_sandboxes.lease import Lease
from pytest_sandboxes.reporting.attempts import History

PREFIX = "sandbox."
"""What the names of all properties begin with."""


def properties(leases: Collection[Lease], history: History) -> list[tuple[str, object]]:
    """Properties of one test: strings and numbers only, names under `PREFIX`.

    Values of several leases are joined or summed. Times are in seconds, memory in bytes.
    """
    usages = [lease.usage() for lease in leases]

    def joined(values: list[str]) -> str:
        return ", ".join(dict.fromkeys(values))

    found: list[tuple[str, object]] = []
    if leases:
        found = [
            (f"{PREFIX}backend", joined([lease.backend for lease in leases])),
            (f"{PREFIX}profile", joined([lease.profile.name for lease in leases])),
            (f"{PREFIX}image", joined([lease.profile.image or "" for lease in leases])),
            (f"{PREFIX}sandbox", joined([name for lease in leases for name in lease.names])),
            (f"{PREFIX}slot", joined([str(index) for lease in leases for index in range(lease.count)])),
            (f"{PREFIX}execs", sum(usage.execs for usage in usages)),
            (f"{PREFIX}queue_wait", round(sum(usage.queue_wait for usage in usages), 6)),
            (f"{PREFIX}sandbox_seconds", round(sum(usage.sandbox_seconds for usage in usages), 6)),
            (f"{PREFIX}peak_memory", max(usage.peak_memory for usage in usages)),
        ]
    found.append((f"{PREFIX}attempts", history.attempts))
    found += [(f"{PREFIX}lost", record) for record in history.records]
    return found

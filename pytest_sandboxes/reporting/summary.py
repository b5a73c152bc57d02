"""What the terminal says at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def lines(accounts: Sequence[dict[str, Any]]) -> list[str]:
    """The summary of a run, of the `Run.account` of each of its processes; empty if there is nothing to say."""

    def total(name: str) -> float:
        found: float = sum(account["statistics"][name] for account in accounts)
        return found

    said = []
    if total("sandboxes_started") or total("start_failures"):
        parts = [
            f"{total('sandboxes_started')} started",
            f"{total('leases')} leased",
            *_if_any(total("waits"), f"waited ({total('wait_seconds'):.1f} s)"),
            *_if_any(total("resets"), "reset"),
            *_if_any(total("replacements"), "lost and replaced"),
            *_if_any(total("start_failures"), "failed to start"),
            *_if_any(total("infra_retries"), "tried again after a loss"),
            f"{total('sandbox_seconds'):.1f} sandbox-seconds",
        ]
        said.append(", ".join(parts))
    kept = [text for account in accounts for text in account["kept"]]
    if kept:
        said += ["slots of failed tests, kept for an hour:", *kept]
    return [*said, *dict.fromkeys(note for account in accounts for note in account["notes"])]


def _if_any(count: float, what: str) -> list[str]:
    return [f"{count} {what}"] if count else []

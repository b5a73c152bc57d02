"""What the terminal says at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_sandboxes.pool.statistics import Statistics


def lines(
    used: Statistics, kept: Sequence[str], notes: Sequence[str], park_seconds: float | None
) -> list[str]:
    """The summary of a run: what it used, what it has left standing, and `notes`; empty if there is nothing to say."""
    said = []
    if used.sandboxes_started or used.start_failures:
        parts = [
            f"{used.sandboxes_started - used.taken_over} started",
            *_if_any(used.taken_over, "taken over from an earlier run"),
            f"{used.leases} leased",
            *_if_any(used.waits, f"waited ({used.wait_seconds:.1f} s)"),
            *_if_any(used.resets, "reset"),
            *_if_any(used.replacements, "lost and replaced"),
            *_if_any(used.start_failures, "failed to start"),
            *_if_any(used.infra_retries, "tried again after a loss"),
            f"{used.sandbox_seconds:.1f} sandbox-seconds",
        ]
        said.append(", ".join(parts))
    if used.parked:
        said.append(f"{used.parked} kept for the next run, {park_seconds:.0f} s at most")
    if kept:
        said += ["slots of failed tests, kept for an hour:", *kept]
    return [*said, *notes]


def _if_any(count: float, what: str) -> list[str]:
    return [f"{count} {what}"] if count else []

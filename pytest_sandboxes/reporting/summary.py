"""What the terminal says at the end of a run."""

from __future__ import annotations

from pytest_sandboxes.pool import Statistics


def lines(statistics: Statistics, kept: list[str]) -> list[str]:
    """The summary of a run that has started sandboxes or kept some; empty if there is nothing to say."""
    said = []
    if statistics.sandboxes_started or statistics.start_failures:
        parts = [
            f"{statistics.sandboxes_started} started",
            f"{statistics.leases} leased",
            *_if_any(statistics.waits, f"waited ({statistics.wait_seconds:.1f} s)"),
            *_if_any(statistics.resets, "reset"),
            *_if_any(statistics.replacements, "lost and replaced"),
            *_if_any(statistics.start_failures, "failed to start"),
            *_if_any(statistics.infra_retries, "tried again after a loss"),
            f"{statistics.sandbox_seconds:.1f} sandbox-seconds",
        ]
        said.append(", ".join(parts))
    if kept:
        said += ["slots of failed tests, kept for an hour:", *kept]
    return said


def _if_any(count: int, what: str) -> list[str]:
    return [f"{count} {what}"] if count else []

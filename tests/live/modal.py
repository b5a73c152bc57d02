"""`python -m tests.live.modal [--sandboxes N] [--seconds S] [-- PYTEST ARGUMENTS]`: the conformance suite on the service.

It takes the account that Modal's own command would, uses no more sandboxes at once and no more sandbox-seconds than it is
told, and says at the end what that has cost at most. Without credentials it does nothing, and says so.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import modal

    from pytest_sandboxes.backends.modal.sandboxes import Creator, Order
    from pytest_sandboxes.backends.modal.service import Service

ROOT = Path(__file__).parents[2]
CORES, GIBIBYTES = 1.0, 1.0
"""What a sandbox is taken to use, where it is billed for what it does use: more than the suite needs."""
PER_CORE, PER_GIBIBYTE = 0.00003942, 0.00000672
"""Dollars per second, by Modal's list for sandboxes; see modal.com/pricing for what holds now."""


class Meter:
    """A plugin that counts sandboxes and their seconds, and ends the run at a limit."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._created: dict[str, float] = {}
        self._seconds = 0.0
        self._count = 0

    @property
    def seconds(self) -> float:
        """So far, of sandboxes that have ended and of those that run."""
        now = time.monotonic()
        return self._seconds + sum(now - since for since in list(self._created.values()))

    def pytest_configure(self) -> None:
        """Look at what the backend creates and ends."""
        from pytest_sandboxes.backends.modal import sandboxes

        create, end = sandboxes.Creator.create, sandboxes.end

        def create_and_count(creator: Creator, order: Order, **how: Any) -> modal.Sandbox:
            sandbox = create(creator, order, **how)
            self._created[sandbox.object_id] = time.monotonic()
            self._count += 1
            return sandbox

        def end_and_count(service: Service, sandbox: modal.Sandbox) -> None:
            end(service, sandbox)
            since = self._created.pop(sandbox.object_id, None)
            if since is not None:
                self._seconds += time.monotonic() - since

        sandboxes.Creator.create = create_and_count  # type: ignore[assignment,method-assign]
        sandboxes.end = end_and_count

    def pytest_runtest_logfinish(self) -> None:
        """Stop where the limit is."""
        if self.seconds > self._limit:
            pytest.exit(f"{self._limit:.0f} sandbox-seconds have been used, and no more are allowed", 1)

    def pytest_unconfigure(self) -> None:
        """Say what it came to, once all sandboxes have ended."""
        cost = self.seconds * (CORES * PER_CORE + GIBIBYTES * PER_GIBIBYTE)
        print(f"modal: {self._count} sandboxes, {self.seconds:.0f} sandbox-seconds, at most ${cost:.2f}")


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.live.modal", description=__doc__)
    parser.add_argument("--sandboxes", type=int, default=4, help="at once")
    parser.add_argument("--seconds", type=float, default=7200, help="of all sandboxes together")
    parser.add_argument("arguments", nargs="*", help="of pytest, after --")
    asked = parser.parse_args()
    reason = missing()
    if reason:
        print(f"skipped: {reason}")
        return
    arguments = [
        *(str(ROOT / "tests/conformance"), "--sandbox-backend=modal", "--sandbox-profile=live"),
        f"--sandbox-profiles-file={ROOT / 'tests/live/sandboxes.yaml'}",
        f"--sandbox-max-sandboxes={asked.sandboxes}",
        *asked.arguments,
    ]
    sys.exit(pytest.main(arguments, [Meter(asked.seconds)]))


def missing() -> str:
    """Why nothing can be run, empty if it can."""
    if find_spec("modal") is None:
        return "Modal's client is not installed"
    from modal.config import config

    if not (config.get("token_id") and config.get("token_secret")) and not os.environ.get(
        "MODAL_OAUTH_CLIENT_ID"
    ):
        return "there are no credentials for Modal: set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or `modal token new`"
    return ""


if __name__ == "__main__":
    main()

"""What runs are called: their objects and jobs say whose they are."""

from __future__ import annotations

import hashlib
import os
import platform
import secrets

ROOT = "pytest-sandboxes/"
"""Before the prefix of each run: what a condition on a role, or a rule of the bucket's lifecycle, has to name."""


def owner() -> str:
    """Stands for this user on this machine, without naming either."""
    return hashlib.sha256(f"{os.getuid()}@{platform.node()}".encode()).hexdigest()[:16]


def new_run() -> str:
    """A name for a run of this user."""
    return f"{owner()}-{secrets.token_hex(8)}"

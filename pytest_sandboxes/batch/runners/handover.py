"""What `bootstrap` needs to know of the controller's machine, whichever runner starts it."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest_sandboxes
from pytest_sandboxes.batch.archives import Archive
from pytest_sandboxes.batch.runners.base import Order

_LET_THROUGH = (
    "LANG", "LANGUAGE", "TZ", "TERM", "COLUMNS", "LINES", "CI", "BUILD_NUMBER", "PYTHONHASHSEED", "PYTHONWARNINGS",
    "PYTHONUTF8", "NO_COLOR", "FORCE_COLOR",
)  # fmt: skip
# not PYTHONDONTWRITEBYTECODE: what shards write is thrown away, and spares the next one the time
_LET_THROUGH_PREFIXES = ("LC_", "PYTEST_")
_KEPT_HERE = frozenset(
    {
        "PYTEST_CURRENT_TEST",
        "PYTEST_DEBUG_TEMPROOT",  # a shard leaves nothing outside of its own directory
        "PYTEST_XDIST_WORKER",
        "PYTEST_XDIST_WORKER_COUNT",
        "PYTEST_XDIST_TESTRUNUID",
    }
)


@dataclass(frozen=True)
class Project:
    """What all shards of a run share."""

    archive: Archive
    environment: Archive
    root: Path
    """The rootdir on this machine."""
    cwd: Path
    """Where pytest was started."""

    def job(
        self, order: Order, *, project: str, environment: str, variables: Mapping[str, str]
    ) -> dict[str, Any]:
        """The job of a shard, without what only its own machine knows.

        `project` and `environment` are where it finds the archives, `variables` what it gets beside the order's.
        """
        common = Path(os.path.commonpath([self.root, self.cwd]))
        return {
            "project": {"path": project, "sha256": self.archive.sha256},
            "environment": {"path": environment, "sha256": self.environment.sha256},
            "root": str(self.root.relative_to(common)),
            "cwd": str(self.cwd.relative_to(common)),
            "here": {
                "root": str(self.root),
                "package": str(Path(pytest_sandboxes.__file__).parent),
                "site": sysconfig.get_path("purelib"),
                "empty": order.spec["empty"],
            },
            "variables": {**variables, **order.environment},
            "arguments": list(order.arguments),
            "spec": dict(order.spec),
        }


def variables() -> dict[str, str]:
    """What shards anywhere may know of this process's environment: how to print, and pytest's settings."""
    return chosen(_LET_THROUGH, _LET_THROUGH_PREFIXES)


def chosen(names: tuple[str, ...], prefixes: tuple[str, ...]) -> dict[str, str]:
    """Variables by names and prefixes, without those that are about this process alone."""
    return {
        name: value
        for name, value in os.environ.items()
        if (name in names or name.startswith(prefixes)) and name not in _KEPT_HERE
    }

"""Hooks that plugins and conftest files can implement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_sandboxes.backends.base import Backend, BackendOptions
    from pytest_sandboxes.lease import Lease


@pytest.hookspec
def pytest_sandboxes_backends(config: pytest.Config) -> Mapping[str, Callable[[BackendOptions], Backend]]:  # type: ignore[empty-body]
    """Return backends of your own: a name for `--sandbox-backend`, and what makes the backend when it is needed."""


@pytest.hookspec
def pytest_sandboxes_leased(lease: Lease) -> None:
    """A lease has been given out; the README says what of it a hook may read."""


@pytest.hookspec
def pytest_sandboxes_released(lease: Lease) -> None:
    """A lease is about to be given back; its sandboxes are still there."""

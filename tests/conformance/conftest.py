"""One suite for all backends: it runs on whatever `--sandbox-backend` names, with whatever `--sandbox-isolation`.

A test says by `@pytest.mark.needs(Capability.…)` what it takes for granted; `capabilities` knows which backend promises
that. Tests of what a backend does not promise are deselected for it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_sandboxes.settings.settings import read_settings
from tests.conformance.capabilities import Capability, capabilities
from tests.conformance.leftovers import Leftovers

_HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "needs(*capabilities): what a backend has to promise for this test to be about it"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    settings = read_settings(config)
    promised = {name: capabilities(name, settings) for name in settings.backends}
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.sandbox(retry_safe=False))  # no loss of a sandbox goes unseen
        needed = {need for mark in item.iter_markers("needs") for need in mark.args}
        (kept if needed <= promised[_backend(item, settings.backends[0])] else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def _backend(item: pytest.Item, default: str) -> str:
    callspec = getattr(item, "callspec", None)
    return default if callspec is None else str(callspec.params.get("sandbox_backend", default))


@pytest.fixture
def promised(request: pytest.FixtureRequest, sandbox_backend: str) -> frozenset[Capability]:
    """What the backend under test promises."""
    return capabilities(sandbox_backend, read_settings(request.config))


@pytest.fixture
def leftovers() -> Leftovers:
    """Counts this test's processes from outside the sandbox."""
    return Leftovers()

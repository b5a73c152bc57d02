from __future__ import annotations

import subprocess
import sys
from typing import Any, cast

import pytest

from pytest_sandboxes import registry
from pytest_sandboxes.backends.base import Backend, BackendOptions
from pytest_sandboxes.errors import ConfigurationError


def own(options: BackendOptions) -> Backend:
    return cast("Backend", ("own", options))


@pytest.mark.parametrize("names", [(), ("local",), ("local", "own"), ("own", "local")])
def test_known_names(names: tuple[str, ...]) -> None:
    registry.check_names(names, {"own": own}, "--sandbox-backend")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (
            "locl",
            "--sandbox-backend: there is no backend 'locl'; did you mean 'local'?; there is local, docker, own",
        ),
        ("elsewhere", "--sandbox-backend: there is no backend 'elsewhere'; there is local, docker, own"),
        ("", "--sandbox-backend: there is no backend ''; there is local, docker, own"),
        (
            "modal",
            "--sandbox-backend: backend 'modal' is not part of this version; there is local, docker, own",
        ),
    ],
)
def test_unknown_names(name: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        registry.check_names(("local", name), {"own": own}, "--sandbox-backend")
    assert str(caught.value) == complaint


def test_a_backend_of_ones_own_is_made_with_the_options() -> None:
    options = BackendOptions(isolation="none", best_effort=True)
    made: Any = registry.make("own", options, {"own": own})
    assert made == ("own", options)


def test_a_backend_of_ones_own_may_take_the_place_of_a_built_in_one() -> None:
    made: Any = registry.make("local", BackendOptions(), {"local": own})
    assert made[0] == "own"


def test_a_built_in_backend_is_made() -> None:
    backend = registry.make("local", BackendOptions(), {})
    assert backend.name == "local"
    backend.close()


def test_no_backend_is_imported_before_it_is_made() -> None:
    script = (
        "import sys; from pytest_sandboxes import registry; registry.check_names(('local',), {}, 'test'); "
        "print([name for name in sys.modules if name.startswith('pytest_sandboxes.backends.')])"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said == "[]\n"

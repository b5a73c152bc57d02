from __future__ import annotations

import subprocess
import sys

import pytest

from pytest_sandboxes import registry
from pytest_sandboxes.backends.base import Backend, BackendOptions
from pytest_sandboxes.backends.local import LocalBackend
from pytest_sandboxes.errors import ConfigurationError


class Own(LocalBackend):
    name = "own"


def own(options: BackendOptions) -> Backend:
    return Own(options)


@pytest.mark.parametrize("names", [(), ("local",), ("local", "own"), ("own", "local")])
def test_known_names(names: tuple[str, ...]) -> None:
    registry.check_names(names, {"own": own}, "--sandbox-backend")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (
            "locl",
            "--sandbox-backend: there is no backend 'locl', there are local, docker, modal, gcp and own; did you mean 'local'?",
        ),
        (
            "elsewhere",
            "--sandbox-backend: there is no backend 'elsewhere', there are local, docker, modal, gcp and own",
        ),
        ("", "--sandbox-backend: there is no backend '', there are local, docker, modal, gcp and own"),
    ],
)
def test_unknown_names(name: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        registry.check_names(("local", name), {"own": own}, "--sandbox-backend")
    assert str(caught.value) == complaint


def test_a_backend_of_ones_own_is_made_with_the_options() -> None:
    options = BackendOptions(isolation="none", best_effort=True)
    made = registry.make("own", options, {"own": own})
    assert isinstance(made, Own)
    assert made._options is options


def test_a_backend_of_ones_own_may_take_the_place_of_a_built_in_one() -> None:
    assert isinstance(registry.make("local", BackendOptions(), {"local": own}), Own)


def broken(options: BackendOptions) -> Backend:
    raise KeyError("zone")


@pytest.mark.parametrize(
    ("factory", "complaint"),
    [
        (dict, "called with one BackendOptions, raised TypeError: 'BackendOptions' object is not iterable"),
        (broken, "raised KeyError: 'zone'"),
        (lambda options: 3, "backend 'own' is 3 (int), but must be a pytest_sandboxes.backends.base.Backend"),
    ],
)
def test_a_backend_of_ones_own_that_cannot_be_made(factory: registry.Factory, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match="^backend 'own' ") as caught:
        registry.make("own", BackendOptions(), {"own": factory})
    assert complaint in str(caught.value)


def test_a_backend_of_ones_own_may_say_itself_what_is_wrong() -> None:
    def refuse(options: BackendOptions) -> Backend:
        raise ConfigurationError("no zone: set ZONE")

    with pytest.raises(ConfigurationError, match="^no zone: set ZONE$"):
        registry.make("own", BackendOptions(), {"own": refuse})


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        (["bad"], "not ['bad'] (list)"),
        ({"elsewhere": 3}, "but 'elsewhere' is 3 (int)"),
        ({3: own}, "but the name 3 is no text"),
    ],
)
def test_what_a_hook_returns_is_checked(found: object, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match="^the hook must return a mapping of names to ") as caught:
        registry.check_custom(found, "the hook")
    assert complaint in str(caught.value)


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

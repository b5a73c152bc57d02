"""Which backends there are, by name. Nothing of a backend is imported before it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.wording import did_you_mean, shown, there_are

if TYPE_CHECKING:
    from pytest_sandboxes.backends.base import Backend, BackendOptions

_BUILT_IN = {
    "local": ("pytest_sandboxes.backends.local", "LocalBackend"),
    "docker": ("pytest_sandboxes.backends.docker", "DockerBackend"),
    "modal": ("pytest_sandboxes.backends.modal", "ModalBackend"),
    "gcp": ("pytest_sandboxes.backends.gcp", "GcpBackend"),
}
_SDKS = {"docker": "docker", "modal": "modal"}
"""What has to be importable for a backend to do anything."""

Factory = Callable[["BackendOptions"], "Backend"]


def check_names(names: tuple[str, ...], custom: Mapping[str, Factory], source: str) -> None:
    """Raise `ConfigurationError` for a name that is no backend's."""
    known = list(dict.fromkeys([*_BUILT_IN, *custom]))
    for name in names:
        if name in known:
            continue
        raise ConfigurationError(
            f"{source}: there is no backend {name!r}, {there_are(known)}{did_you_mean(name, known)}"
        )


def check_custom(found: object, source: str) -> Mapping[str, Factory]:
    """The backends that a plugin or a conftest file brings; `source` names it in messages.

    Raises `ConfigurationError` unless `found` is a mapping of names to what can be called.
    """
    expected = "must return a mapping of names to classes or functions that make a backend"
    if not isinstance(found, Mapping):
        raise ConfigurationError(f"{source} {expected}, not {shown(found)} ({type(found).__name__})")
    for name, factory in found.items():
        if not isinstance(name, str):
            raise ConfigurationError(f"{source} {expected}, but the name {shown(name)} is no text")
        if not callable(factory):
            raise ConfigurationError(
                f"{source} {expected}, but {name!r} is {shown(factory)} ({type(factory).__name__})"
            )
    return found


def installed() -> list[str]:
    """Our backends that can be used here, as far as what is installed goes."""
    return [name for name in _BUILT_IN if name not in _SDKS or find_spec(_SDKS[name])]


def make(name: str, options: BackendOptions, custom: Mapping[str, Factory]) -> Backend:
    """Make a backend. Nothing is started yet.

    Raises `ConfigurationError` for one of the `custom` ones that cannot be made, or is none.
    """
    if name in custom:
        return _make_custom(name, options, custom[name])
    module, attribute = _BUILT_IN[name]
    return cast("Factory", getattr(import_module(module), attribute))(options)


def _make_custom(name: str, options: BackendOptions, factory: Factory) -> Backend:
    from pytest_sandboxes.backends.base import Backend

    try:
        made: object = factory(options)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"backend {name!r} cannot be made: {shown(factory)}, called with one BackendOptions, raised "
            f"{type(error).__name__}: {one_line(str(error))}"
        ) from error
    if not isinstance(made, Backend):
        raise ConfigurationError(
            f"backend {name!r} is {shown(made)} ({type(made).__name__}), but must be a "
            "pytest_sandboxes.backends.base.Backend: return what makes one from BackendOptions"
        )
    return made

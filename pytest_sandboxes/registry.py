"""Which backends there are, by name. Nothing of a backend is imported before it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, cast

from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.wording import did_you_mean

if TYPE_CHECKING:
    from pytest_sandboxes.backends.base import Backend, BackendOptions

_BUILT_IN = {
    "local": ("pytest_sandboxes.backends.local", "LocalBackend"),
    "docker": ("pytest_sandboxes.backends.docker", "DockerBackend"),
}
_PLANNED = ("modal", "gcp")

Factory = Callable[["BackendOptions"], "Backend"]


def check_names(names: tuple[str, ...], custom: Mapping[str, Factory], source: str) -> None:
    """Raise `ConfigurationError` for a name that is no backend's."""
    known = [*_BUILT_IN, *custom]
    for name in names:
        if name in known:
            continue
        if name in _PLANNED:
            raise ConfigurationError(
                f"{source}: backend {name!r} is not part of this version; there is {', '.join(known)}"
            )
        raise ConfigurationError(
            f"{source}: there is no backend {name!r}{did_you_mean(name, known)}; there is {', '.join(known)}"
        )


def make(name: str, options: BackendOptions, custom: Mapping[str, Factory]) -> Backend:
    """Make a backend. Nothing is started yet."""
    if name in custom:
        return custom[name](options)
    module, attribute = _BUILT_IN[name]
    return cast("Factory", getattr(import_module(module), attribute))(options)

"""Pulls: what the Engine says of one, how far it is, and why there is none."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard

from pytest_sandboxes.backends.docker.long_calls import LongCallError, long_call
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import BackendUnavailableError

if TYPE_CHECKING:
    from pytest_sandboxes.backends.base import Progress
    from pytest_sandboxes.backends.docker.engine import Engine

SILENCE = 120.0
"""Seconds without a word from the Engine after which a pull is given up."""
LONGEST = 3600.0
"""Seconds that a pull may take."""

_THERE = ("Pull complete", "Already exists")
_REMEDIES = (  # what is said, and what to do about it
    ("no matching manifest", "use an image that there is for the Engine's platform"),
    ("toomanyrequests", "log in with {login}, or wait"),
    ("does not exist or may require", "correct the profile's image, or log in with {login}"),
    ("no basic auth credentials", "log in with {login}"),
    ("unauthorized", "log in with {login}, as somebody who may read it"),
    ("authentication required", "log in with {login}"),
    ("denied", "log in with {login}, as somebody who may read it"),
    ("manifest unknown", "correct the name or the tag in the profile's image"),
    ("invalid reference format", "correct the profile's image"),
    ("not found", "correct the name or the tag in the profile's image"),
)
_ELSE = "see whether the Engine's host reaches the registry, or docker load the image"


def pull(engine: Engine, name: str, progress: Progress) -> None:
    """Have the Engine pull an image, with the credentials that `docker login` has left.

    Raises `BackendUnavailableError` when it cannot be had, or nothing comes for `SILENCE` seconds.
    """
    from docker.auth import INDEX_NAME, get_config_header, resolve_repository_name

    repository, tag = _split(name)
    registry, _ = resolve_repository_name(repository)
    with reading_credentials(f"for {registry}, from which image {name!r} would be pulled,"):
        credentials = get_config_header(engine.api(), registry)
    headers = {"X-Registry-Auth": credentials} if credentials else {}
    asked = {"fromImage": repository, "tag": tag}
    layers = Layers()
    with progress(f"pulling image {one_line(name, 100)}") as say:
        try:
            for event in long_call(
                engine, "/images/create", asked, headers, silence=SILENCE, longest=LONGEST
            ):
                layers.take(event)
                say(str(layers))
        except LongCallError as error:
            whole = one_line(str(error), 300)
            login = "docker login" if registry == INDEX_NAME else f"docker login {registry}"
            remedy = next((remedy for sign, remedy in _REMEDIES if sign in whole), _ELSE).format(login=login)
            raise BackendUnavailableError(
                f"the Docker Engine at {engine.host} has no image {name!r} and cannot pull it: {whole}; {remedy}"
            ) from None


@contextmanager
def reading_credentials(what: str) -> Iterator[None]:
    """Have what is wrong with the credentials of `docker login` raised as `BackendUnavailableError`."""
    from docker.errors import DockerException

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the SDK says twice that a helper for credentials is missing
            yield
    except (DockerException, OSError) as error:
        raise BackendUnavailableError(
            f"the credentials {what} cannot be read: {one_line(str(error))}; correct the docker command's configuration"
        ) from None


class Layers:
    """How far a pull is, by what the Engine says. Nothing in that is relied on: much of it is a registry's."""

    def __init__(self) -> None:
        self._there: dict[str, bool] = {}
        self._bytes: dict[str, int] = {}
        self._sizes: dict[str, int] = {}

    def take(self, event: Mapping[str, object]) -> None:
        """One thing that the Engine has said."""
        layer, status, detail = (event.get(key) for key in ("id", "status", "progressDetail"))
        if not isinstance(layer, str) or not isinstance(status, str) or status.startswith("Pulling from"):
            return
        self._there[layer] = self._there.get(layer, False) or status.startswith(_THERE)
        if status == "Downloading" and isinstance(detail, dict):
            current, size = detail.get("current"), detail.get("total")
            if _is_size(current) and _is_size(size):
                self._bytes[layer], self._sizes[layer] = current, size
        elif status == "Download complete" and layer in self._sizes:
            self._bytes[layer] = self._sizes[layer]

    def __str__(self) -> str:
        if not self._there:
            return ""
        megabytes = sum(self._bytes.values()) / 1_000_000
        return f"{sum(self._there.values())} of {len(self._there)} layers, {megabytes:.1f} MB"


def _is_size(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and 0 <= value < 1 << 63


def _split(name: str) -> tuple[str, str]:
    """Repository, and tag or digest, of an image's name; `latest` where it says neither."""
    if "@" in name:
        repository, _, digest = name.partition("@")
        return repository, digest
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:  # that colon belongs to a registry's port
        return name, "latest"
    return repository, tag

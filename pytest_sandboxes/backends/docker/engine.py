"""The Docker Engine that answers: found as the `docker` command finds it, and its errors in words of ours."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import BackendUnavailableError, ConfigurationError, SandboxStartError

if TYPE_CHECKING:
    import docker

CALL_TIMEOUT = 60.0
"""Seconds that a call of the Engine may take, pulls of images aside."""

_CONNECTIONS = 16  # kept open for calls, of which the pool's threads make several at once
_REMEDIES = (  # what the SDK's message contains, and what to do about it
    ("Permission denied", "add this user to the group docker and log in again, or use a rootless Engine"),
    (
        "No such file",
        "start it (systemctl start docker), or say where it is: DOCKER_HOST or docker context use",
    ),
    ("Connection refused", "start it, or say where it is: DOCKER_HOST or docker context use"),
    ("Name or service not known", "correct the host's name in DOCKER_HOST or the context"),
    ("timed out", "see whether its host can be reached from here"),
    ("certificate", "correct the certificates of DOCKER_CERT_PATH or the context"),
)


class Engine:
    """A connection to the Engine, made when it is needed first. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._api: docker.APIClient | None = None
        self.host = "the default host"
        """Address of the Engine, for messages."""

    def api(self) -> docker.APIClient:
        """The client. Raises `ConfigurationError` without the SDK, `BackendUnavailableError` when nothing answers."""
        with self._lock:
            if self._api is None:
                self._api = self._connect()
            return self._api

    def _connect(self) -> docker.APIClient:
        try:
            import docker
        except ImportError:
            raise ConfigurationError(
                "backend docker needs the docker SDK: pip install 'pytest-sandboxes[docker]'"
            ) from None
        from docker.context import ContextAPI
        from docker.errors import DockerException

        arguments: dict[str, object] = {}
        try:
            if os.environ.get("DOCKER_HOST"):
                arguments = docker.utils.kwargs_from_env()
            else:
                name = os.environ.get("DOCKER_CONTEXT")
                context = ContextAPI.get_context(name) if name else ContextAPI.get_current_context()
                if context is None and name:
                    raise BackendUnavailableError(
                        f"there is no Docker context {name!r}, which DOCKER_CONTEXT names; docker context ls lists them"
                    )
                if context is not None:
                    arguments = {"base_url": context.Host, "tls": context.TLSConfig}
            self.host = str(arguments.get("base_url") or self.host)
            if arguments.get("tls") or self.host.startswith(("https:", "ssh:")):
                raise BackendUnavailableError(
                    f"backend docker cannot talk to {self.host} by TLS or SSH: forward the Engine's socket (ssh -N -L "
                    "$HOME/docker.sock:/var/run/docker.sock HOST) and set DOCKER_HOST=unix://$HOME/docker.sock"
                )
            return docker.APIClient(
                **arguments,
                version="auto",
                timeout=CALL_TIMEOUT,
                num_pools=_CONNECTIONS,
                max_pool_size=_CONNECTIONS,
            )
        except (DockerException, OSError, ValueError) as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: Exception) -> BackendUnavailableError:
        whole = str(error)
        sign, remedy = next(
            ((sign, remedy) for sign, remedy in _REMEDIES if sign in whole),
            (one_line(whole, 300), "see whether `docker version` works here"),
        )
        return BackendUnavailableError(f"no Docker Engine answers at {self.host}: {sign}; {remedy}")

    @contextlib.contextmanager
    def errors_as_start_errors(self, what: str) -> Iterator[None]:
        """Have whatever the Engine or the way to it says raised as `SandboxStartError`, with `what` failed."""
        from docker.errors import APIError, DockerException
        from requests.exceptions import RequestException

        try:
            yield
        except APIError as error:
            raise SandboxStartError(f"{what}: {one_line(str(error.explanation or error), 500)}") from None
        except (DockerException, RequestException, OSError) as error:
            raise SandboxStartError(
                f"{what}: the Docker Engine at {self.host} failed: {one_line(str(error), 300)}"
            ) from None

    def close(self) -> None:
        """Close the connections to it."""
        with self._lock:
            if self._api is not None:
                self._api.close()
                self._api = None

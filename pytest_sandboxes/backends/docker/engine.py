"""The Docker Engine that answers: found as the `docker` command finds it, and its errors in words of ours."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from pytest_sandboxes.backends.docker import endpoint
from pytest_sandboxes.backends.docker.endpoint import Endpoint, UnreachableError
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import BackendUnavailableError, ConfigurationError, SandboxStartError

if TYPE_CHECKING:
    import docker

    from pytest_sandboxes.backends.docker.bridge import Bridge

CALL_TIMEOUT = 60.0
"""Seconds that a call of the Engine may take, pulls of images aside."""

_CONNECTIONS = 16  # kept open for calls, of which the pool's threads make several at once
PATIENCE = 60.0
"""Seconds that an Engine which has answered before may take to answer again, as when it is started anew."""
_LOOK_AGAIN = 0.2
_FULL = "no space left on device"
_FULL_REMEDY = "; free some on the Engine's disk: docker system df tells what takes it"
_REMEDIES = (  # what the SDK's message contains, and what to do about it
    ("Permission denied", "add this user to the group docker and log in again, or use a rootless Engine"),
    (
        "No such file",
        "start it (systemctl start docker), or say where it is: DOCKER_HOST or docker context use",
    ),
    ("Connection refused", "start it, or say where it is: DOCKER_HOST or docker context use"),
    ("Name or service not known", "correct the host's name in DOCKER_HOST or the context"),
    (
        "HTTP request to an HTTPS server",
        "say where its certificates are: DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH",
    ),
    ("timed out", "see whether its host can be reached from here"),
)


class EngineGoneError(SandboxStartError):
    """The Engine did not answer: it is being started again, or is gone for good."""


class Engine:
    """A connection to the Engine, made when it is needed first. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._api: docker.APIClient | None = None
        self._bridge: Bridge | None = None
        self._address = ""
        self._ending = threading.Lock()  # of the next two; the other is held while a client is made
        self._closing = threading.Event()
        self._until_over: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._gone_since: float | None = None
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
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        found = endpoint.find()
        self.host, self._address = str(found), found.address
        try:
            self._bridge = _bridge_to(found)
            if self._bridge is not None:
                from pytest_sandboxes.backends.docker import bridge

                return bridge.client(self._bridge.connect, timeout=CALL_TIMEOUT, connections=_CONNECTIONS)
            return docker.APIClient(
                found.address,
                version="auto",
                timeout=CALL_TIMEOUT,
                num_pools=_CONNECTIONS,
                max_pool_size=_CONNECTIONS,
            )
        except (DockerException, RequestException, OSError, ValueError) as error:
            if self._bridge is not None:
                self._bridge.close()
            raise self._unavailable(error) from None

    def api_until_over(self) -> docker.APIClient:
        """A client for one call at a time, which fails when the run is over; whoever asks for it closes it.

        Raises as `api` does.
        """
        from pytest_sandboxes.backends.docker import bridge

        version = self.api().api_version
        return bridge.client(
            self._connect_until_over,
            timeout=CALL_TIMEOUT,
            connections=1,
            version=version,
            path="" if self._bridge else endpoint.path(self._address),
        )

    def _connect_until_over(self) -> socket.socket:
        made = self._bridge.connect() if self._bridge else endpoint.connect(self._address, CALL_TIMEOUT)
        with self._ending:
            self._until_over.add(made)
            over = self._closing.is_set()
        if over:
            made.close()
            raise ConnectionAbortedError("the run is over")
        return made

    def _unavailable(self, error: Exception) -> BackendUnavailableError:
        unreachable = _unreachable(error)
        if unreachable is not None:
            return BackendUnavailableError(f"no Docker Engine answers at {self.host}: {unreachable}")
        whole = str(error)
        sign, remedy = next(
            ((sign, remedy) for sign, remedy in _REMEDIES if sign in whole),
            (one_line(whole, 300), "see whether `docker version` works here"),
        )
        return BackendUnavailableError(f"no Docker Engine answers at {self.host}: {sign}; {remedy}")

    def time(self, timeout: float = CALL_TIMEOUT) -> datetime:
        """What the clock of its machine says, which may differ from ours. Raises what calls of the SDK raise."""
        api = self.api()
        asked = api._get(api._url("/info"), timeout=timeout)  # noqa: SLF001 - the SDK's `info` takes no timeout
        return datetime.fromisoformat(api._result(asked, json=True)["SystemTime"])  # noqa: SLF001 - as above

    def has_event(self, filters: Mapping[str, str], *, since: float, until: float, timeout: float) -> bool:
        """Whether there is an event between these times of the Engine's clock, waiting for the second to come.

        Raises what calls of the SDK raise, as when there is no word for `timeout` seconds; the SDK's `events` waits
        for ever.
        """
        from docker.utils import convert_filters

        api = self.api()
        asked = {"since": f"{since:.6f}", "until": f"{until:.6f}", "filters": convert_filters(dict(filters))}
        answer = api._get(api._url("/events"), params=asked, stream=True, timeout=timeout)  # noqa: SLF001 - see above
        with contextlib.closing(answer):
            api._raise_for_status(answer)  # noqa: SLF001 - see above
            return next(answer.iter_content(1), b"") != b""

    @contextlib.contextmanager
    def errors_as_start_errors(self, what: str) -> Iterator[None]:
        """Have whatever the Engine or the way to it says raised as `SandboxStartError`, with `what` failed."""
        from docker.errors import APIError, DockerException
        from requests.exceptions import ConnectionError as NoConnectionError
        from requests.exceptions import RequestException

        try:
            yield
            self._gone_since = None
        except APIError as error:
            said = one_line(str(error.explanation or error), 500)
            remedy = _FULL_REMEDY if _FULL in said else ""
            raise SandboxStartError(f"{what}: {said}{remedy}") from None
        except (DockerException, RequestException, OSError) as error:
            kind = EngineGoneError if isinstance(error, NoConnectionError) else SandboxStartError
            said = one_line(str(_unreachable(error) or error), 300)
            raise kind(
                f"{what}: the Docker Engine at {self.host} failed: {said}; see whether it runs"
            ) from None

    def is_back(self) -> bool:
        """Wait until the Engine, which has just been gone, answers again.

        Gives up `PATIENCE` seconds after it was found to be gone, and after `stop_waiting`.
        """
        with self._lock:
            self._gone_since = since = self._gone_since or time.monotonic()
        while time.monotonic() < since + PATIENCE and not self._closing.wait(_LOOK_AGAIN):
            with contextlib.suppress(SandboxStartError), self.errors_as_start_errors("no answer"):
                self.api().ping()
                return True
        return False

    def stop_waiting(self) -> None:
        """The run is over: nobody waits for the Engine any more."""
        with self._ending:
            self._closing.set()
            connections = list(self._until_over)
        for each in connections:  # whoever reads from one of them reads its end
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def is_closing(self) -> bool:
        """`stop_waiting` has been called."""
        return self._closing.is_set()

    def close(self) -> None:
        """Close the connections to it."""
        with self._lock:
            api, self._api = self._api, None
            bridge, self._bridge = self._bridge, None
        if api is not None:
            api.close()
        if bridge is not None:
            bridge.close()


def _bridge_to(found: Endpoint) -> Bridge | None:
    """What carries connections to an Engine that is reached by SSH or TLS; None where the SDK makes them itself."""
    if found.address.startswith("ssh:"):
        from pytest_sandboxes.backends.docker.ssh import SSHBridge

        return SSHBridge(found.address)
    if found.certificates is not None:
        from pytest_sandboxes.backends.docker.tls import TLSBridge

        return TLSBridge(found.address, found.certificates)
    return None


def _unreachable(error: BaseException | None) -> UnreachableError | None:
    """What a bridge has said, out of what the SDK has wrapped it in."""
    while error is not None and not isinstance(error, UnreachableError):
        error = error.__context__
    return error

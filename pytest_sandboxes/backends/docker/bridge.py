"""Connections to an Engine that no plain socket reaches, each with an end that is one.

All that comes from a sandbox is read from a plain, non-blocking socket, and what the SDK opens by TLS or SSH is none.
(What it starts `ssh` with are pipes that it reads without a deadline, and what it reads of TLS is not to be waited for
by a selector.) So it opens nothing itself here: its calls and the attached streams go over connections of a `Bridge`.
They are one kind of connection, which is tried before it is used, ends when its near end is closed, by whatever closes
it, and says in words of ours why there is none.
"""

from __future__ import annotations

import http.client
import os
import socket
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import docker
import requests.adapters
import urllib3.connection
import urllib3.connectionpool

from pytest_sandboxes.backends.docker.endpoint import UnreachableError

OPEN_TIMEOUT = 30.0
"""Seconds that a connection may take until the Engine has answered on it."""
_AT_ONCE = 4  # being opened; sshd drops some when more than ten have not logged in yet
_TURN_TIMEOUT = 120.0  # seconds to wait for one's turn to open one


class _NoEngineError(http.client.HTTPException):
    def __init__(self, shown: str) -> None:
        super().__init__(f"what answers there is no Docker Engine ({shown})")


class Crossing(Protocol):
    """One connection over a bridge."""

    near: socket.socket
    """The end that is a plain socket. The connection ends when it is closed."""

    def opened(self) -> None:
        """The Engine has answered: nobody will ask why not."""
        ...

    def explain(self, error: Exception) -> UnreachableError:
        """Why the Engine has not answered, where `error` is how that showed at the near end, which is closed."""
        ...


class Bridge(ABC):
    """A way to an Engine. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._turns = threading.BoundedSemaphore(_AT_ONCE)

    @abstractmethod
    def open(self) -> Crossing:
        """Begin a connection. Raises `UnreachableError`."""

    @abstractmethod
    def close(self) -> None:
        """End all connections."""

    def connect(self) -> socket.socket:
        """A plain socket on which the Engine has answered. Raises `UnreachableError`."""
        if not self._turns.acquire(timeout=_TURN_TIMEOUT):
            raise UnreachableError(
                f"no turn to open a connection came within {_TURN_TIMEOUT:.0f} s", "see why they take so long"
            )
        try:
            crossing = self.open()
            close_in_forked_children(crossing.near)
            try:
                _greet(crossing.near)
            except (OSError, http.client.HTTPException) as error:
                crossing.near.close()
                raise crossing.explain(error) from None
            crossing.opened()
        finally:
            self._turns.release()
        return crossing.near


def _greet(near: socket.socket) -> None:
    near.settimeout(OPEN_TIMEOUT)
    exchange = http.client.HTTPConnection("localhost")
    exchange.sock = near
    exchange.request("GET", "/_ping")
    try:
        response = exchange.getresponse()
        response.read(64)
    except http.client.RemoteDisconnected:
        raise
    except http.client.HTTPException as error:
        raise _NoEngineError(repr(error)) from None
    if response.status != http.HTTPStatus.OK:
        raise _NoEngineError(f"status {response.status}")
    if exchange.sock is None:  # closed, because the answer says so
        raise _NoEngineError("it does not keep connections open")
    near.settimeout(None)


class _Connection(urllib3.connection.HTTPConnection):
    """A connection of the SDK's, opened otherwise."""

    def __init__(self, *arguments: Any, opener: Callable[[], socket.socket], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._opener = opener

    def _new_conn(self) -> socket.socket:
        near = self._opener()
        near.settimeout(self.timeout)
        return near


class _Connections(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _Connection


class _Adapter(requests.adapters.HTTPAdapter):
    """Has a session of requests open its connections by `opener`; proxies and TLS of its own play no part."""

    def __init__(self, opener: Callable[[], socket.socket], connections: int) -> None:
        super().__init__()
        self._connections = _Connections("localhost", maxsize=connections, opener=opener)

    def get_connection_with_tls_context(self, *_: object, **__: object) -> _Connections:
        return self._connections

    get_connection = get_connection_with_tls_context  # of requests before 2.32

    def request_url(self, request: requests.PreparedRequest, proxies: object) -> str:  # noqa: ARG002 - the base's
        return str(request.path_url)

    def close(self) -> None:
        self._connections.close()
        super().close()


def client(
    opener: Callable[[], socket.socket],
    *,
    timeout: float,
    connections: int,
    version: str | None = None,
    path: str = "",
) -> docker.APIClient:
    """An SDK's client whose every connection is one that `opener` returns. Raises what calls of the SDK raise.

    `version`: of the Engine's API; None asks for it. `path`: what its paths begin with.
    """
    # As to a socket of this machine, to which it makes no connection before the first call.
    made = docker.APIClient("unix://", version=docker.constants.MINIMUM_DOCKER_API_VERSION, timeout=timeout)
    made.mount("http+docker://", _Adapter(opener, connections))
    made.base_url += path
    try:
        made._version = version or made.version(api_version=False)["ApiVersion"]  # noqa: SLF001 - as `version="auto"` does
    except BaseException:
        made.close()
        raise
    return made


_of_this_process: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def close_in_forked_children(end: socket.socket) -> None:
    """Have forked children of this process close their copy of `end`, which would outlive it otherwise."""
    _of_this_process.add(end)


def _close() -> None:
    for end in list(_of_this_process):
        end.close()


os.register_at_fork(after_in_child=_close)

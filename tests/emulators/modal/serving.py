"""A port where a service can be reached, until it cannot."""

from __future__ import annotations

import asyncio
import ssl
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grpclib.protocol import H2Protocol
from grpclib.server import Server

from tests.emulators.modal.calls import StatusDetailsCodec

if TYPE_CHECKING:
    from grpclib._typing import IServable


class Port:
    """One service at one address."""

    def __init__(self, service: IServable, host: str, certificates: Path | None) -> None:
        """`certificates` is a directory with cert.pem and key.pem, for TLS."""
        self._service = service
        self._host = host
        self._tls = None if certificates is None else _tls(certificates)
        self._number = 0
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """Where it is, or was."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self._number}"

    async def open(self) -> None:
        """Listen, at a port that is free, or again at the one of before."""
        server = _Server([self._service])
        await server.start(self._host, self._number, ssl=self._tls)
        assert isinstance(server._server, asyncio.Server)
        self._number = server._server.sockets[0].getsockname()[1]
        self._server = server

    async def close(self) -> None:
        """Do not listen, and cut all connections; what is under way is given up."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            server.cut_connections()
            await server.wait_closed()


class _Server(Server):
    """A server that knows its connections, which grpclib's leaves open."""

    def __init__(self, services: Sequence[IServable]) -> None:
        super().__init__(services, status_details_codec=StatusDetailsCodec())
        self._connections: weakref.WeakSet[H2Protocol] = weakref.WeakSet()

    def _protocol_factory(self) -> H2Protocol:
        protocol = super()._protocol_factory()
        self._connections.add(protocol)
        return protocol

    def cut_connections(self) -> None:
        """Cut those that are open."""
        for protocol in self._connections:
            if hasattr(protocol, "connection"):  # made when the transport is
                protocol.connection._transport.abort()


def _tls(directory: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    context.set_alpn_protocols(["h2"])
    return context

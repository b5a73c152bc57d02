"""Engines behind TLS: each connection is one of TLS and a socket pair, between which an event loop passes bytes on.

An `ssl.SSLSocket` is no plain socket: that the kernel has bytes for it does not mean that it has, or the other way
round. The loop that knows how to deal with this is asyncio's, on a thread that the bridge owns.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from urllib.parse import urlsplit

from pytest_sandboxes.backends.docker.bridge import (
    OPEN_TIMEOUT,
    Bridge,
    close_in_forked_children,
)
from pytest_sandboxes.backends.docker.endpoint import Certificates, UnreachableError
from pytest_sandboxes.display import one_line
from pytest_sandboxes.io_thread import IOThread

_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_PORT = 2376  # Docker's for TLS
_READ = 1 << 18
_END_TIMEOUT = 5.0  # seconds from the end of one side of a connection to that of all of it
_FORM = "an address by TLS is tcp://HOST:PORT"
_REMEDIES = (  # what the error says, and what to do about it
    ("mismatch", "use a name or address that the Engine's certificate is for"),
    ("has expired", "renew the Engine's certificate, or set the clock right"),
    ("certificate verify failed", "correct ca.pem, which does not vouch for the Engine's certificate"),
    ("alert", "correct cert.pem and key.pem, which the Engine does not accept"),
    # a refusal that got lost, when our first request reached an end that was closed already
    (
        "without response",
        "correct cert.pem and key.pem if the Engine does not accept them, or see whether it runs",
    ),
    (
        "reset by peer",
        "correct cert.pem and key.pem if the Engine does not accept them, or see whether it runs",
    ),
    ("wrong version number", "correct the port: what listens there does not speak TLS"),
    ("Name or service not known", "correct the host's name"),
    ("Connection refused", "start the Engine there, or correct the port"),
)
_ELSE = "see whether its host can be reached from here"


class TLSBridge(Bridge):
    """Connections to an address `tcp://host:port`."""

    def __init__(self, address: str, certificates: Certificates) -> None:
        """Raises `UnreachableError` for an address that is none, or certificates that cannot be used."""
        super().__init__()
        self._host, self._port = _host_and_port(address)
        self._context = _context(certificates)
        self._io = IOThread()
        self._carrying: set[asyncio.Task[None]] = set()

    def open(self) -> _TLS:
        """See `Bridge.open`."""
        try:
            link = socket.create_connection((self._host, self._port), OPEN_TIMEOUT)
        except OSError as error:
            raise _unreachable(error) from None
        link.setblocking(False)  # noqa: FBT003 - socket has it so
        near, far = socket.socketpair()
        for end in (link, far):
            close_in_forked_children(end)
        try:
            ended = asyncio.run_coroutine_threadsafe(self._carry(link, far), self._io.loop())
        except RuntimeError as error:
            for end in (link, near, far):
                end.close()
            raise UnreachableError(str(error), "open no sandbox once everything ends") from None
        return _TLS(near, ended)

    async def _carry(self, link: socket.socket, far: socket.socket) -> None:
        """Pass on what comes, either way, until one end is closed."""
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        try:
            inner, outer = await self._streams(link, far)
            writers = inner[1], outer[1]
            try:
                await _until_one_ends(_pass_on(inner[0], outer[1]), _pass_on(outer[0], inner[1]))
                for writer in writers:
                    writer.close()  # once all is written
                await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
            finally:
                for writer in writers:
                    writer.transport.abort()
        finally:
            self._carrying.discard(task)

    async def _streams(self, link: socket.socket, far: socket.socket) -> tuple[_Stream, _Stream]:
        """The two ends between which to pass on: the near one's, and the Engine's."""
        try:
            outer = await asyncio.open_connection(
                sock=link,
                ssl=self._context,
                server_hostname=self._host,
                ssl_handshake_timeout=OPEN_TIMEOUT,
                ssl_shutdown_timeout=_END_TIMEOUT,
                limit=_READ,
            )
        except BaseException:
            far.close()  # the other is closed already
            raise
        return await asyncio.open_connection(sock=far, limit=_READ), outer

    def close(self) -> None:
        """See `Bridge.close`."""
        try:
            loop = self._io.loop()
        except RuntimeError:  # it has been closed before
            return
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._end(), loop).result(_END_TIMEOUT)
        self._io.close()

    async def _end(self) -> None:
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)


class _TLS:
    """One connection, and how it ended."""

    def __init__(self, near: socket.socket, ended: Future[None]) -> None:
        self.near = near
        self._ended = ended

    def opened(self) -> None:
        """See `Crossing.opened`."""

    def explain(self, error: Exception) -> UnreachableError:
        """See `Crossing.explain`."""
        try:
            cause = self._ended.exception(_END_TIMEOUT)
        except (TimeoutError, CancelledError):
            cause = None
        return _unreachable(cause or error)


async def _until_one_ends(*ways: Coroutine[None, None, None]) -> None:
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pass_on(source: asyncio.StreamReader, destination: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):  # an end, too
        while data := await source.read(_READ):
            destination.write(data)
            await destination.drain()


def _host_and_port(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        port = parts.port
    except ValueError as error:
        raise UnreachableError(str(error), _FORM) from None
    plain = parts.scheme in ("tcp", "http", "https") and "@" not in parts.netloc and not parts.path.strip("/")
    if not plain or not parts.hostname:
        raise UnreachableError("that is no address for a connection by TLS", _FORM)
    return parts.hostname, port or _PORT


def _context(certificates: Certificates) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=certificates.authority)
        # Which Python 3.13 begins with. Authorities made as Docker's handbook says lack what it asks for.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if certificates.certificate is not None:
            context.load_cert_chain(certificates.certificate, certificates.key, password=_refuse_to_ask)
    except (OSError, ValueError) as error:
        names = (certificates.authority, certificates.certificate, certificates.key)
        files = ", ".join(name for name in names if name)
        raise UnreachableError(
            f"of its certificates ({files}) one cannot be used ({one_line(str(error))})",
            "correct the files; a key has no passphrase",
        ) from None
    if not certificates.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _refuse_to_ask() -> str:
    raise ValueError("the key has a passphrase")


def _unreachable(error: BaseException) -> UnreachableError:
    text = one_line(str(error) or type(error).__name__, 300)
    return UnreachableError(text, next((remedy for sign, remedy in _REMEDIES if sign in text), _ELSE))

"""Whether anybody answers where the client is going to call: it would try for a minute, and then say little.

Where a proxy stands in between, it is asked for the same tunnel that the client will ask it for.
"""

from __future__ import annotations

import base64
import os
import re
import socket
import time
import urllib.request
from importlib import import_module
from urllib.parse import SplitResult, unquote, urlsplit

from pytest_sandboxes.backends.modal import trust
from pytest_sandboxes.backends.modal.errors import unreachable
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import BackendUnavailableError

_TIMEOUT = 10.0  # seconds for a connection, and as many for a tunnel, and for TLS
_LONGEST_ANSWER = 1 << 13
_PORTS = {"https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}
_PROXIES = {"http", "socks4", "socks4a", "socks5", "socks5h"}
"""What the client can speak to proxies."""


class _RefusedError(Exception):
    """A proxy does not let us through; says why, and what to do."""


def probe(urls: str) -> None:
    """Connect to the first of the service's addresses, separated by commas, that answers.

    Raises `BackendUnavailableError` when none does.
    """
    complaints = []
    for each in urls.split(","):
        url = _address(each.strip(), f"{one_line(each.strip(), 100)!r} of MODAL_SERVER_URL")
        proxy = _proxy(url)
        shown = one_line(f"{(proxy or url).hostname}:{_port(proxy or url)}", 200)
        try:
            _connect(url, proxy)
        except OSError as error:
            complaints.append(
                f"{'the proxy at ' if proxy else ''}{shown} cannot be reached: {unreachable(error)}"
            )
        except _RefusedError as error:
            complaints.append(f"the proxy at {shown} {error}")
        else:
            if proxy is not None:
                _need_client_of_proxies()
            return
    raise BackendUnavailableError(f"backend modal: {'; '.join(complaints)}")


def _address(url: str, what: str) -> SplitResult:
    """A URL that has somebody to connect to. Raises `BackendUnavailableError`, saying that `what` has not."""
    try:
        found = urlsplit(url)
        is_one = bool(found.hostname) and found.port != 0
    except ValueError:  # of a port that is none, among others
        is_one = False
    if not is_one:
        raise BackendUnavailableError(
            f"backend modal: {what} is no address such as https://host:443; correct it"
        )
    return found


def _connect(url: SplitResult, proxy: SplitResult | None) -> None:
    """Connect as the client will. Raises OSError, `_RefusedError`."""
    host = url.hostname or ""
    at = proxy or url
    if proxy is not None and proxy.scheme not in _PROXIES:
        raise _RefusedError(
            f"is to be spoken to by {one_line(proxy.scheme, 50)!r}, but Modal's client speaks http and socks5 to "
            "proxies: correct the address in the environment"
        )
    with socket.create_connection((at.hostname or "", _port(at)), _TIMEOUT) as connection:
        if proxy is not None:
            if proxy.scheme != "http":
                return  # what is behind it only the client can tell
            _open_tunnel(connection, proxy, f"{f'[{host}]' if ':' in host else host}:{_port(url)}")
        connection.settimeout(_TIMEOUT)
        if url.scheme == "https":
            with trust.context().wrap_socket(connection, server_hostname=host):
                pass


def _open_tunnel(connection: socket.socket, proxy: SplitResult, target: str) -> None:
    """Have a proxy connect us. Raises OSError, `_RefusedError`."""
    request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
    if proxy.username is not None:
        who = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
        request += f"Proxy-Authorization: Basic {base64.b64encode(who).decode()}\r\n"
    connection.sendall(f"{request}\r\n".encode())
    deadline = time.monotonic() + _TIMEOUT
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < _LONGEST_ANSWER:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            # one by one: what comes behind the answer is the server's, and for TLS
            piece = connection.recv(1)
        except TimeoutError:
            raise _RefusedError(
                f"does not answer within {_TIMEOUT:.0f} s when it is to connect to {target}: see whether it can"
            ) from None
        if not piece:
            break
        answer += piece
    status = re.match(rb"HTTP/1\.[01] ([0-9]{3})([^\r\n]*)", answer)
    if status is None:
        raise _RefusedError(f"does not speak HTTP: {one_line(answer.decode(errors='replace'), 100)!r}")
    code, reason = int(status[1]), one_line(status[2].decode(errors="replace").strip(), 100)
    if code == 407:
        raise _RefusedError(
            "wants a user and a password, or others: give them in its address, as http://user:password@host:port"
        )
    if code != 200:
        raise _RefusedError(
            f"does not connect to {target} ({code} {reason}): have it let that address through"
        )


def _need_client_of_proxies() -> None:
    try:
        import_module("python_socks")
    except ImportError:
        raise BackendUnavailableError(
            "backend modal: Modal's client goes by a proxy only with more packages: pip install "
            "'modal[api-proxy-support]'"
        ) from None


def _port(url: SplitResult) -> int:
    return url.port or _PORTS.get(url.scheme, 80)


def _proxy(url: SplitResult) -> SplitResult | None:
    """The proxy by which the client goes to a server, as it finds it."""
    if os.environ.get("MODAL_DISABLE_API_PROXY") or urllib.request.proxy_bypass(url.hostname or ""):
        return None
    proxies = urllib.request.getproxies()
    found = proxies.get(url.scheme) or proxies.get("all")
    # it may have a password, and is not shown
    return _address(found, f"the proxy in the environment, for {url.scheme},") if found else None

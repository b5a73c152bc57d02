"""Where the Engine is: found as the `docker` command finds it."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import BackendUnavailableError
from pytest_sandboxes.wording import shown

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
_UNIX = "http+unix://"  # as the SDK has it
_PASSWORD = re.compile(r"(?<=[^/]):[^/@]*@")
_WITHOUT_TLS = ("unix:", "ssh:")  # of these `docker` does not take certificates either


@dataclass(frozen=True)
class Certificates:
    """With what both ends of a TLS connection prove who they are."""

    authority: str | None
    """File with the certificates that vouch for the Engine; None is the machine's own."""
    certificate: str | None
    """File with ours."""
    key: str | None
    """File with its key."""
    verify: bool
    """Whether the Engine has to prove that it is the host it is taken for."""


@dataclass(frozen=True)
class Endpoint:
    """An address, and who says so."""

    address: str
    """A URL, as in DOCKER_HOST."""
    source: str
    """For messages: an environment variable, or a context."""
    certificates: Certificates | None = None
    """For a connection by TLS."""

    def __str__(self) -> str:
        return f"{_PASSWORD.sub(':…@', self.address)} ({self.source})"


class UnreachableError(OSError):
    """No connection could be made: why, and what to do, each a clause. An OSError, as the SDK expects of sockets."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")


def find() -> Endpoint:
    """The Engine of DOCKER_HOST, DOCKER_CONTEXT or the current context, else the one of this machine.

    Raises `BackendUnavailableError` when there is no such context, or no such certificate.
    """
    address = os.environ.get("DOCKER_HOST", "").strip()
    if not address:
        return _of_context(os.environ.get("DOCKER_CONTEXT") or None)
    plain = address.startswith(_WITHOUT_TLS)
    return Endpoint(address, "DOCKER_HOST", None if plain else _of_environment(address))


def connect(address: str, timeout: float) -> socket.socket:
    """A connection to an address that a plain socket reaches. Raises OSError."""
    from docker.utils import parse_host

    parsed = parse_host(address)
    if not parsed.startswith(_UNIX):
        found = urlsplit(parsed)
        return socket.create_connection((found.hostname, found.port), timeout)
    made = socket.socket(socket.AF_UNIX)
    try:
        made.settimeout(timeout)
        made.connect(
            f"/{parsed.removeprefix(_UNIX).lstrip('/')}"
        )  # with `unix://var/run/…` as well, like the SDK
    except BaseException:
        made.close()
        raise
    return made


def path(address: str) -> str:
    """What the paths of an API begin with at such an address; mostly empty."""
    from docker.utils import parse_host

    parsed = parse_host(address)
    return "" if parsed.startswith(_UNIX) else urlsplit(parsed).path.rstrip("/")


def _of_environment(address: str) -> Certificates | None:
    directory = os.environ.get("DOCKER_CERT_PATH")
    verify = bool(os.environ.get("DOCKER_TLS_VERIFY"))
    if not directory and not verify:
        return Certificates(None, None, None, verify=True) if address.startswith("https:") else None
    where = Path(directory) if directory else Path.home() / ".docker"
    files = [where / name for name in ("ca.pem", "cert.pem", "key.pem")]
    for file in files:
        if not file.is_file():
            source = "DOCKER_CERT_PATH" if directory else "DOCKER_TLS_VERIFY without DOCKER_CERT_PATH"
            raise BackendUnavailableError(
                f"no connection by TLS to the Docker Engine at {address}: there is no file {file} ({source}); put the "
                "certificates ca.pem, cert.pem and key.pem there, or name the directory that has them"
            )
    authority, certificate, key = map(str, files)
    return Certificates(authority, certificate, key, verify=verify)


def _of_context(name: str | None) -> Endpoint:
    from docker.context import ContextAPI

    what = f"Docker context {shown(name)}, which DOCKER_CONTEXT names" if name else "current Docker context"
    try:
        context = ContextAPI.get_context(name)
    except Exception as error:  # noqa: BLE001 - the SDK raises a bare one for a damaged file
        raise BackendUnavailableError(
            f"the {what}, cannot be read: {one_line(str(error))}; docker context rm removes it"
        ) from None
    if context is None:
        raise BackendUnavailableError(f"there is no {what}; docker context ls lists them")
    address = str(context.Host or DEFAULT_ADDRESS).replace("http+unix:", "unix:", 1)
    certificates = None
    tls = context.TLSConfig
    if tls is not None and not address.startswith(_WITHOUT_TLS):
        certificate, key = tls.cert or (None, None)
        certificates = Certificates(tls.ca_cert, certificate, key, verify=bool(tls.verify))
    elif address.startswith("https:"):
        certificates = Certificates(None, None, None, verify=True)
    return Endpoint(address, f"context {context.name}", certificates)

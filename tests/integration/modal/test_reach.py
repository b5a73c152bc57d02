"""Between here and Modal: addresses, proxies and authorities that are wrong, gone, or others than the usual."""

from __future__ import annotations

import base64
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pytest_sandboxes.backends.modal import backend as modal_backend
from pytest_sandboxes.backends.modal import probing, reach
from pytest_sandboxes.errors import BackendUnavailableError
from pytest_sandboxes.profiles.profile import Profile
from tests.emulators.modal.control import Control
from tests.engine.tls import Authority
from tests.integration.conftest import ROOT, Inner
from tests.integration.modal.conftest import Start, backend, complaint

HOST = "127.0.0.2"
"""An address of this machine for which the client verifies certificates of routers."""


def test_where_nobody_answers(start: Start, inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        monkeypatch.setenv("MODAL_SERVER_URL", f"http://127.0.0.1:{port}")
        assert complaint(inner) == (
            f"backend modal: 127.0.0.1:{port} cannot be reached: Connection refused: see whether this machine may go "
            "there"
        )


def test_where_no_command_router_can_be_reached(
    emulator: Control, inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service tells where it is, and a firewall may not have been told."""
    monkeypatch.setattr(reach, "PATIENCE", 0.5)
    monkeypatch.setattr(modal_backend, "_PATIENCE", 0.0)
    emulator.disconnect("router")
    said = complaint(inner)
    assert re.fullmatch(
        r"backend modal: its command router at 127\.0\.0\.1:\d+ cannot be reached: Connection refused: see whether this "
        r"machine may go there",
        said,
    ), said
    assert emulator.running() == []


def test_where_a_proxy_is_gone(start: Start, inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MODAL_SERVER_URL", "https://api.modal.test:443")
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert complaint(inner).startswith("backend modal: the proxy at 127.0.0.1:")


@contextmanager
def proxy(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that answers everybody alike, and tells its address and what it has been asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):  # nobody listens any more
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        asked.append(connection.recv(4096))
                        connection.sendall(answer)
                        if not answer:
                            connection.recv(1)

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}", asked
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            serving.join(10)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            b"HTTP/1.1 403 Not \x1b[31mfor you\r\n\r\n",
            "does not connect to api.modal.test:443 (403 Not \\x1b[31mfor you): have it let that address through",
        ),
        (
            b"HTTP/1.0 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n",
            "wants a user and a password, or others: give them in its address, as http://user:password@host:port",
        ),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP: 'SSH-2.0-OpenSSH"),
        (b"HTTP/1.1 2" * 10_000, "does not speak HTTP: 'HTTP/1.1 2HTTP"),
        (b"", "does not answer within 0 s when it is to connect to api.modal.test:443: see whether it can"),
    ],
    ids=["refuses", "wants a password", "is none", "floods", "is silent"],
)
@pytest.mark.usefixtures("start")
def test_a_proxy_that_does_not_let_us_through(
    inner: Inner, monkeypatch: pytest.MonkeyPatch, answer: bytes, expected: str
) -> None:
    """The client would ask it again and again, for a minute."""
    if not answer:
        monkeypatch.setattr(probing, "_TIMEOUT", 0.3)
    monkeypatch.setenv("MODAL_SERVER_URL", "https://api.modal.test:443")
    with proxy(answer) as (address, asked):
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:se%20cret@{address}")
        said = complaint(inner)
    assert said.startswith(f"backend modal: the proxy at {address} {expected}")
    assert "cret" not in said
    (request,) = asked
    assert request.startswith(b"CONNECT api.modal.test:443 HTTP/1.1\r\nHost: api.modal.test:443\r\n")
    assert b"\r\nProxy-Authorization: Basic " + base64.b64encode(b"me:se cret") in request


def test_a_proxy_that_speaks_what_the_client_does_not(
    start: Start, inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODAL_SERVER_URL", "https://api.modal.test:443")
    monkeypatch.setenv("HTTPS_PROXY", "https://127.0.0.1:1")
    assert complaint(inner) == (
        "backend modal: the proxy at 127.0.0.1:1 is to be spoken to by 'https', but Modal's client speaks http and "
        "socks5 to proxies: correct the address in the environment"
    )


def test_a_proxy_without_the_packages_for_it(
    emulator: Control, inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's own words would have the proxy's password in them."""
    monkeypatch.setitem(sys.modules, "python_socks", None)
    monkeypatch.delenv("MODAL_DISABLE_API_PROXY")
    with proxy(b"HTTP/1.1 200 Connection established\r\n\r\n") as (address, _):
        monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@{address}")
        assert complaint(inner) == (
            "backend modal: Modal's client goes by a proxy only with more packages: pip install "
            "'modal[api-proxy-support]'"
        )


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("MODAL_SERVER_URL", "nonsense", "'nonsense' of MODAL_SERVER_URL is no address such as "),
        (
            "MODAL_SERVER_URL",
            "https://host:99999",
            "'https://host:99999' of MODAL_SERVER_URL is no address such as ",
        ),
        (
            "HTTPS_PROXY",
            "http://me:secret@host:99999",
            "the proxy in the environment, for https, is no address such as ",
        ),
        ("HTTPS_PROXY", "nonsense", "the proxy in the environment, for https, is no address such as "),
    ],
)
@pytest.mark.usefixtures("start")
def test_where_an_address_is_none(
    inner: Inner, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: str
) -> None:
    monkeypatch.setenv("MODAL_SERVER_URL", "https://api.modal.test:443")
    monkeypatch.setenv(variable, value)
    assert complaint(inner) == f"backend modal: {expected}https://host:443; correct it"


CLIENT = """
from tests.integration.modal.conftest import slot
with slot() as leased:
    print(leased.exec("echo", "here").stdout)
"""


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_private_authority(start: Start, tmp_path: Path, variable: str) -> None:
    certificates = Authority(tmp_path / "authority").issue(tmp_path / "server", f"IP:{HOST}")
    start(host=HOST, certificates=certificates)
    command = [sys.executable, "-c", CLIENT]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        command,
        env={**environment, variable: str(certificates / "ca.pem")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout == "here\n\n", ran.stderr


def test_an_authority_that_nobody_has_named(start: Start, tmp_path: Path) -> None:
    certificates = Authority(tmp_path / "authority").issue(tmp_path / "server", f"IP:{HOST}")
    emulator = start(host=HOST, certificates=certificates)
    with (
        backend() as made,
        pytest.raises(BackendUnavailableError, match="say where its authority is with SSL_CERT_FILE"),
    ):
        made.check_machine(Profile())
    assert not emulator.events("call")

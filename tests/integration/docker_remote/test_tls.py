"""Engines behind TLS: what is wrong with certificates, and with ports."""

from __future__ import annotations

import http.server
import re
import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest

from pytest_sandboxes.backends.docker.engine import Engine
from tests.engine import tls
from tests.integration.docker_remote.conftest import Remote, complaint

docker = pytest.importorskip("docker", reason="the docker SDK is not installed")


@pytest.fixture(autouse=True)
def there(by_tls: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in by_tls.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def own_certificates(tls_server: tls.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the right ones, to be spoiled."""
    copied = tmp_path / "copied"
    shutil.copytree(tls_server.certificates, copied)
    monkeypatch.setenv("DOCKER_CERT_PATH", str(copied))
    return copied


def test_an_authority_that_is_not_the_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tls.Authority(tmp_path / "authority").issue(tmp_path / "client")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(theirs))
    said = complaint()
    assert "certificate verify failed" in said
    assert "correct ca.pem" in said


def test_a_client_that_the_engine_does_not_know(
    tls_server: tls.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tls.Authority(tmp_path / "authority").issue(tmp_path / "client")
    shutil.copy(tls_server.certificates / "ca.pem", theirs / "ca.pem")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(theirs))
    said = complaint()
    # the Engine refuses after the handshake, and its word may be lost to our first request
    assert any(sign in said for sign in ("alert", "without response", "reset by peer"))
    assert "correct cert.pem and key.pem" in said


def test_another_host_than_the_certificates(tls_server: tls.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"tcp://localhost:{tls_server.port}")
    assert "use a name or address that the Engine's certificate is for" in complaint()


def test_who_it_is_may_be_left_open(tls_server: tls.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"tcp://localhost:{tls_server.port}")
    monkeypatch.delenv("DOCKER_TLS_VERIFY")
    engine = Engine()
    with closing(engine):
        assert engine.api().ping()


@pytest.mark.parametrize(
    ("name", "content", "complains"),
    [
        ("key.pem", None, "there is no file .*/key.pem \\(DOCKER_CERT_PATH\\); put the certificates"),
        ("ca.pem", "junk", "one cannot be used .*; correct the files"),
        ("key.pem", "junk", "one cannot be used .*; correct the files"),
    ],
)
def test_files_that_are_no_certificates(
    own_certificates: Path, name: str, content: str | None, complains: str
) -> None:
    (own_certificates / name).unlink()
    if content is not None:
        (own_certificates / name).write_text(content)
    assert re.search(complains, complaint())


def test_a_key_with_a_passphrase_asks_nobody(tls_server: tls.Server, own_certificates: Path) -> None:
    subprocess.run(
        ["openssl", "ec", "-aes128", "-passout", "pass:secret", "-in", tls_server.certificates / "key.pem", "-out", own_certificates / "key.pem"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    assert "a key has no passphrase" in complaint()


def test_a_port_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(*_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Quiet) as plain:
        serving = threading.Thread(target=plain.serve_forever)
        serving.start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{plain.server_port}")
        try:
            assert "what listens there does not speak TLS" in complaint()
        finally:
            plain.shutdown()
            serving.join()


def test_an_engine_that_is_silent(
    tls_server: tls.Server, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_sandboxes.backends.docker.bridge.OPEN_TIMEOUT", 1.0)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(place / "tls/server/cert.pem", place / "tls/server/key.pem")
    held = []

    def accept() -> None:
        held.append(context.wrap_socket(listening.accept()[0], server_side=True))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepting = threading.Thread(target=accept)
        accepting.start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{listening.getsockname()[1]}")
        assert "timed out; see whether its host can be reached" in complaint(accepting)
        accepting.join()
        held[0].close()


def test_a_port_with_tls_and_no_certificates_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_TLS_VERIFY")
    monkeypatch.delenv("DOCKER_CERT_PATH")
    assert "DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH" in complaint()


@pytest.mark.parametrize(
    "address", ["tcp://", "tcp://host:x", "tcp://me:secret@host/", "ftp://host", "tcp://host/path"]
)
def test_addresses(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    said = complaint()
    assert "an address by TLS is tcp://HOST:PORT" in said
    assert "secret" not in said

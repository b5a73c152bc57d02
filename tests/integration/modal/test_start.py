"""What is missing or wrong before the first test: one sentence, at once, and exit code 4."""

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
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pytest_sandboxes.backends.modal import backend as modal_backend
from pytest_sandboxes.backends.modal import images, probing, reach, service
from pytest_sandboxes.errors import BackendUnavailableError
from pytest_sandboxes.profiles.profile import Profile
from tests.emulators.modal.control import Control
from tests.engine.tls import Authority
from tests.integration.conftest import ROOT, Inner
from tests.integration.modal.conftest import Start, backend

SUITE = "def test_one(sandbox): assert sandbox.exec('true').success"
PROFILES = "profiles: {default: {isolation: sandbox, max_sandboxes: 1}}"
HOST = "127.0.0.2"
"""An address of this machine for which the client verifies certificates of routers."""


def complaint(inner: Inner) -> str:
    """What a run says that ends before its first test."""
    inner.write("test_suite.py", SUITE)
    inner.write("sandboxes.yaml", PROFILES)
    run = inner.run("--sandbox-backend=modal")
    assert run.exit_code == 4, run.stdout
    (line,) = [each for each in run.stderr.splitlines() if each.startswith("ERROR: ")]
    assert "Traceback" not in run.stderr + run.stdout
    return line.removeprefix("ERROR: ")


def test_without_the_client(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modal", None)
    assert complaint(inner) == "backend modal needs Modal's client: pip install 'pytest-sandboxes[modal]'"


def test_with_a_client_that_is_too_old(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may fail at its import, or at a call, in words of its own."""
    monkeypatch.setattr(service, "version", lambda _: "1.5.9")
    assert complaint(inner) == (
        "backend modal needs version 1.6 of Modal's client or a newer one, and here is 1.5.9: pip install --upgrade "
        "'pytest-sandboxes[modal]'"
    )


def test_with_a_client_that_lacks_something(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "import_module", lambda _: import_module("no_such_module"))
    assert complaint(inner) == (
        "backend modal needs Modal's client, which cannot be imported (No module named 'no_such_module'): pip install "
        "'pytest-sandboxes[modal]'"
    )


def test_without_credentials(emulator: Control, inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODAL_TOKEN_ID")
    monkeypatch.delenv("MODAL_TOKEN_SECRET")
    assert complaint(inner) == (
        "backend modal has no credentials: set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or make a token with "
        "`modal token new`"
    )


def test_with_bad_credentials(emulator: Control, inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-wrong")
    assert complaint(inner) == (
        "backend modal: the credentials of MODAL_TOKEN_ID and MODAL_TOKEN_SECRET are not accepted (Token validation "
        "failed): correct them, or make new ones with `modal token new`"
    )


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


def test_settings_that_cannot_be_read(start: Start, inner: Inner) -> None:
    """By a client that is imported for it, in a process of its own."""
    inner.write("test_suite.py", SUITE)
    inner.write("modal.toml", "no toml [")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--sandbox-backend=modal"],
        cwd=inner.path,
        env={**os.environ, "MODAL_CONFIG_PATH": str(inner.path / "modal.toml")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 4, ran.stdout
    assert (
        f"ERROR: backend modal: {inner.path / 'modal.toml'}, the settings of Modal's client, " in ran.stderr
    )
    assert "Traceback" not in ran.stderr + ran.stdout


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("{regoin: us}", "modal 'regoin'; did you mean 'region'?"),
        ("{dockerfile: Nowhere}", "there is no file "),
        ("{python: '2.7'}", "modal.python is '2.7', but must be a version such as '3.13', in quotes"),
        (
            "{cidr_allowlist: [10.0.0.0/8]}",
            "modal.cidr_allowlist says whom code may reach, but network is 'none'",
        ),
        ("{volumes: {data: models}}", "'data' in modal.volumes is not an absolute path other than '/'"),
        ("{build_args: {A: b}}", "modal.build_args is for a Dockerfile, and there is none"),
    ],
)
def test_a_section_that_is_wrong(inner: Inner, section: str, expected: str) -> None:
    inner.write("test_suite.py", SUITE)
    inner.write("sandboxes.yaml", f"profiles: {{default: {{modal: {section}}}}}")
    run = inner.run("--sandbox-backend=modal")
    assert run.exit_code == 4
    assert expected in run.stderr
    assert run.stderr.count("sandboxes.yaml:1") >= 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("{disk: 10}", "disk of profile 'default' cannot be kept: Modal limits no slot's disk"),
        ("{user: alice}", "user of profile 'default' cannot be kept: with isolation slot"),
        (
            "{pids: 10, isolation: sandbox}",
            "pids of profile 'default' cannot be kept: with isolation sandbox",
        ),
        ("{max_lifetime: 90000}", "but Modal lets a sandbox live 86400 s at most: lower it"),
        (
            "{app_name: a b}",
            "but a name on Modal has letters, digits, '-', '_' and '.', at most 64: set app_name to such a one",
        ),
        (
            "{modal: {volumes: {/workspace/models: m}}}",
            "sandboxes.yaml:1: modal.volumes of profile 'default' has '/workspace/models', but the workspaces of slots",
        ),
        (
            "{workspace_base: /data/w, modal: {volumes: {/data: m}}}",
            "has '/data', but the workspaces of slots",
        ),
        ("{workspace_base: /tmp/x}", "but /tmp is no place for workspaces: choose another"),
    ],
)
def test_a_field_that_cannot_be_kept(inner: Inner, fields: str, expected: str) -> None:
    inner.write("test_suite.py", SUITE)
    inner.write("sandboxes.yaml", f"profiles: {{default: {fields}}}")
    run = inner.run("--sandbox-backend=modal")
    assert run.exit_code == 4
    assert expected in run.stderr


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("{secrets: [nope]}", "secrets of profile 'default' has 'nope', which the account does not have ("),
        (
            "{modal: {volumes: {/data: nope}}}",
            "modal.volumes of profile 'default' has 'nope', which the account does not have (",
        ),
    ],
)
def test_what_the_account_does_not_have(emulator: Control, inner: Inner, fields: str, expected: str) -> None:
    inner.write("test_suite.py", SUITE)
    inner.write("sandboxes.yaml", f"profiles: {{default: {fields}}}")
    run = inner.run("--sandbox-backend=modal")
    assert run.exit_code == 4, run.stdout
    assert f"ERROR: sandboxes.yaml:1: {expected}" in run.stderr
    assert not emulator.events("sandbox_created")


def test_a_build_that_fails(emulator: Control) -> None:
    emulator.fail_builds("numpyy", "ERROR: no matching distribution \x1b[31mfound\n")
    profile = Profile().override({"modal": {"pip": ["numpyy"]}}, "sandboxes.yaml:1")
    with backend() as made, pytest.raises(BackendUnavailableError) as caught:
        made.check_machine(profile)
    text = str(caught.value)
    assert text.startswith("backend modal: image debian_slim with Python 3.13 cannot be built: ")
    assert "no matching distribution" in text
    assert "\x1b" not in text


def test_a_dockerfile_that_has_gone_since(
    emulator: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("FROM debian\n")
    profile = Profile().override({"modal": {"dockerfile": str(file)}}, "sandboxes.yaml:1")
    describe = images._describe

    def describe_and_lose(*args: Any, **more: Any) -> Any:
        described = describe(*args, **more)
        file.unlink(missing_ok=True)
        return described

    monkeypatch.setattr(images, "_describe", describe_and_lose)
    with backend() as made, pytest.raises(BackendUnavailableError) as caught:
        made.check_machine(profile)
    assert f"cannot be built: {file} cannot be read (No such file or directory); correct that" in str(
        caught.value
    )


def test_an_image_without_an_agent(emulator: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its own Python nor ours will do."""
    monkeypatch.setattr(images, "_OWN_PYTHON", ("false",))
    monkeypatch.setenv("_PYTHON_HOST_PLATFORM", "macosx-14.0-arm64")  # so that it is not carried
    with (
        backend() as made,
        pytest.raises(BackendUnavailableError, match="cannot run a sandbox's agent: its python3 ends"),
    ):
        made.check_machine(Profile())


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

"""Engines behind SSH: what is wrong on the way there, and what is over there."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_sandboxes.backends.docker.engine import Engine
from tests.engine import sshd
from tests.integration.docker_remote.conftest import Remote, complaint
from tests.integration.test_docker import PATIENCE
from tests.processes import carrying

docker = pytest.importorskip("docker", reason="the docker SDK is not installed")


@pytest.fixture(autouse=True)
def there(by_ssh: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in by_ssh.environment.items():
        monkeypatch.setenv(name, value)


def test_unknown_host(ssh_server: sshd.Server) -> None:
    known = ssh_server.known_hosts.read_text()
    ssh_server.known_hosts.write_text("")
    try:
        said = complaint()
    finally:
        ssh_server.known_hosts.write_text(known)
    assert f"no Docker Engine answers at {ssh_server.address} (DOCKER_HOST): ssh says" in said
    assert "Host key verification failed" in said
    assert "accept the host's key if it is the right one" in said


def test_a_host_with_another_key(ssh_server: sshd.Server) -> None:
    known = ssh_server.known_hosts.read_text()
    other = ssh_server.identity.with_suffix(".pub").read_text().split()[1]
    ssh_server.known_hosts.write_text(f"{' '.join(known.split()[:2])} {other}\n")
    try:
        assert "find out why its key is another now" in complaint()
    finally:
        ssh_server.known_hosts.write_text(known)


def test_no_permission(ssh_server: sshd.Server) -> None:
    authorized = ssh_server.directory / "authorized_keys"
    keys = authorized.read_text()
    authorized.write_text("")
    try:
        said = complaint()
    finally:
        authorized.write_text(keys)
    assert "Permission denied (publickey)" in said
    assert "have ssh log in there without asking" in said


@pytest.mark.parametrize(
    ("address", "reason", "remedy"),
    [
        ("ssh://127.0.0.1:1", "Connection refused", "see whether sshd runs there"),
        ("ssh://no-such-host.invalid", "Could not resolve hostname", "correct the host's name"),
        ("ssh://me:secret@host", "it has a password in it", "ssh logs in with keys"),
        ("ssh://", "it has no host", "ssh://USER@HOST:PORT"),
        ("ssh://host/run/docker.sock", "or more than that", "ssh://USER@HOST:PORT"),
        ("ssh://host:x", "Port could not be cast", "ssh://USER@HOST:PORT"),
        ("ssh://-oProxyCommand=touch%20x", "ssh says", ""),
    ],
)
def test_addresses(monkeypatch: pytest.MonkeyPatch, address: str, reason: str, remedy: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    said = complaint()
    assert said.startswith("no Docker Engine answers at ssh://")
    assert "secret" not in said
    assert reason in said
    assert remedy in said


def test_no_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "ssh cannot be run: No such file or directory; install OpenSSH's client" in complaint()


@pytest.mark.parametrize(
    ("settings", "reason", "remedy"),
    [
        ({"SetEnv": "PATH=/nowhere"}, "docker: ", "install the docker command there"),
        (
            {"SetEnv": "DOCKER_HOST=unix:///nowhere"},
            "no such file or directory",
            "start it over there",
        ),
        (
            {"ForceCommand": r"printf '\033[31mno\r\n' >&2; exit 1"},
            r"ssh says '\\x1b[31mno'",
            "version` works here",
        ),
        ({"ForceCommand": "yes"}, "no Docker Engine (BadStatusLine", "version` works here"),
        ({"ForceCommand": "cat >/dev/null"}, "timed out", "version` works here"),
    ],
)
def test_what_is_over_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    reason: str,
    remedy: str,
) -> None:
    if settings.get("ForceCommand", "").startswith("cat"):
        monkeypatch.setattr("pytest_sandboxes.backends.docker.bridge.OPEN_TIMEOUT", 1.0)
    with sshd.serve(tmp_path / "other", settings) as other:
        monkeypatch.setenv("DOCKER_HOST", other.address)
        monkeypatch.setenv("PATH", f"{other.programs}:{os.environ['PATH']}")
        said = complaint()
        assert not carrying(str(other.directory / "ssh_config"), "cmdline")
    assert reason in said
    assert remedy in said


def test_no_more_at_once_than_sshd_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sshd.serve(
        tmp_path / "other", {"MaxStartups": "5"}
    ) as other:  # by default some beyond 10 are dropped
        monkeypatch.setenv("DOCKER_HOST", other.address)
        monkeypatch.setenv("PATH", f"{other.programs}:{os.environ['PATH']}")
        engine = Engine()
        try:
            api = engine.api()
            together = threading.Barrier(16)

            def ask(_: int) -> str:
                together.wait(PATIENCE)
                return str(api.version()["ApiVersion"])

            with ThreadPoolExecutor(16) as threads:
                assert len(list(threads.map(ask, range(16)))) == 16
        finally:
            engine.close()
        assert not carrying(str(other.directory / "ssh_config"), "cmdline")

"""Connections of ours go where the SDK's go, whatever form an address has."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pytest_sandboxes.backends.docker import endpoint


@pytest.mark.parametrize("form", ["unix://{}", "unix:///{}"])
def test_a_socket_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    path = tmp_path / "docker.sock"
    monkeypatch.chdir("/usr")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        endpoint.connect(form.format(str(path).lstrip("/")), 10).close()
        listening.accept()[0].close()


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("unix:///var/run/docker.sock", ""),
        ("tcp://far:2375", ""),
        ("tcp://far:2375/", ""),
        ("tcp://far:2375/engines/3", "/engines/3"),
    ],
)
def test_what_paths_begin_with(address: str, path: str) -> None:
    assert endpoint.path(address) == path

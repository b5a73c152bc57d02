"""TLS with a private authority: the unmodified client comes in where it trusts it, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.emulators.modal.emulator import Options, running
from tests.engine.tls import Authority

HOST = "127.0.0.2"
"""An address of this machine for which the client verifies certificates; for 127.0.0.1 it does so half the time."""
CLIENT = """
import certifi, sys
certifi.where = lambda: sys.argv[1]  # where grpclib has its authorities from
import modal
app = modal.App.lookup("tests", create_if_missing=True)
image = modal.Image.from_registry("some/image")
process = modal.Sandbox.create("sleep", "infinity", app=app, image=image).exec("echo", "here")
print(process.stdout.read(), process.wait())
"""


@pytest.mark.parametrize("trusted", [True, False])
def test_a_private_authority(tmp_path: Path, *, trusted: bool) -> None:
    certificates = Authority(tmp_path / "authority").issue(tmp_path / "server", f"IP:{HOST}")
    known = (
        certificates if trusted else Authority(tmp_path / "other").issue(tmp_path / "others", f"IP:{HOST}")
    )
    with running(Options(host=HOST, certificates=certificates)) as (environment, control):
        assert environment["MODAL_SERVER_URL"].startswith(f"https://{HOST}:")
        authorities = {
            "SSL_CERT_FILE": str(known / "ca.pem")
        }  # where Python has its own from, for the router
        with subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(known / "ca.pem")],
            env={**os.environ, **environment, **authorities, "MODAL_LOGLEVEL": "DEBUG"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as client:
            if trusted:
                output, complaint = client.communicate(timeout=30)
                assert (output, client.returncode) == ("here\n 0\n", 0), complaint
            else:  # it tries for a minute
                assert client.stderr is not None
                assert any("CERTIFICATE_VERIFY_FAILED" in line for line in client.stderr)
                client.kill()
                assert not control.events("call")

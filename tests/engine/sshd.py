"""An sshd of the tests' own, on a port of this machine, and an `ssh` that knows it and nothing else."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.engine.machine import MachineError, run, tail

_START = 20
"""Seconds from the start of sshd until it listens."""


@dataclass(frozen=True)
class Server:
    """An sshd that runs."""

    port: int
    directory: Path
    """Where its files are, and those of its client."""

    @property
    def address(self) -> str:
        """What DOCKER_HOST says to get there as this user."""
        return f"ssh://{pwd.getpwuid(os.geteuid()).pw_name}@127.0.0.1:{self.port}"

    @property
    def known_hosts(self) -> Path:
        """The keys of hosts that the client takes for right."""
        return self.directory / "known_hosts"

    @property
    def identity(self) -> Path:
        """The client's key."""
        return self.directory / "identity"

    @property
    def programs(self) -> Path:
        """A directory for PATH: its `ssh` is configured by files of the server's directory, not by the user's own."""
        return self.directory / "bin"


def find() -> str | None:
    """The sshd of this machine, which users do not have on their PATH."""
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextmanager
def serve(directory: Path, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run an sshd with `settings` beside its own, and end it. All its files are in `directory`, which is made."""
    sshd = find()
    if sshd is None:
        raise MachineError("no sshd is installed")
    with ExitStack() as until_it_listens:
        server = Server(until_it_listens.enter_context(_held_port()), directory)
        _prepare(server, settings or {})
        command = ["setpriv", "--pdeathsig", "KILL", sshd, "-D", "-e", "-f", str(directory / "sshd_config")]
        log = directory / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + _START
            while not _listens(server.port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise MachineError(
                        f"sshd does not listen; it says:\n{tail(log.read_text('utf-8', 'replace'))}"
                    )
                time.sleep(0.02)
            until_it_listens.close()
            yield server
        finally:
            process.terminate()
            process.wait()


def _prepare(server: Server, settings: Mapping[str, str]) -> None:
    server.programs.mkdir(parents=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where an sshd of root insists on going
    host_key = server.directory / "host_key"
    for key in (host_key, server.identity):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    authorized = server.directory / "authorized_keys"
    authorized.write_bytes(server.identity.with_suffix(".pub").read_bytes())
    kind, key_text = host_key.with_suffix(".pub").read_text().split()[:2]
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {kind} {key_text}\n")
    _write(
        server.directory / "sshd_config",
        {
            **settings,  # of two equal ones the first counts
            "Port": str(server.port),
            "ListenAddress": "127.0.0.1",
            "HostKey": str(host_key),
            "AuthorizedKeysFile": str(authorized),
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
        },
    )
    _write(
        server.directory / "ssh_config",
        {
            "IdentityFile": str(server.identity),
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(server.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
        },
    )
    ssh = server.programs / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {server.directory / "ssh_config"} "$@"\n')
    ssh.chmod(0o755)


def _write(file: Path, settings: Mapping[str, str]) -> None:
    file.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))


@contextmanager
def _held_port() -> Iterator[int]:
    """A port that nobody else is given meanwhile."""
    with socket.socket() as holder:
        # so that sshd, which sets that as well, can have the same; whoever asks for any port gets another
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0

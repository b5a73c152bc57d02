"""A dockerd of the tests' own that speaks TLS on a port of this machine, and certificates for it and its clients."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker

from tests.engine.machine import MachineError, run, tail

_START = 60
"""Seconds from the start of dockerd to its first answer."""
_END = 30
"""Seconds from asking dockerd to end until it is killed."""

# A dockerd without a bridge removes that of the machine's own, so it has a network to itself. The port on which it
# listens is one of the machine's: it is given to it as systemd would.
_ELSEWHERE = (
    *("bash", "-c", 'export LISTEN_PID=$$ LISTEN_FDS=1; listening=$1; shift; exec unshare --net dockerd "$@" 3<&"$listening"'),
    "dockerd",
)  # fmt: skip


@dataclass(frozen=True)
class Server:
    """A dockerd that runs."""

    port: int
    socket: Path
    """Where it listens without TLS."""
    certificates: Path
    """A directory for DOCKER_CERT_PATH."""

    @property
    def address(self) -> str:
        """What DOCKER_HOST says to get there by TLS."""
        return f"tcp://127.0.0.1:{self.port}"

    def client(self) -> docker.DockerClient:
        """A client, by the socket."""
        return docker.DockerClient(f"unix://{self.socket}", timeout=300)


class Authority:
    """Signs certificates. All its files are in a directory, which it makes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True)
        key, certificate = str(directory / "ca-key.pem"), str(directory / "ca.pem")
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=authority",
            "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip

    def issue(self, directory: Path, names: str = "") -> Path:
        """Put ca.pem, cert.pem and key.pem into a directory, which is made: for a server called `names`, else a client."""
        directory.mkdir(parents=True)
        request, extensions = str(directory / "request.pem"), directory / "extensions"
        use = f"serverAuth\nsubjectAltName={names}" if names else "clientAuth"
        extensions.write_text(f"extendedKeyUsage={use}\nauthorityKeyIdentifier=keyid\n")
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", str(directory / "key.pem"), "-out", request, "-subj", "/CN=test")  # fmt: skip
        run("openssl", "x509", "-req", "-in", request, "-CA", str(self._directory / "ca.pem"),
            "-CAkey", str(self._directory / "ca-key.pem"), "-CAcreateserial", "-days", "2",
            "-extfile", str(extensions), "-out", str(directory / "cert.pem"))  # fmt: skip
        (directory / "ca.pem").write_bytes((self._directory / "ca.pem").read_bytes())
        return directory


@contextmanager
def serve(directory: Path, image: str, source: docker.DockerClient) -> Iterator[Server]:
    """Run a dockerd that has `image` from the engine `source`, and end it. All its files are in `directory`."""
    authority = Authority(directory / "authority")
    ours = authority.issue(directory / "server", "IP:127.0.0.1")
    arguments = [
        "--host=fd://",
        f"--host=unix://{directory}/socket",
        *(
            "--tlsverify",
            f"--tlscacert={ours}/ca.pem",
            f"--tlscert={ours}/cert.pem",
            f"--tlskey={ours}/key.pem",
        ),
        *(f"--data-root={directory}/data", f"--exec-root={directory}/exec", f"--pidfile={directory}/pid"),
        *("--bridge=none", "--iptables=false"),
    ]
    log = directory / "log"
    with socket.create_server(("127.0.0.1", 0)) as listening, log.open("wb") as output:
        server = Server(
            listening.getsockname()[1], directory / "socket", authority.issue(directory / "client")
        )
        process = subprocess.Popen(
            [*_ELSEWHERE, str(listening.fileno()), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[listening.fileno()],
        )
    try:
        _wait_for(server.socket, process, log)
        with closing(server.client()) as client:
            client.images.load(source.api.get_image(image))
        yield server
    finally:
        process.terminate()
        try:
            process.wait(_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(address: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until dockerd listens; what it is asked then, it answers as soon as it can."""
    deadline = time.monotonic() + _START
    with socket.socket(socket.AF_UNIX) as attempt:
        while attempt.connect_ex(str(address)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise MachineError(f"dockerd does not listen; it says:\n{tail(log.read_text())}")
            time.sleep(0.1)

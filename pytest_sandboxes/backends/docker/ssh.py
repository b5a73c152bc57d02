"""Engines behind SSH: each connection is an `ssh` that runs Docker's own `docker system dial-stdio` over there.

That is how the `docker` command does it, so what the user's ssh configuration says of hosts, keys, jumps and shared
connections counts here as there, and neither a second implementation of SSH nor a thread is needed. The input and
output of `ssh` are one end of a socket pair whose other end is ours: when that is closed, or this process is killed,
`ssh` reads the end of its input and the Engine that of the connection.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from urllib.parse import urlsplit

from pytest_sandboxes.backends.docker.bridge import OPEN_TIMEOUT, Bridge
from pytest_sandboxes.backends.docker.endpoint import UnreachableError
from pytest_sandboxes.display import one_line

_OPTIONS = {
    "BatchMode": "yes",  # nobody is there to be asked
    "ConnectTimeout": f"{OPEN_TIMEOUT / 2:.0f}",  # before we give up, because it says why
    "ClearAllForwardings": "yes",  # of several connections only one could have them
    "ServerAliveInterval": "10",  # it must not wait for ever for a host that has gone
    "ServerAliveCountMax": "3",
}
_END_TIMEOUT = 5.0  # seconds from the end of its input, or a signal, to the end of `ssh`
_LONGEST_COMPLAINT = 1 << 16  # what a pipe holds
_REMEDIES = (  # what is complained of, in the order in which one causes the next, and what to do about it
    ("IDENTIFICATION HAS CHANGED", "find out why its key is another now, then have ssh-keygen -R forget the old one"),
    ("Host key verification failed", "log in once by hand with ssh, and accept the host's key if it is the right one"),
    ("Could not resolve hostname", "correct the host's name"),
    ("connect: permission denied", "add the user over there to the group docker"),
    ("raw stream connection", "start it over there, or say where it is: DOCKER_HOST in that user's environment"),
    ("Permission denied", "have ssh log in there without asking: a key in an agent, or one without a passphrase"),
    ("Connection refused", "see whether sshd runs there, and on that port"),
    ("not found", "install the docker command there, where sessions without a terminal have it on their PATH"),
    ("dial-stdio", "install docker 18.09 or newer there"),
)  # fmt: skip
_ELSE = "see whether `docker -H {address} version` works here"


class SSHBridge(Bridge):
    """Connections through the host of an address `ssh://user@host:port`."""

    def __init__(self, address: str) -> None:
        """Raises `UnreachableError` for an address that is none."""
        super().__init__()
        self._command = _command(address)
        self.address = address
        self._lock = threading.Lock()
        # Apart, because the complaints of those that are being opened may still be asked for.
        self._opening: set[subprocess.Popen[bytes]] = set()
        self._open: set[subprocess.Popen[bytes]] = set()

    def open(self) -> _SSH:
        """See `Bridge.open`."""
        near, far = socket.socketpair()
        try:
            process = subprocess.Popen(
                self._command,
                stdin=far.fileno(),
                stdout=far.fileno(),
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for pytest, which still needs its sandboxes to end them
            )
        except OSError as error:
            near.close()
            raise UnreachableError(
                f"ssh cannot be run: {error.strerror}", "install OpenSSH's client"
            ) from None
        finally:
            far.close()
        crossing = _SSH(self, near, process)
        with self._lock:
            self._opening.add(process)
        return crossing

    def close(self) -> None:
        """See `Bridge.close`."""
        with self._lock:
            opening, ended = list(self._opening), list(self._open)
            self._open.clear()
        for process in opening + ended:
            process.terminate()
        for process in ended:  # the others are buried by who waits for them
            _bury(process)

    def opened(self, process: subprocess.Popen[bytes]) -> None:
        """Watch over `process` from now on, and bury those that have ended since."""
        with self._lock:
            self._opening.discard(process)
            self._open.add(process)
            ended = {each for each in self._open if each.poll() is not None}
            self._open -= ended
        for each in ended:
            _bury(each)

    def given_up(self, process: subprocess.Popen[bytes]) -> str:
        """Bury `process`, which has led nowhere; return what it complained of."""
        try:
            process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
        complaint = _said(process)
        with self._lock:
            self._opening.discard(process)
        _bury(process)
        return complaint


class _SSH:
    """One `ssh`, and our end of its input and output."""

    def __init__(self, bridge: SSHBridge, near: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.near = near
        self._bridge = bridge
        self._process = process

    def opened(self) -> None:
        """See `Crossing.opened`."""
        self._bridge.opened(self._process)

    def explain(self, error: Exception) -> UnreachableError:
        """See `Crossing.explain`."""
        complaint = self._bridge.given_up(self._process)
        remedies = (remedy for sign, remedy in _REMEDIES if sign in complaint)
        remedy = next(remedies, _ELSE.format(address=self._bridge.address))
        if not complaint:
            return UnreachableError(one_line(str(error)), remedy)
        told = [line for line in complaint.splitlines() if line.strip(" @\r")]
        return UnreachableError(f"ssh says {one_line(told[-1].strip() if told else complaint)!r}", remedy)


def _command(address: str) -> list[str]:
    """The command line that connects to `address`."""
    form = "an address by SSH is ssh://HOST, ssh://USER@HOST or ssh://USER@HOST:PORT"
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise UnreachableError(str(error), form) from None
    if parts.password is not None:
        raise UnreachableError("it has a password in it", f"{form}, and ssh logs in with keys")
    user, at, host = parts.netloc.rpartition("@")
    host = host.partition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]
    if not host or parts.path.strip("/") or parts.query or parts.fragment:
        raise UnreachableError("it has no host, or more than that", form)
    command = ["ssh", "-T", *(f"-o{name}={value}" for name, value in _OPTIONS.items())]
    if at:
        command += ["-l", user]
    if port is not None:
        command += ["-p", str(port)]
    return [*command, "--", host, "docker", "system", "dial-stdio"]


def _said(process: subprocess.Popen[bytes]) -> str:
    """What is in the pipe of its complaints; a connection that is shared may hold that open for ever."""
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    with contextlib.suppress(BlockingIOError):
        return os.read(process.stderr.fileno(), _LONGEST_COMPLAINT).decode(errors="replace")
    return ""


def _bury(process: subprocess.Popen[bytes]) -> None:
    """See to it that a process that has ended, or is about to, leaves nothing behind."""
    try:
        process.wait(_END_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_TIMEOUT)
    assert process.stderr is not None
    process.stderr.close()

"""The Docker Engine that the tests use: the one that answers, or else a dockerd that is started for them."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import docker
import docker.errors

from tests.engine.machine import MachineError, can_install, install, locked, tail

NO_PERMISSION = "no permission on the Docker socket"
"""What an EngineError says where an engine may be, but not for this user."""

_UNIX = "unix://"
_DEFAULT_ADDRESS = "unix:///var/run/docker.sock"

_PROCESS_IDS = {
    "dockerd": Path("/var/run/docker.pid"),
    "containerd": Path("/var/run/docker/containerd/containerd.pid"),
}
"""Where dockerd looks, by default, for what runs already."""

_FIRST_ANSWER = 10
"""Seconds for an engine to say that it is there."""
_ANSWER = 300
"""Seconds for an answer of the engine; it may have an image to import, or to pull."""
_START = 60
"""Seconds from the start of dockerd to its first answer."""
_END = 30
"""Seconds from asking dockerd to end until it is killed. It gives its containers 15."""


class EngineError(MachineError):
    """No engine can be had; says why."""


def connect() -> docker.DockerClient:
    """A client of the engine that DOCKER_HOST names, or else of this machine's, which answers."""
    address = os.environ.get("DOCKER_HOST") or _DEFAULT_ADDRESS
    try:
        if address.startswith(
            _UNIX
        ):  # where it is refused, the SDK leaves a socket open, and the reason hidden
            with socket.socket(socket.AF_UNIX) as attempt:
                attempt.connect(address.removeprefix(_UNIX))
        client = docker.from_env(timeout=_FIRST_ANSWER)
    except PermissionError as error:
        raise EngineError(NO_PERMISSION) from error
    except (docker.errors.DockerException, OSError) as error:
        raise EngineError(f"no Docker Engine answers at {address}") from error
    client.api.timeout = _ANSWER
    return client


def ensure(state: Path, arguments: Sequence[str]) -> tuple[docker.DockerClient, bool]:
    """A client of an engine, and whether that was started for it, with `arguments` for dockerd.

    What is started is on record in the directory `state`, and logs there.
    """
    with locked("dockerd"):
        try:
            return connect(), False
        except EngineError as error:
            _refuse_unless_startable(error)
        if not shutil.which("dockerd"):
            install("docker.io")
            try:
                return connect(), False  # where an init system runs, it has started the service
            except EngineError:
                pass
        if (known := _read(state)) and _identity(known[0]) == known[1]:
            raise EngineError(
                f"the dockerd that was started, process {known[0]}, does not answer here; end it by the command stop"
            )
        return _start(state, arguments), True


def stop(state: Path) -> int | None:
    """End the dockerd that `ensure` has put on record in `state`, if it runs, and nothing else; returns its process id."""
    with locked("dockerd"):
        known = _read(state)
        if not known:
            return None
        ended = _end(*known)
        _record(state).unlink()
        return known[0] if ended else None


def log(state: Path) -> Path:
    """What the dockerd on record has to say."""
    return state / "dockerd.log"


def _start(state: Path, arguments: Sequence[str]) -> docker.DockerClient:
    _forget_the_killed()
    if address := os.environ.get("DOCKER_HOST"):
        arguments = [f"--host={address}", *arguments]
    # it has to outlive whoever starts it: that one's directory for temporary files, too
    environment = {name: value for name, value in os.environ.items() if name not in {"DOCKER_HOST", "TMPDIR"}}
    state.mkdir(parents=True, exist_ok=True)
    with log(state).open("wb") as output:
        process = subprocess.Popen(
            ["dockerd", *arguments],
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _record(state).write_text(json.dumps([process.pid, _identity(process.pid)]), "utf-8")
        deadline = time.monotonic() + _START
        while True:
            try:
                client = connect()
            except EngineError as error:
                ended = process.poll() is not None
                if ended or time.monotonic() > deadline:
                    fate = (
                        f"has ended with {process.returncode}" if ended else f"has not answered in {_START} s"
                    )
                    said = tail(log(state).read_text("utf-8", "replace"))
                    raise EngineError(f"dockerd {fate}; {log(state)} ends with:\n{said}") from error
                time.sleep(0.1)
            else:
                process.returncode = 0  # it is let go: nobody here waits for it
                return client
    except BaseException:
        _record(state).unlink(missing_ok=True)
        process.terminate()
        try:
            process.wait(_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise


def _forget_the_killed() -> None:
    """Remove what dockerd and its containerd leave on record where they are killed.

    With the id of a living process there, whoever has got it since, dockerd does not start, or waits for that process to
    be its containerd.
    """
    for name, record in _PROCESS_IDS.items():
        try:
            command = Path("/proc", record.read_text("ascii").strip(), "cmdline").read_bytes()
        except (OSError, ValueError):
            command = b""
        if Path(os.fsdecode(command.partition(b"\0")[0])).name != name:
            record.unlink(missing_ok=True)


def _end(pid: int, identity: str) -> bool:
    """End a process, if it is the one that is meant; whether it was."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if _identity(pid) != identity:  # the number is another's by now; from here on it means one process
            return False
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if not select.select([process], [], [], _END)[0]:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [])
    except ProcessLookupError:
        return False
    finally:
        os.close(process)
    return True


def _identity(pid: int) -> str:
    """What no other process with this id has: when it was started, and in which run of the machine; empty without one."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    try:
        after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return f"{boot} {after_name[19].decode()}"


def _record(state: Path) -> Path:
    return state / "dockerd.json"


def _read(state: Path) -> tuple[int, str] | None:
    """Process id and identity of the dockerd that was started."""
    try:
        pid, identity = json.loads(_record(state).read_text("utf-8"))
    except FileNotFoundError:
        return None
    return pid, identity


def _refuse_unless_startable(error: EngineError) -> None:
    """Raise `error` with the reason why no dockerd is started, if there is one."""
    if str(error) == NO_PERMISSION:
        raise error
    if not (os.environ.get("DOCKER_HOST") or _UNIX).startswith(_UNIX):
        raise EngineError(f"{error}, and only one on a socket of this machine could be started") from error
    if os.geteuid() != 0:
        raise EngineError(f"{error}, and only root can start one") from error
    if not shutil.which("dockerd") and not can_install():
        raise EngineError(
            f"{error}. Start one, or install it: that is done for you on Debian alone, where mounting is allowed"
        ) from error

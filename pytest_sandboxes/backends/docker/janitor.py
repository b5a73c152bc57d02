"""Removing what killed runs have left: containers that were made and never started, or whose run is dead."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import time
from pathlib import Path

from pytest_sandboxes.backends.docker.containers import remove
from pytest_sandboxes.backends.docker.engine import Engine

PREFIX = "pytest-sandboxes-"
_RUN, _OWNER, _PROCESS = (f"pytest-sandboxes.{name}" for name in ("run", "owner", "process"))
_NEVER_STARTED = 120.0  # seconds after which a container that has been made will not be started any more


def labels(run: str) -> dict[str, str]:
    """Labels of a container of the run `run` of this process."""
    return {_RUN: run, _OWNER: _owner(), _PROCESS: _process(os.getpid())}


def sweep(engine: Engine) -> int:
    """Remove what this user's dead runs have left on the Engine, and nobody else's; return how many containers.

    A running container ends by itself when its run does, by the end of its input or of its heartbeat. This is for those
    that were made in the moment in which their run was killed, and for whatever keeps an Engine from ending others.
    """
    api = engine.api()
    removed = 0
    with engine.errors_as_start_errors("cannot look for containers of earlier runs"):
        found = api.containers(all=True, filters={"label": [f"{_OWNER}={_owner()}"]})
    for container in found:
        if not any(name.startswith(f"/{PREFIX}") for name in container["Names"]):
            continue  # it has been kept
        too_old = container["State"] != "running" and time.time() - container["Created"] > _NEVER_STARTED
        if too_old or _is_dead(container["Labels"].get(_PROCESS, "")):
            remove(api, container["Id"])
            removed += 1
    return removed


def _owner() -> str:
    """Whose run it is: a user of this machine, or of one that calls itself the same."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _process(pid: int) -> str:
    """A process of this boot of this machine, as no other ever is called; empty if there is none."""
    with contextlib.suppress(OSError, IndexError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        namespace = Path("/proc/self/ns/pid").readlink()
        return f"{boot} {namespace} {pid} {started}"
    return ""


def _is_dead(process: str) -> bool:
    """Whether it is a process of this machine, and no more. What cannot be told is not dead."""
    words = process.split()
    ours = _process(os.getpid()).split()
    if len(words) != len(ours) or words[:2] != ours[:2]:
        return False
    return _process(int(words[2])) != process

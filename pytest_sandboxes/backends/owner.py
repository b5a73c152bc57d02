"""Who owns what is on an Engine, or in an account, that others use as well."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
from pathlib import Path


def owner() -> str:
    """Whose run it is: a user of this machine, or of one that calls itself the same."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def process(pid: int) -> str:
    """A process of this boot of this machine, as no other ever is called; empty if there is none.

    Four words: the boot, the PID namespace, the pid, and the time of its start.
    """
    with contextlib.suppress(OSError, IndexError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        namespace = Path("/proc/self/ns/pid").readlink()
        return f"{boot} {namespace} {pid} {started}"
    return ""

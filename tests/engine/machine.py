"""This machine: what it runs, where state is kept, commands under a deadline, and one at a time among processes."""

from __future__ import annotations

import fcntl
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_COMMAND = 900
"""Seconds for one command; most of them go into a slow mirror."""
_LOCK = 600
"""Seconds of them for whoever else is installing something."""
_OTHERS = 1200
"""Seconds for another process to do what is to be done by one."""

CONTAINED = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
)
"""Before a command: all that it mounts and starts ends with it, and it ends with this process."""


class MachineError(Exception):
    """This machine does not have, or did not do, what is needed; says what, and what would help."""


def release() -> str:
    """Which distribution this machine runs, in the word of /etc/os-release; empty if it does not say."""
    return _os_release("ID")


def codename() -> str:
    """Which version of it, as its mirrors have it; empty if it does not say."""
    return _os_release("VERSION_CODENAME")


def can_install() -> bool:
    """Whether this process may install Debian's packages and mount file systems."""
    return (
        os.geteuid() == 0
        and release() == "debian"
        and subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    )


def install(package: str) -> None:
    """Install a package from the mirror that apt is set up to use."""
    patient = ("apt-get", "-o", f"DPkg::Lock::Timeout={_LOCK}", "-q")
    run(*patient, "update")
    run(*patient, "-y", "--no-install-recommends", "install", package)


def run(*command: str) -> str:
    """The output of a command; the end of it is in the error, if it fails."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    shown = " ".join(command)
    try:
        ran = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_COMMAND,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"`{shown}` has not ended within {_COMMAND} s") from error
    if ran.returncode:
        raise MachineError(f"`{shown}` ended with {ran.returncode}:\n{tail(ran.stdout)}")
    return ran.stdout


def tail(text: str) -> str:
    """The last lines of a log."""
    return "\n".join(text.splitlines()[-20:])


def state_directory() -> Path:
    """Where images are cached, and what was started is on record; made if it is not there."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(base, "pytest-sandboxes-tests")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextmanager
def locked(name: str, timeout: float = _OTHERS) -> Iterator[None]:
    """Be the only process here; MachineError if another one is for `timeout` seconds. The lock ends with its holder."""
    path = state_directory() / f"{name}.lock"
    deadline = time.monotonic() + timeout
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise MachineError(f"another process has held {path} for {timeout:.0f} s") from None
                time.sleep(0.1)
        yield


def _os_release(key: str) -> str:
    try:
        return platform.freedesktop_os_release().get(key, "")
    except OSError:
        return ""

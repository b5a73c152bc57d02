"""A shell in a local sandbox that was kept: `python -m pytest_sandboxes.backends.enter PID DIRECTORY`.

Not nsenter, because bubblewrap puts one user namespace into another. All other namespaces belong to the outer one, in
which no process is left to name it by; to whoever is not root it is the only way in.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import sys
from pathlib import Path
from typing import NoReturn

_NS_GET_USERNS = 0xB701
_INNER = ("ipc", "uts", "net", "pid", "mnt")
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp/home", "USER": "sandbox"}  # noqa: S108 - its own


def enter(pid: int, directory: str) -> NoReturn:
    """Become a shell beside process `pid`. Raises OSError where that is not allowed, or it is gone."""
    # everything by descriptor, because the next step may change what /proc shows
    namespaces = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in _INNER]
    own = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    outer = fcntl.ioctl(namespaces[0], _NS_GET_USERNS)
    if os.geteuid() == 0:
        _become_owner(pid)
    for namespace in (outer, *namespaces, own):
        _set_namespace(namespace)
    child = os.fork()  # a pid namespace is for children only
    if child:
        _, status = os.waitpid(child, 0)
        sys.exit(abs(os.waitstatus_to_exitcode(status)))
    os.chdir(directory)
    terminal = os.environ.get("TERM", "dumb")
    os.execve("/bin/sh", ["/bin/sh"], {**_ENVIRONMENT, "TERM": terminal})  # noqa: S606 - that is the point


def _become_owner(pid: int) -> None:
    """Give up root's rights for those of the user who made the namespaces, and thereby rules in them."""
    status = Path(f"/proc/{pid}/status").read_text()
    ids = {name: int(number) for name, number in re.findall(r"^([UG]id):\t(\d+)", status, re.MULTILINE)}
    os.setgroups([])
    os.setresgid(*[ids["Gid"]] * 3)
    os.setresuid(*[ids["Uid"]] * 3)


def _set_namespace(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
    if libc.setns(descriptor, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    try:
        enter(int(sys.argv[1]), sys.argv[2])
    except OSError as error:
        sys.exit(f"cannot enter process {sys.argv[1]}: {error.strerror}")

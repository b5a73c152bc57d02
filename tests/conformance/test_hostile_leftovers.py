"""What one lease leaves behind, however it hides it, the next one does not find."""

from __future__ import annotations

import os
from textwrap import dedent
from typing import NamedTuple

import pytest

from pytest_sandboxes import Slot
from tests.conformance.attacks import SYSTEM_CALLS
from tests.conformance.capabilities import Capability
from tests.conformance.helpers import SlotFactory, eventually, python

pytestmark = pytest.mark.needs(Capability.ISOLATION)


class Trace(NamedTuple):
    """Two programs: one leaves something, the other says `clean` or what it found."""

    leave: str
    look: str


def file(path: str) -> Trace:
    path = f"os.path.expandvars({path!r})"
    return Trace(
        f"os.makedirs(os.path.dirname({path}), exist_ok=True); open({path}, 'w').write('x'); os.chmod({path}, 0o777)",
        f"print(open({path}).read() if os.path.exists({path}) else 'clean')",
    )


PORT = "a port in TIME_WAIT"
TRACES = {
    "a file in the workspace": file("./left"),
    "a file in /tmp": file("/tmp/left/below"),
    "a file in /var/tmp": file("/var/tmp/left"),
    "a file in /dev/shm": file("/dev/shm/left"),
    "a file in the home directory": file("$HOME/.config/left"),
    "a module": Trace(
        "import site; p = site.getusersitepackages(); os.makedirs(p); open(p + '/usercustomize.py', 'w').write('print(1)')",
        "import subprocess; print(subprocess.run(['python3', '-c', 'print(\"clean\")'], capture_output=True).stdout.decode())",
    ),
    "access for nobody to all new files": Trace(
        """
        import struct
        NOBODY = 0xFFFFFFFF
        rules = ((1, 0, NOBODY), (4, 0, NOBODY), (0x20, 0, NOBODY))  # user, group, others: nothing
        rules = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *rule) for rule in rules)
        for place in (".", os.path.expanduser("~"), "/tmp"):
            print(attempt(os.setxattr, place, "system.posix_acl_default", rules))
        """,
        """
        if os.path.exists("new"):
            os.unlink("new")
        open("new", "w").close()
        found = [name for place in (".", os.path.expanduser("~")) for name in os.listxattr(place)]
        print("clean" if os.stat("new").st_mode & 0o600 == 0o600 and not found else found)
        """,
    ),
    "flags of the workspace": Trace(
        """
        import fcntl
        fd = os.open(".", os.O_RDONLY)
        print(attempt(fcntl.ioctl, fd, 0x40086602, (0x40 | 0x80).to_bytes(8, "little")))
        """,
        """
        import fcntl
        try:
            flags = int.from_bytes(fcntl.ioctl(os.open(".", os.O_RDONLY), 0x80086601, bytes(8)), "little")
        except OSError:  # this file system has none
            flags = 0
        print("clean" if not flags & 0xC0 else hex(flags))
        """,
    ),
    "shared memory": Trace(
        "print(_LIBC.shmget(4242, 4096, 0o1666))",
        "print('clean' if _LIBC.shmget(4242, 0, 0) == -1 else 'found')",
    ),
    "semaphores": Trace(
        "print(_LIBC.semget(4242, 1, 0o1666))",
        "print('clean' if _LIBC.semget(4242, 0, 0) == -1 else 'found')",
    ),
    "a message queue": Trace(
        "print(_LIBC.msgget(4242, 0o1666))",
        "print('clean' if _LIBC.msgget(4242, 0) == -1 else 'found')",
    ),
    "a POSIX message queue": Trace(
        "print(_LIBC.mq_open(b'/left', os.O_CREAT | os.O_RDWR, 0o666, None))",
        "print('clean' if _LIBC.mq_open(b'/left', os.O_RDWR) == -1 else 'found')",
    ),
    PORT: Trace(
        """
import socket
server = socket.create_server(("127.0.0.1", 4242), reuse_port=False)
client = socket.create_connection(("127.0.0.1", 4242))
accepted = server.accept()[0]
accepted.close(); client.close(); server.close()
""",
        """
import socket
with socket.socket() as server:  # without SO_REUSEADDR, which would not mind
    print(attempt(server.bind, ("127.0.0.1", 4242)) or "clean")
""",
    ),
}

MAY_BE_IMPOSSIBLE = {"a POSIX message queue", PORT}
"""Traces that not every backend lets code leave in the first place."""


def run(slot: Slot, code: str) -> str:
    result = python(slot, SYSTEM_CALLS + dedent(code))
    assert result.stderr == ""
    return result.stdout.strip()


@pytest.mark.needs(Capability.PYTHON)
@pytest.mark.parametrize("way", ["reset", "next lease"])
@pytest.mark.parametrize(
    "trace",
    [
        pytest.param(name, marks=pytest.mark.needs(Capability.FREE_PORTS) if name == PORT else ())
        for name in TRACES
    ],
)
def test_is_gone(sandbox_factory: SlotFactory, promised: frozenset[Capability], trace: str, way: str) -> None:
    leave, look = TRACES[trace]
    with sandbox_factory() as slot:
        assert run(slot, look) == "clean"
        run(slot, leave)
        if trace not in MAY_BE_IMPOSSIBLE:
            assert run(slot, look) != "clean"  # or else nothing was left
        if way == "reset":
            slot.reset()
            assert run(slot, look) == "clean"
    with sandbox_factory() as slot:
        if (
            Capability.OWN_SANDBOX not in promised
        ):  # the slot that has left it may be next to this one, in its reset
            eventually(lambda: run(slot, look) == "clean", "the end of what another lease has left")
        assert run(slot, look) == "clean"


@pytest.mark.needs(Capability.PYTHON)
def test_keys_cannot_be_left(sandbox_factory: SlotFactory) -> None:
    with sandbox_factory() as slot:
        assert run(slot, 'print(call("add_key", b"user", b"left", b"secret", 6, -4))') == "EPERM"
        for name in ("keys", "key-users"):
            read = f"print(attempt(lambda: open('/proc/{name}').read().count('left')))"
            assert run(slot, read) in ("EACCES", "ENOENT", "0")


def test_many_leases_leave_nothing_outside(sandbox_factory: SlotFactory) -> None:
    places = ["/tmp", "/dev/shm", "/var/tmp"]
    before = {place: set(os.listdir(place)) for place in places}
    name = f"left-{os.getpid()}"
    for _ in range(5):
        with sandbox_factory() as slot:
            slot.sh(f"for d in {' '.join(places)} . $HOME; do echo x > $d/{name}; done")
    assert not [place for place in places if name in set(os.listdir(place)) - before[place]]

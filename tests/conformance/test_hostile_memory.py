"""Memory in all its forms counts against `memory`, and a breach is the code's own failure."""

from __future__ import annotations

import pytest

from pytest_sandboxes import MemoryLimitExceededError
from tests.conformance.attacks import SYSTEM_CALLS
from tests.conformance.capabilities import Capability
from tests.conformance.helpers import SlotFactory, python

pytestmark = pytest.mark.needs(
    Capability.MEMORY_LIMIT, Capability.MEMORY_VERDICTS, Capability.OWN_SANDBOX, Capability.PYTHON
)

FORMS = {
    "heap": "x = bytearray(200 << 20)",
    "shared mapping": """
import mmap
x = mmap.mmap(-1, 200 << 20)
for at in range(0, 200 << 20, 4096): x[at] = 1
""",
    "memfd": """
x = os.memfd_create("x")
for _ in range(200): os.write(x, bytes(1 << 20))
""",
    "file in /tmp": """
with open("/tmp/x", "wb", 0) as file:
    for _ in range(200): file.write(bytes(1 << 20))
""",
    "file in the workspace": """
with open("x", "wb", 0) as file:
    for _ in range(200): file.write(bytes(1 << 20))
""",
    "shared memory that outlives its process": """
_LIBC.shmat.restype = ctypes.c_void_p
for _ in range(10):
    at = _LIBC.shmat(_LIBC.shmget(0, 20 << 20, 0o1600), None, 0)
    ctypes.memset(at, 1, 20 << 20)
""",
    "many processes": """
import time
for _ in range(10):
    if os.fork() == 0:
        x = bytearray(20 << 20)
        time.sleep(1000)
os.wait()
""",
    "many empty files": """
for number in range(1_000_000): os.mknod(str(number))
""",
    "sockets that nobody reads": """
import socket
ends = []
while True:
    ends.append(socket.socketpair())
    ends[-1][0].setblocking(False)
    try:
        while True: ends[-1][0].send(bytes(65536))
    except BlockingIOError:
        pass
""",
    "pipes that nobody reads": """
import fcntl
ends = []
while True:
    ends.append(os.pipe())
    attempt(fcntl.fcntl, ends[-1][1], 1031, 1 << 20)
    os.set_blocking(ends[-1][1], False)
    attempt(os.write, ends[-1][1], bytes(1 << 20))
""",
}


@pytest.mark.parametrize("form", FORMS)
def test_counts(sandbox_factory: SlotFactory, form: str) -> None:
    with sandbox_factory(memory=64, execution_timeout_s=30) as slot:
        try:
            result = python(slot, SYSTEM_CALLS + FORMS[form])
        except MemoryLimitExceededError as error:  # there was nothing left to kill but the sandbox
            assert "memory limit of 64 MB" in str(error)
            return
        assert result.oom_killed
        assert not result.success or form == "many processes"


def test_does_not_hit_the_next_slot(sandbox_factory: SlotFactory) -> None:
    with sandbox_factory(memory=64) as slot:
        assert python(slot, "x = bytearray(200 << 20)").oom_killed
    with sandbox_factory(memory=64) as slot:
        result = python(slot, "x = bytearray(20 << 20); print('fits')")
        assert (result.stdout, result.oom_killed) == ("fits\n", False)

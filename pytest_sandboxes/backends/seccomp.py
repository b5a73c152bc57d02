"""The system calls that code in a sandbox may not make, as a classic BPF program.

A deny-list on top of namespaces and dropped capabilities. It closes three gaps that those leave: kernel surface that no
benchmark needs (nested user namespaces, mounts, BPF, io_uring); what namespaces do not separate (keyrings); and what a
process may do to another of its own user, by which hostile code could cripple the agent, and pass its own failure off
as the machine's.
"""

from __future__ import annotations

import errno
import platform
import struct
from functools import cache
from typing import NamedTuple

from pytest_sandboxes.errors import IsolationUnavailableError

_ALLOW = 0x7FFF0000
_RETURN_ERRNO = 0x00050000
FIRST = 1
"""The pid of an agent that is the first process of its sandbox."""
UNKNOWN = 0x7FFFFFFF
"""Stands for the pid of any other agent, which puts its own there."""

# struct seccomp_data: u32 number, u32 architecture, u64 instruction pointer, u64 arguments[6]; little-endian
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06

_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET
_X32_BIT = 0x40000000


class _Machine(NamedTuple):
    audit: int
    column: int


_MACHINES = {"x86_64": _Machine(0xC000003E, 0), "aarch64": _Machine(0xC00000B7, 1)}

# name: number on x86_64, on aarch64
_DENIED = {
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "open_by_handle_at": (304, 265),
    "syslog": (103, 116),
    "quotactl": (179, 60),
}
# calls whose argument of the given index names a process: refused for the agent
_DENIED_ON_AGENT = {
    "prlimit64": ((302, 261), 0),
    "sched_setparam": ((142, 118), 0),
    "sched_setscheduler": ((144, 119), 0),
    "sched_setaffinity": ((203, 122), 0),
    "sched_setattr": ((314, 274), 0),
    "migrate_pages": ((256, 238), 0),
    "move_pages": ((279, 239), 0),
}
# (which, who): refused for the agent, and for groups and users, which the agent belongs to
_PRIORITY_CALLS = {"setpriority": ((141, 140), 0), "ioprio_set": ((251, 30), 1)}
_CLONE, _CLONE3, _UNSHARE = (56, 220), (435, 435), (272, 97)
_SOCKET, _IOCTL = (41, 198), (16, 29)
_DENIED_FAMILIES = (17, 38, 40)  # AF_PACKET, AF_ALG, AF_VSOCK
_DENIED_REQUESTS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: typing on somebody's terminal
_FCNTL = (72, 25)
_F_SETLEASE = 1024  # whoever opens such a file, in another sandbox or outside, waits for the lease's holder


_MESSAGE_QUEUES = (240, 180)  # mq_open


@cache
def program(architecture: str = "", *, agent: int = FIRST, message_queues: bool = True) -> bytes:
    """The filter for an architecture as `uname -m` calls it, by default this machine's.

    `agent` is the pid of the agent, in the sandbox. Without `message_queues`, code opens none: they are for sandboxes
    in which it could be seen what is left of them.

    Raises `IsolationUnavailableError` for one that it is not written for.
    """
    architecture = architecture or platform.machine()
    machine = _MACHINES.get(architecture)
    if machine is None:
        raise IsolationUnavailableError(
            f"there is no system call filter for {architecture} machines, only for {' and '.join(_MACHINES)}: use "
            "another backend, or --sandbox-isolation none for trusted code"
        )
    build = _Builder()
    build.add(_LOAD, _ARCHITECTURE)
    build.add(_JUMP_EQUAL, machine.audit, 1, 0)
    build.refuse(errno.ENOSYS)
    build.add(_LOAD, _NUMBER)
    if machine.column == 0:
        build.add(_JUMP_AT_LEAST, _X32_BIT, 0, 1)
        build.refuse(errno.ENOSYS)
    column = machine.column
    for numbers in (*_DENIED.values(), *(() if message_queues else (_MESSAGE_QUEUES,))):
        build.add(_JUMP_EQUAL, numbers[column], 0, 1)
        build.refuse(errno.EPERM)
    # its flags lie behind a pointer, out of a filter's sight; libc falls back to clone
    build.add(_JUMP_EQUAL, _CLONE3[column], 0, 1)
    build.refuse(errno.ENOSYS)
    for numbers in (_CLONE, _UNSHARE):
        build.refuse_if(numbers[column], 0, [(_JUMP_ANY_BIT, _NEW_NAMESPACES)])
    build.refuse_if(_SOCKET[column], 0, [(_JUMP_EQUAL, family) for family in _DENIED_FAMILIES])
    build.refuse_if(_IOCTL[column], 1, [(_JUMP_EQUAL, request) for request in _DENIED_REQUESTS])
    build.refuse_if(_FCNTL[column], 1, [(_JUMP_EQUAL, _F_SETLEASE)])
    for numbers, index in _DENIED_ON_AGENT.values():
        build.refuse_if(numbers[column], index, [(_JUMP_EQUAL, agent)])
    for numbers, process_kind in _PRIORITY_CALLS.values():
        build.refuse_if(numbers[column], 1, [(_JUMP_EQUAL, agent)])
        build.refuse_unless(numbers[column], 0, process_kind)
    build.add(_RETURN, _ALLOW)
    return build.code()


class _Builder:
    def __init__(self) -> None:
        self._instructions: list[tuple[int, int, int, int]] = []

    def add(self, code: int, operand: int, if_true: int = 0, if_false: int = 0) -> None:
        self._instructions.append((code, if_true, if_false, operand & 0xFFFFFFFF))

    def refuse(self, number: int) -> None:
        self.add(_RETURN, _RETURN_ERRNO | number)

    def refuse_if(self, call: int, argument: int, tests: list[tuple[int, int]]) -> None:
        """Refuse `call` when any test holds for the low half of its argument; the call's number is loaded after."""
        self.add(_JUMP_EQUAL, call, 0, len(tests) + 3)
        self.add(_LOAD, _FIRST_ARGUMENT + 8 * argument)
        for left, (code, operand) in zip(range(len(tests), 0, -1), tests, strict=True):
            self.add(code, operand, left - 1, 0 if left > 1 else 1)
        self.refuse(errno.EPERM)
        self.add(_LOAD, _NUMBER)

    def refuse_unless(self, call: int, argument: int, wanted: int) -> None:
        """Refuse `call` unless its argument is `wanted`."""
        self.add(_JUMP_EQUAL, call, 0, 4)
        self.add(_LOAD, _FIRST_ARGUMENT + 8 * argument)
        self.add(_JUMP_EQUAL, wanted, 1, 0)
        self.refuse(errno.EPERM)
        self.add(_LOAD, _NUMBER)

    def code(self) -> bytes:
        return b"".join(struct.pack("HBBI", *instruction) for instruction in self._instructions)

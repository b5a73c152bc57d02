"""What the agent gives up for itself and all that it starts, where its launcher could not do it."""

from __future__ import annotations

import os
import struct

from pytest_sandboxes.agent import processes

_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_SETS = ("CapEff", "CapPrm", "CapInh")  # in the order in which the kernel takes them
NET_ADMIN = 12
SYS_NICE = 23
_INSTRUCTION = 8  # bytes, the last four of them the operand
_THIS_PROCESS = b"\xff\xff\xff\x7f"
"""An operand that stands for this process's id."""
_CAPABILITIES = 64  # more than there are


def refuse_calls(program: bytes) -> None:
    """Have the kernel refuse system calls by a filter, an array of `struct sock_filter`, little-endian.

    Raises OSError when it takes none.
    """
    import ctypes

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    library = ctypes.CDLL(None, use_errno=True)
    instructions = [program[at : at + _INSTRUCTION] for at in range(0, len(program), _INSTRUCTION)]
    own = os.getpid().to_bytes(4, "little")
    program = b"".join(each[:4] + own if each[4:] == _THIS_PROCESS else each for each in instructions)
    whole = Program(len(instructions), program)
    filter_mode = ctypes.c_ulong(_SECCOMP_MODE_FILTER)
    if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or library.prctl(
        _PR_SET_SECCOMP, filter_mode, ctypes.byref(whole)
    ):
        raise OSError(ctypes.get_errno(), "the kernel takes no system call filter")


def bound_capabilities() -> None:
    """Have no program that is executed from here on gain any capability, whatever its file says."""
    for capability in range(_CAPABILITIES):
        processes.call_library(
            "prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0
        )  # an error says: no such capability
    _keep(inheritable=0)


def give_up(capability: int) -> None:
    """Have neither this process nor any that it starts ever have a capability again, given by its number.

    Raises OSError, with the capability perhaps still there, when the kernel does not take it away.
    """
    processes.call_library("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
    _keep(~(1 << capability), ~(1 << capability))
    if any(_capabilities()[name] >> capability & 1 for name in _SETS):
        raise OSError(f"the kernel does not take capability {capability} away")


def _keep(own: int = -1, inheritable: int = -1) -> None:
    """Give up what is not in these masks; what the kernel makes of it has to be looked at."""
    sets = _capabilities()
    kept = [sets[name] & (inheritable if name == "CapInh" else own) for name in _SETS]
    low, high = ([each >> shift & 0xFFFFFFFF for each in kept] for shift in (0, 32))
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    processes.call_library("capset", header, struct.pack("=6I", *low, *high))


def _capabilities() -> dict[str, int]:
    """The capability sets of this process, by the kernel's names for them."""
    with open("/proc/self/status", "rb", 0) as file:
        lines = file.read(16384).decode("ascii", "replace").splitlines()
    return {line[:6]: int(line[8:], 16) for line in lines if line.startswith("Cap")}

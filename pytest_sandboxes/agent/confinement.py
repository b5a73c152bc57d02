"""What the agent gives up for itself and all that it starts, where its launcher could not do it."""

from __future__ import annotations

from pytest_sandboxes.agent import processes

_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_INSTRUCTION = 8  # bytes
_CAPABILITIES = 64  # more than there are


def refuse_calls(program: bytes) -> None:
    """Have the kernel refuse system calls by a filter, an array of `struct sock_filter`.

    Raises OSError when it takes none.
    """
    import ctypes

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    library = ctypes.CDLL(None, use_errno=True)
    whole = Program(len(program) // _INSTRUCTION, program)
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

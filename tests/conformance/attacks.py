"""System calls for code that runs in a slot, by number: libc has no wrappers for most of them."""

from __future__ import annotations

NUMBERS = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clone": (56, 220),
    "clone3": (435, 435),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "finit_module": (313, 273),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
"""Number on x86_64, and on aarch64."""

SYSTEM_CALLS = f"""
import ctypes, errno, os, platform

_COLUMN = ("x86_64", "aarch64").index(platform.machine())
_NUMBERS = {NUMBERS!r}
_LIBC = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    '''The name of the error that a system call ends in, or its result.'''
    words = [word if isinstance(word, (bytes, ctypes._SimpleCData)) else ctypes.c_long(word) for word in arguments]
    ctypes.set_errno(0)
    result = _LIBC.syscall(ctypes.c_long(_NUMBERS[name][_COLUMN]), *words)
    return errno.errorcode[ctypes.get_errno()] if result == -1 else result

def attempt(function, *arguments):
    '''The name of the error that a call ends in, or its result.'''
    try:
        return function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
"""
"""What `call` and `attempt` are, for code that runs in a slot."""

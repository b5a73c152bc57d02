"""Kernel interfaces that no benchmark needs, and by which code gets out of its place: they are closed."""

from __future__ import annotations

import platform

import pytest

from pytest_sandboxes import Slot
from tests.conformance.attacks import SYSTEM_CALLS
from tests.conformance.capabilities import Capability
from tests.conformance.helpers import python

pytestmark = pytest.mark.needs(Capability.ISOLATION)

NAMESPACES = {
    "cgroup": 0x02000000,
    "ipc": 0x08000000,
    "mount": 0x00020000,
    "net": 0x40000000,
    "pid": 0x20000000,
    "user": 0x10000000,
    "uts": 0x04000000,
}


def said(slot: Slot, code: str) -> str:
    result = python(slot, SYSTEM_CALLS + code)
    assert result.stderr == ""
    return result.stdout.strip()


@pytest.mark.needs(Capability.PYTHON)
@pytest.mark.parametrize(
    "call",
    [
        # keyrings are not separated by namespaces
        'call("add_key", b"user", b"name", b"secret", 6, -4)',
        'call("request_key", b"user", b"name", 0, -4)',
        'call("keyctl", 0, -3, 1)',
        'call("keyctl", 1, b"joined")',
        'call("keyctl", 11, -4, 0, 0)',
        # file systems
        'call("mount", b"none", b"/tmp", b"tmpfs", 0, 0)',
        'call("mount", b"/tmp", b"/tmp", 0, 4096, 0)',
        'call("umount2", b"/tmp", 2)',
        'call("pivot_root", b"/tmp", b"/tmp")',
        'call("open_tree", -100, b"/", 1)',
        'call("move_mount", -1, b"", -100, b"/tmp", 4)',
        'call("fsopen", b"tmpfs", 0)',
        'call("fsmount", 0, 0, 0)',
        'call("mount_setattr", -100, b"/", 0, bytes(32), 32)',
        'call("open_by_handle_at", -100, bytes(16), 0)',
        'call("swapon", b"/tmp/x", 0)',
        'call("quotactl", 0, 0, 0, 0)',
        "attempt(os.chroot, '/tmp')",
        # programs in the kernel, and windows into it
        'call("bpf", 0, bytes(128), 128)',
        'call("perf_event_open", bytes(128), 0, -1, -1, 0)',
        'call("userfaultfd", 1)',
        'call("io_uring_setup", 8, bytes(120))',
        'call("io_uring_enter", 0, 0, 0, 0, 0, 0)',
        'call("io_uring_register", 0, 0, 0, 0)',
        'call("init_module", bytes(8), 8, b"")',
        'call("finit_module", 0, b"", 0)',
        'call("kexec_load", 0, 0, 0, 0)',
        'call("syslog", 3, bytes(8), 8)',
        # other processes of the same user
        'call("ptrace", 0, 0, 0, 0)',
        'call("process_vm_readv", os.getpid(), 0, 0, 0, 0, 0)',
        # somebody's terminal
        "attempt(__import__('fcntl').ioctl, 0, 0x5412, b'x')",
        "attempt(__import__('fcntl').ioctl, 0, 0x541C, b'x')",
        # files that others have as well: whoever opened one would wait for its holder
        "attempt(__import__('fcntl').fcntl, os.open('/etc/passwd', os.O_RDONLY), 1024, 1)",
        # names and clocks of the machine
        "attempt(__import__('socket').sethostname, 'mine')",
        "attempt(__import__('time').clock_settime, 0, 0)",
    ],
)
def test_is_closed(sandbox: Slot, call: str) -> None:
    assert said(sandbox, f"print({call})") == "EPERM"


@pytest.mark.needs(Capability.PYTHON)
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_there_are_no_further_namespaces(sandbox: Slot, namespace: str) -> None:
    flag = NAMESPACES[namespace]
    assert said(sandbox, f'print(call("unshare", {flag}))') == "EPERM"
    assert said(sandbox, f'print(call("unshare", {flag | NAMESPACES["user"]}))') == "EPERM"
    assert said(sandbox, f'print(call("clone", {flag} | 17, 0, 0, 0, 0))') == "EPERM"
    assert said(sandbox, f'print(call("clone3", ({flag}).to_bytes(8, "little") + bytes(80), 88))') == "ENOSYS"
    code = (
        f"print(call('setns', os.open('/proc/self/ns/{namespace.replace('mount', 'mnt')}', os.O_RDONLY), 0))"
    )
    assert said(sandbox, code) == "EPERM"


def test_there_are_no_further_sandboxes(sandbox: Slot) -> None:
    assert not sandbox.sh("unshare --user --map-root-user true || bwrap --ro-bind / / true").success


@pytest.mark.needs(Capability.PYTHON)
@pytest.mark.parametrize(
    "family",
    [
        "socket.AF_PACKET, socket.SOCK_RAW",
        "socket.AF_ALG, socket.SOCK_SEQPACKET",
        "socket.AF_VSOCK, socket.SOCK_STREAM",
        "socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP",
    ],
)
def test_sockets_into_the_kernel_and_the_machine(sandbox: Slot, family: str) -> None:
    assert said(sandbox, f"import socket\nprint(attempt(socket.socket, {family}))") == "EPERM"


OTHER_NUMBERINGS = {
    "x32": """
ctypes.set_errno(0)
_LIBC.syscall(ctypes.c_long(0x40000000 + 39))  # getpid
print(errno.errorcode[ctypes.get_errno()])
""",
    "i386": """
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000 cd80 c3"))  # mov eax, 20 (getpid); int 0x80; ret
result = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
print(errno.errorcode[-result], flush=True)
os._exit(0)  # the page cannot be unmapped as Python would like to
""",
}


@pytest.mark.needs(Capability.PYTHON)
@pytest.mark.parametrize("numbering", OTHER_NUMBERINGS if platform.machine() == "x86_64" else ())
def test_other_numberings_of_system_calls_are_no_way_around(sandbox: Slot, numbering: str) -> None:
    assert said(sandbox, OTHER_NUMBERINGS[numbering]) == "ENOSYS"


def test_programs_gain_nothing_by_setuid_bits(sandbox: Slot) -> None:
    sandbox.sh("cp /usr/bin/id id; chmod 6755 id")
    assert sandbox.exec("./id", "-u").stdout == sandbox.exec("id", "-u").stdout
    assert "\nNoNewPrivs:\t1\n" in sandbox.exec("cat", "/proc/self/status").stdout


def test_dumped_cores_go_nowhere(sandbox: Slot) -> None:
    assert sandbox.sh("ulimit -c; ulimit -c unlimited 2>/dev/null || echo refused").stdout == "0\nrefused\n"
    assert sandbox.sh("kill -SEGV $$").returncode == -11
    assert sandbox.list_files() == []

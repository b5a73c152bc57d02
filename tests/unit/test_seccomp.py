from __future__ import annotations

import errno
import platform
import struct
import subprocess
import sys

import pytest

from pytest_sandboxes.backends import seccomp
from pytest_sandboxes.errors import IsolationUnavailableError

ALLOWED = 0
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NAMESPACES = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}


class Filter:
    """The program for a machine, run by an interpreter of its few instructions."""

    def __init__(self, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform, "machine", lambda: machine)
        self.column = list(MACHINES).index(machine)
        self.architecture = MACHINES[machine]
        self.code: list[tuple[int, int, int, int]] = list(
            struct.iter_unpack("HBBI", seccomp.program.__wrapped__())
        )

    def verdict(self, call: int, *arguments: int, architecture: int | None = None) -> int:
        """The errno that a call gets, or `ALLOWED`."""
        padded = [argument & (1 << 64) - 1 for argument in (*arguments, *[0] * (6 - len(arguments)))]
        data = struct.pack("<IIQ6Q", call, architecture or self.architecture, 0, *padded)
        accumulator = at = 0
        while True:
            operation, if_true, if_false, operand = self.code[at]
            at += 1
            if operation == 0x20:
                accumulator = int.from_bytes(data[operand : operand + 4], "little")
            elif operation == 0x06:
                if operand == 0x7FFF0000:
                    return ALLOWED
                assert operand >> 16 == 0x0005, "neither allowed nor an errno"
                return operand & 0xFFFF
            else:
                test = {
                    0x15: accumulator == operand,
                    0x35: accumulator >= operand,
                    0x45: accumulator & operand,
                }
                at += if_true if test[operation] else if_false

    def number(self, numbers: tuple[int, int]) -> int:
        """The call's number on this machine."""
        return numbers[self.column]


@pytest.fixture(params=MACHINES)
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Filter:
    return Filter(request.param, monkeypatch)


def test_every_path_through_it_ends(program: Filter) -> None:
    size = len(program.code)
    assert size < 4096, "more than the kernel takes"
    for at, (operation, if_true, if_false, _) in enumerate(program.code):
        assert operation in {0x20, 0x06, 0x15, 0x35, 0x45}
        if operation in {0x15, 0x35, 0x45}:
            assert at + 1 + max(if_true, if_false) < size
    assert program.code[-1][0] == 0x06


def test_only_what_is_on_the_list_is_refused(program: Filter) -> None:
    denied = {program.number(numbers) for numbers in seccomp._DENIED.values()}
    on_agent = {program.number(numbers) for numbers, _ in seccomp._DENIED_ON_AGENT.values()}
    priorities = {program.number(numbers) for numbers, _ in seccomp._PRIORITY_CALLS.values()}
    clone3 = program.number(seccomp._CLONE3)
    for call in range(600):
        verdict = program.verdict(call)
        if call in denied:
            assert verdict == errno.EPERM
        elif call == clone3:
            assert verdict == errno.ENOSYS, "libc would not fall back to clone"
        elif call not in priorities:
            assert verdict == ALLOWED
    assert not denied & on_agent


@pytest.mark.parametrize("name", NAMESPACES)
def test_no_new_namespaces(program: Filter, name: str) -> None:
    thread = 0x003D0F00  # what pthread_create asks for
    for numbers in (seccomp._CLONE, seccomp._UNSHARE):
        call = program.number(numbers)
        assert program.verdict(call, NAMESPACES[name]) == errno.EPERM
        assert program.verdict(call, NAMESPACES[name] | thread) == errno.EPERM
        assert program.verdict(call, thread) == ALLOWED
        assert program.verdict(call, 17) == ALLOWED
    assert program.verdict(program.number(seccomp._CLONE), 17, NAMESPACES[name]) == ALLOWED, (
        "a stack, not a flag"
    )


def test_sockets_of_rare_families_and_typing_on_terminals(program: Filter) -> None:
    socket_call, ioctl = program.number(seccomp._SOCKET), program.number(seccomp._IOCTL)
    refused = [family for family in range(64) if program.verdict(socket_call, family)]
    assert refused == [17, 38, 40]
    for request, verdict in (
        (0x5412, errno.EPERM),
        (0x541C, errno.EPERM),
        (0x5413, ALLOWED),
        (0x5401, ALLOWED),
    ):
        assert program.verdict(ioctl, 1, request) == verdict
        assert program.verdict(ioctl, 1, request | 1 << 32) == verdict, (
            "the kernel looks at the low half only"
        )


def test_leases_of_files_and_none_but_them(program: Filter) -> None:
    fcntl = program.number(seccomp._FCNTL)
    assert [command for command in range(2048) if program.verdict(fcntl, 3, command)] == [1024]


@pytest.mark.parametrize("name", seccomp._DENIED_ON_AGENT)
def test_the_agent_cannot_be_crippled(program: Filter, name: str) -> None:
    numbers, index = seccomp._DENIED_ON_AGENT[name]
    call = program.number(numbers)
    for pid, verdict in (
        (1, errno.EPERM),
        (1 | 1 << 32, errno.EPERM),
        (0, ALLOWED),
        (2, ALLOWED),
        (11, ALLOWED),
    ):
        assert program.verdict(call, *[7] * index, pid) == verdict


@pytest.mark.parametrize("name", seccomp._PRIORITY_CALLS)
def test_priorities_of_ones_own_processes_only(program: Filter, name: str) -> None:
    numbers, one_process = seccomp._PRIORITY_CALLS[name]
    call = program.number(numbers)
    for kind in range(-1, 5):
        for who in (0, 1, 2):
            verdict = ALLOWED if kind == one_process and who != 1 else errno.EPERM
            assert program.verdict(call, kind, who, 5) == verdict


def test_no_way_around_by_another_architecture(program: Filter) -> None:
    for architecture in (0x40000003, 0x40000028, 0):  # i386, arm
        assert program.verdict(1, architecture=architecture or 1) == errno.ENOSYS
    if program.architecture == MACHINES["x86_64"]:
        for call in (0x40000000, 0x40000000 + 250, 0xFFFFFFFF):
            assert program.verdict(call) == errno.ENOSYS


def test_a_machine_without_a_list_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(
        IsolationUnavailableError, match=r"no system call filter for riscv64 machines.*another backend"
    ):
        seccomp.program.__wrapped__()


UNDER_FILTER = """
import ctypes, os, struct, sys
code = sys.stdin.buffer.read()
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(code)
program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0  # PR_SET_SECCOMP, filter
for call in sys.argv[1:]:
    ctypes.set_errno(0)
    failed = libc.syscall(*map(int, call.split(","))) == -1
    print(ctypes.get_errno() if failed else 0)
print(os.waitstatus_to_exitcode(os.system("exit 5")))
"""


def test_the_kernel_takes_it_and_keeps_to_it() -> None:
    column = list(MACHINES).index(platform.machine())
    calls = [
        f"{seccomp._UNSHARE[column]},{NAMESPACES['user']}",
        f"{seccomp._DENIED['keyctl'][column]},0,0",
        f"{seccomp._DENIED['ptrace'][column]},0",
        f"{seccomp._CLONE3[column]},0,0",
        f"{seccomp._SOCKET[column]},17,3,0",
        f"{seccomp._SOCKET[column]},1,1,0",
    ]
    said = subprocess.run(
        [sys.executable, "-ISc", UNDER_FILTER, *calls],
        input=seccomp.program(),
        capture_output=True,
        check=True,
    ).stdout.split()
    refused, missing = errno.EPERM, errno.ENOSYS
    assert [int(each) for each in said[:5]] == [refused, refused, refused, missing, refused]
    assert [int(each) for each in said[5:]] == [0, 5], "sockets and shells work"

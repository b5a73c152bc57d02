"""Attacks on what works on behalf of the test: the agent (process 1), supervisors of commands, file workers.

Code that cannot break the answer might try to break the one who gives it. Whatever it does, later commands work, no
return code and no output is anybody else's, and the sandbox is not lost, because that would not count as a failure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from pytest_sandboxes import ExecResult, ExecTimeoutError, Slot
from tests.conformance.attacks import SYSTEM_CALLS
from tests.conformance.capabilities import Capability
from tests.conformance.helpers import GENEROUS, python, start_python

pytestmark = pytest.mark.needs(Capability.ISOLATION, Capability.PYTHON)


@pytest.fixture(autouse=True)
def _the_slot_works_afterwards(sandbox: Slot) -> Iterator[None]:
    yield
    assert sandbox.exec("cat", input="still here").stdout == "still here"
    sandbox.write_text("file", "works")
    assert sandbox.read_text("file") == "works"
    process = sandbox.popen("cat")
    process.write("as well\n")
    assert process.stdout.readline(GENEROUS) == "as well\n"


def attack(slot: Slot, code: str, *arguments: str) -> ExecResult:
    result = python(slot, SYSTEM_CALLS + code, *arguments, timeout=GENEROUS)
    assert result.stderr == ""
    return result


class TestProcessOne:
    def test_ignores_every_signal_however_sent(self, sandbox: Slot) -> None:
        code = """
info = ctypes.create_string_buffer(128)
pidfd = call("pidfd_open", 1, 0)
for number in range(1, 65):
    attempt(os.kill, 1, number)
    call("tkill", 1, number)
    call("tgkill", 1, 1, number)
    info.raw = number.to_bytes(4, "little") + bytes(4) + (-1).to_bytes(4, "little", signed=True) + bytes(116)
    call("rt_sigqueueinfo", 1, number, info.raw)
    call("rt_tgsigqueueinfo", 1, 1, number, info.raw)
    call("pidfd_send_signal", pidfd, number, 0, 0)
print("done")
"""
        assert attack(sandbox, code).stdout == "done\n"

    def test_survives_a_storm_of_the_signal_that_it_does_listen_to(self, sandbox: Slot) -> None:
        storm = start_python(
            sandbox, "import os\nprint('storm', flush=True)\nwhile True: os.kill(1, 17)", until="storm"
        )
        for number in range(50):
            assert sandbox.sh(f"exit {number}").returncode == number
        storm.kill()

    @pytest.mark.parametrize(
        "call",
        [
            *(f'call("prlimit64", 1, {resource}, bytes(16), 0)' for resource in range(16)),
            *(f'call("prlimit64", (1 << 32) + 1, {resource}, bytes(16), 0)' for resource in (7, 9)),
            'call("setpriority", 0, 1, 19)',
            'call("setpriority", 1, 1, 19)',
            'call("setpriority", 1, os.getpgid(0), 19)',
            'call("setpriority", 2, os.getuid(), 19)',
            'call("setpriority", 2, 0, 19)',
            'call("ioprio_set", 1, 1, 3 << 13)',
            'call("ioprio_set", 3, os.getuid(), 3 << 13)',
            'call("sched_setaffinity", 1, 8, (1).to_bytes(8, "little"))',
            'call("sched_setscheduler", 1, 5, bytes(4))',
            'call("sched_setparam", 1, bytes(4))',
            'call("sched_setattr", 1, (48).to_bytes(4, "little") + (5).to_bytes(4, "little") + bytes(40), 0)',
            'call("migrate_pages", 1, 64, bytes(8), bytes(8))',
            'call("move_pages", 1, 0, 0, 0, 0, 0)',
            'call("ptrace", 16, 1, 0, 0)',
            'call("ptrace", 0x4206, 1, 0, 0)',
            'call("process_vm_readv", 1, 0, 0, 0, 0, 0)',
            'call("process_vm_writev", 1, 0, 0, 0, 0, 0)',
            'call("pidfd_getfd", call("pidfd_open", 1, 0), 0, 0)',
            'call("process_madvise", call("pidfd_open", 1, 0), 0, 0, 21, 0)',
            'call("process_mrelease", call("pidfd_open", 1, 0), 0)',
            'call("kcmp", 1, 1, 0, 0, 0)',
        ],
    )
    def test_cannot_be_crippled(self, sandbox: Slot, call: str) -> None:
        assert attack(sandbox, f"print({call})").stdout == "EPERM\n"

    def test_shows_nothing_of_itself(self, sandbox: Slot) -> None:
        code = """
for name in ("auxv", "environ", "maps", "mem", "pagemap", "personality", "smaps", "stack", "syscall", "clear_refs"):
    for flags in (os.O_RDONLY, os.O_WRONLY):
        opened = attempt(os.open, f"/proc/1/{name}", flags)
        if isinstance(opened, int) and attempt(os.read, opened, 1) not in (b"", "EBADF", "EPERM", "EIO"):
            print("opened", name, flags)
for name in ("fd", "fdinfo", "map_files", "ns"):
    if isinstance(attempt(os.listdir, f"/proc/1/{name}"), list) and attempt(os.listdir, f"/proc/1/{name}"):
        for each in os.listdir(f"/proc/1/{name}"):
            if isinstance(attempt(os.open, f"/proc/1/{name}/{each}", os.O_RDONLY), int):
                print("opened", name, each)
for name in ("cwd", "exe", "root"):
    print(attempt(os.readlink, f"/proc/1/{name}"), attempt(os.open, f"/proc/1/{name}", os.O_RDONLY))
"""
        assert attack(sandbox, code).stdout == "EACCES EACCES\n" * 3

    def test_takes_no_orders_from_files(self, sandbox: Slot) -> None:
        code = """
for folder, _, names in os.walk("/proc/1"):
    for name in names:
        opened = attempt(os.open, os.path.join(folder, name), os.O_WRONLY)
        if isinstance(opened, int):
            for order in (b"0", b"1", b"1000", b"-1000", b"x"):
                if isinstance(attempt(os.write, opened, order), int):
                    print("wrote", order, "to", folder, name)
"""
        assert attack(sandbox, code).stdout == ""


class TestDescriptors:
    """A channel to the test's side would be worth most: whoever holds it answers."""

    @pytest.mark.parametrize("neighbour", [False, True], ids=["alone", "beside a popen"])
    def test_of_a_command_are_its_own_three(self, sandbox: Slot, *, neighbour: bool) -> None:
        process = sandbox.popen("cat") if neighbour else None
        code = """
for name in sorted(os.listdir("/proc/self/fd"))[:-1]:
    print(name, os.readlink(f"/proc/self/fd/{name}").partition(":")[0])
"""
        assert attack(sandbox, code).stdout == "0 /dev/null\n1 pipe\n2 pipe\n"
        if process is not None:
            started = sandbox.popen("python3", "-I", "-S", "-c", SYSTEM_CALLS + code)
            assert list(started.stdout) == ["0 pipe\n", "1 pipe\n", "2 pipe\n"]

    def test_of_others_that_hold_more_cannot_be_reached(self, sandbox: Slot) -> None:
        sandbox.popen("sleep", "1000")
        code = """
import time
reached, end = 0, time.monotonic() + 0.5
while time.monotonic() < end:
    for process in filter(str.isdigit, os.listdir("/proc")):
        for name in attempt(os.listdir, f"/proc/{process}/fd") or ():
            if "socket" in str(attempt(os.readlink, f"/proc/{process}/fd/{name}")):
                print("reached", process, name)
        reached += 1
print(reached > 0)
"""
        hostile = sandbox.popen("python3", "-I", "-S", "-c", SYSTEM_CALLS + code)
        for _ in range(20):  # with supervisors and file workers coming and going
            sandbox.write_bytes("file", bytes(100_000))
            sandbox.exec("true")
            sandbox.read_bytes("file")
        assert list(hostile.stdout) == ["True\n"]


class TestSupervisors:
    """A command beside others has one of them as its parent, under the same user."""

    @pytest.mark.parametrize("number", [1, 2, 3, 6, 9, 10, 13, 14, 15, 17, 24, 25, 31])
    def test_a_command_that_kills_its_own_does_not_succeed_by_it(self, sandbox: Slot, number: int) -> None:
        sandbox.popen("sleep", "1000")
        result = sandbox.sh(f"kill -{number} $PPID; sleep 0.2; exit 7", timeout=GENEROUS)
        assert result.returncode in (7, -9)

    def test_a_command_that_stops_its_own_runs_into_its_deadline(self, sandbox: Slot) -> None:
        sandbox.popen("sleep", "1000")
        with pytest.raises(ExecTimeoutError) as caught:
            sandbox.sh("kill -STOP $PPID; echo out", timeout=2)
        assert caught.value.result.stdout == "out\n"
        assert caught.value.result.returncode != 0

    def test_nothing_of_a_command_survives_that_has_killed_its_own(self, sandbox: Slot) -> None:
        sandbox.popen("sleep", "1000")
        result = sandbox.sh(
            "(while :; do date +%N > beat; done) & until test -s beat; do sleep 0.01; done; kill -9 $PPID; sleep 1000"
        )
        assert result.returncode == -9
        last = sandbox.read_bytes("beat")
        sandbox.exec("sleep", "0.1")
        assert sandbox.read_bytes("beat") == last

    def test_their_limits_and_their_memory_are_no_way_in(self, sandbox: Slot) -> None:
        sandbox.popen("sleep", "1000")
        code = """
parent = os.getppid()
print(call("ptrace", 16, parent, 0, 0), attempt(os.open, f"/proc/{parent}/mem", os.O_RDWR), flush=True)
for resource in range(16):
    call("prlimit64", parent, resource, bytes(16), 0)
os._exit(7)
"""
        result = python(sandbox, SYSTEM_CALLS + code, timeout=GENEROUS)
        assert result.stdout == "EPERM EACCES\n"
        assert result.returncode in (7, -9)


KILLER = """
import os, sys, time
number, seconds = int(sys.argv[1]), float(sys.argv[2])
end = time.monotonic() + seconds
print("hostile", flush=True)
own = os.getpid(), os.getppid()
while time.monotonic() < end:
    for process in filter(str.isdigit, os.listdir("/proc")):
        if int(process) not in own:
            try:
                os.kill(int(process), number)
            except OSError:
                pass
"""


class TestHostilePopen:
    """Code that runs all the time, beside what the test does."""

    @pytest.mark.parametrize("number", [2, 9, 15])
    def test_that_kills_all_it_sees(self, sandbox: Slot, number: int) -> None:
        hostile = start_python(sandbox, KILLER, str(number), "1000", until="hostile")
        for _ in range(30):
            content = b"right" * 10_000
            try:
                sandbox.write_bytes("file", content)
                assert sandbox.read_bytes("file") == content
            except OSError:
                pass
            result = sandbox.sh("echo whole; exit 7", timeout=GENEROUS)
            assert result.returncode in (7, -number, -9)
            assert result.stdout in ("", "whole\n")
        hostile.kill()

    def test_that_stops_all_it_sees(self, sandbox: Slot) -> None:
        hostile = start_python(sandbox, KILLER, "19", "1000", until="hostile")
        for _ in range(3):
            try:
                assert sandbox.sh("exit 7", timeout=0.3).returncode == 7
            except ExecTimeoutError as timeout:
                assert timeout.result.returncode != 0
        hostile.kill()

    def test_that_has_stopped_what_works_on_files(self, sandbox: Slot) -> None:
        sandbox.write_bytes("file", bytes(20 << 20))
        hostile = start_python(sandbox, KILLER, "19", "0.3", until="hostile")
        while hostile.poll() is None:
            assert len(sandbox.read_bytes("file")) == 20 << 20

    def test_that_limits_all_it_sees(self, sandbox: Slot) -> None:
        code = """
print("hostile", flush=True)
own = os.getpid(), os.getppid()
while True:
    for process in filter(str.isdigit, os.listdir("/proc")):
        if int(process) not in own:
            call("prlimit64", int(process), 1, (1000).to_bytes(8, "little") * 2, 0)  # file size
            call("prlimit64", int(process), 9, (1 << 20).to_bytes(8, "little") * 2, 0)  # address space
"""
        hostile = start_python(sandbox, SYSTEM_CALLS + code, until="hostile")
        content = bytes(range(256)) * 4000
        for _ in range(30):
            try:
                sandbox.write_bytes("file", content)
            except OSError:
                continue
            with contextlib.suppress(OSError):
                assert sandbox.read_bytes("file") == content
        hostile.kill()

    def test_that_takes_all_processes_there_may_be(self, sandbox: Slot) -> None:
        code = """
while True:
    child = attempt(os.fork)
    if child == "EAGAIN":
        break
    if child == 0:
        time.sleep(1000)
print("full", flush=True)
time.sleep(1000)
"""
        hostile = start_python(sandbox, f"import time\n{SYSTEM_CALLS}{code}", until="full")
        for call in (
            lambda: sandbox.exec("true"),
            lambda: sandbox.popen("true"),
        ):
            with pytest.raises(OSError, match="Resource temporarily unavailable"):
                call()
        with pytest.raises(OSError, match="Resource temporarily unavailable|No such file"):
            sandbox.read_bytes("x")  # the worker may not be one of the code's processes
        hostile.kill()
        assert hostile.wait(GENEROUS) == -9

    def test_that_writes_as_fast_as_it_can(self, sandbox: Slot) -> None:
        flood = start_python(
            sandbox, "print('hostile', flush=True)\nwhile True: print('x' * 100_000)", until="hostile"
        )
        for number in range(20):
            assert sandbox.sh(f"exit {number}").returncode == number
        flood.kill()

    def test_that_hands_its_descriptors_around(self, sandbox: Slot) -> None:
        # in flight between sockets, a pipe outlives the process that had it
        code = """
import array, socket
ends = socket.socketpair()
ends[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1, 2, ends[1].fileno()]))])
print("sent", flush=True)
"""
        for neighbour in range(2):
            result = python(sandbox, SYSTEM_CALLS + code, timeout=GENEROUS)
            assert (result.stdout, result.returncode) == ("sent\n", 0)
            sandbox.popen("sleep", str(1000 + neighbour))

"""Two slots of one lease, in one sandbox where those have several: one of them is out to harm or to rob the other."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import pytest

from pytest_sandboxes import ExecTimeoutError, Slot
from tests.conformance.attacks import SYSTEM_CALLS
from tests.conformance.capabilities import Capability
from tests.conformance.helpers import DAEMON, GENEROUS, SlotFactory, python, start, start_python
from tests.conformance.leftovers import Leftovers

pytestmark = pytest.mark.needs(Capability.ISOLATION, Capability.PYTHON)

Pair = tuple[Slot, Slot]
_OPEN_ALL = 'chmod 777 . .. "$HOME" "$TMPDIR" 2>/dev/null; true'
"""What careless code does to what is its own."""


@pytest.fixture
def pair(sandbox_factory: SlotFactory, promised: frozenset[Capability]) -> Iterator[Pair]:
    """Two slots of one lease, as near to each other as they get."""
    has_neighbours = Capability.OWN_SANDBOX not in promised
    # the first may be the last one of a sandbox that others are in: the other two are in the next then
    with sandbox_factory(slots=3 if has_neighbours else 2) as slots:
        assert isinstance(slots, tuple)
        pairs = [pair for pair in combinations(slots, 2) if (pair[0].name == pair[1].name) is has_neighbours]
        assert pairs
        yield pairs[0]


@pytest.fixture
def victim(pair: Pair) -> Slot:
    """The one that is attacked."""
    return pair[0]


@pytest.fixture
def attacker(pair: Pair) -> Slot:
    """The one that attacks."""
    return pair[1]


def attack(slot: Slot, code: str, *arguments: str) -> str:
    result = python(slot, SYSTEM_CALLS + code, *arguments, timeout=GENEROUS)
    assert result.stderr == ""
    return result.stdout.strip()


# -- files


def test_files_are_out_of_reach_whatever_their_owner_opens(victim: Slot, attacker: Slot) -> None:
    victim.write_text("answer", "42", mode=0o666)
    victim.write_text("folder/file", "x", mode=0o666)
    home, temporary = victim.sh(
        "touch $HOME/kept $TMPDIR/kept; chmod 666 $HOME/kept; echo $HOME; echo $TMPDIR"
    ).stdout.split()
    victim.sh(_OPEN_ALL)
    # as the victim sees them; where the sandbox is another, the same names are the attacker's own
    marks = [f"{victim.workspace}/answer", f"{victim.workspace}/folder/file", f"{home}/kept"]
    code = """
import sys
for path in sys.argv[1:]:
    for act in (
        lambda: open(path).read(),
        lambda: open(path, "w").write("forged"),
        lambda: os.rename(path, path + "-moved"),
        lambda: os.unlink(path),
        lambda: os.link(path, "mine"),
        lambda: os.listdir(os.path.dirname(path)),
        lambda: os.chmod(os.path.dirname(path), 0o777),
        lambda: os.symlink("/etc/passwd", os.path.join(os.path.dirname(path), "planted")),
        lambda: os.stat(path),
    ):
        found = attempt(act)
        if found not in ("EACCES", "EPERM", "ENOENT", "EROFS", None, []) and "kept" not in str(found):
            print(path, found)
"""
    if victim.name == attacker.name:
        assert attack(attacker, code, *marks) == ""
        for path in marks:
            with pytest.raises((PermissionError, FileNotFoundError)):
                attacker.read_bytes(path)
            with pytest.raises((PermissionError, FileNotFoundError)):
                attacker.write_text(path, "forged")
            with pytest.raises((PermissionError, FileNotFoundError)):
                attacker.list_files(path.rpartition("/")[0])
    assert victim.read_text("answer") == "42"
    assert victim.read_text("folder/file") == "x"
    assert [each.path for each in victim.list_files()] == ["answer", "folder"]
    assert temporary.startswith("/")


@pytest.mark.parametrize("place", ["/tmp", "/var/tmp", "/dev/shm"])
def test_what_is_in_places_for_everybody_is_its_owners(victim: Slot, attacker: Slot, place: str) -> None:
    victim.sh(
        f"echo 42 > {place}/mine; chmod 600 {place}/mine; mkdir -m 700 {place}/folder; echo 42 > {place}/folder/mine",
        check=True,
    )
    attacker.sh(
        f"rm -rf {place}/mine {place}/folder; mv {place}/folder {place}/gone; cat {place}/mine > read; "
        f"echo forged > {place}/mine; chmod -R 777 {place}/folder; rmdir {place}; mv {place} /gone"
    )
    assert victim.sh(f"cat {place}/mine {place}/folder/mine").stdout == "42\n42\n"
    assert "42" not in attacker.read_text("read")


# -- processes

_PROBE = """
import signal
def user_of(pid):  # not the owner of its directory, which is root's where it cannot be traced
    try:
        lines = open(f"/proc/{pid}/status").read().splitlines()
    except OSError:  # gone
        return None
    return next(int(line.split()[1]) for line in lines if line.startswith("Uid:"))
def read_some(path):
    with open(path, "rb", 0) as file:
        return file.read(1)
for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
    # a child of the agent's that is still root may be on its way to become this user's own
    if user_of(pid) in (None, os.getuid()) or (user_of(pid) == 0 and pid != 1):
        continue
    for number in (0, signal.SIGSTOP, signal.SIGKILL):
        print("kill", attempt(os.kill, pid, number))
    print("ptrace", call("ptrace", 16, pid, 0, 0))
    print("vm", call("process_vm_readv", pid, 0, 0, 0, 0, 0))
    print("prlimit", call("prlimit64", pid, 7, b"\\0" * 16, 0))
    print("affinity", call("sched_setaffinity", pid, 8, b"\\1" + b"\\0" * 7))
    print("nice", call("setpriority", 0, pid, 19))
    descriptor = call("pidfd_open", pid, 0)
    if isinstance(descriptor, int):
        print("pidfd signal", call("pidfd_send_signal", descriptor, 9, 0, 0))
        print("pidfd getfd", call("pidfd_getfd", descriptor, 1, 0))
    for entry in ("mem", "environ", "maps", "fd/1", "cwd/x", "root/x", "auxv", "stack", "io"):
        print(entry, attempt(read_some, f"/proc/{pid}/{entry}") or "ESRCH")  # the maps of the dead can be opened
    for entry in ("oom_score_adj", "comm", "clear_refs"):
        print("write", entry, attempt(lambda: open(f"/proc/{pid}/{entry}", "w").write("1")))
print("all", attempt(os.kill, -1, 0))
"""


def test_processes_are_out_of_reach(victim: Slot, attacker: Slot) -> None:
    with start(
        victim, "echo ready; read line; echo alive; sleep 1000", env={"SECRET": "42"}, until="ready"
    ) as running:
        said = attack(attacker, _PROBE).splitlines()
        allowed = {"EPERM", "EACCES", "ENOENT", "ESRCH", "EINVAL", "ENOSYS"}
        assert {line.split()[-1] for line in said if not line.startswith("all")} <= allowed, said
        running.write("go\n")
        assert running.stdout.readline(GENEROUS) == "alive\n"


def test_the_end_of_an_exec_is_its_own_slots(victim: Slot, attacker: Slot, leftovers: Leftovers) -> None:
    with start(victim, "echo ready; exec sleep 1000", until="ready") as living:
        for _ in range(3):
            attacker.sh(DAEMON, env=leftovers.env)
            assert leftovers.count() == 0
        with pytest.raises(ExecTimeoutError):
            attacker.sh(f"{DAEMON}; sleep 1000", timeout=0.5, env=leftovers.env)
        assert leftovers.count() == 0
        beside = start(attacker, "echo ready; exec sleep 1000", until="ready")
        attacker.sh(DAEMON, env=leftovers.env)
        assert leftovers.count() == 0
        assert beside.poll() is None
        assert living.poll() is None


def test_an_exec_survives_its_neighbours_ends(victim: Slot, attacker: Slot) -> None:
    with ThreadPoolExecutor(1) as threads:
        long = threads.submit(
            victim.sh, "sh -c 'for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1; done; echo done'"
        )
        while not long.done():
            attacker.sh(DAEMON)
            attacker.reset()
        assert long.result().stdout == "done\n"


def test_orphans_of_an_exec_survive_its_neighbours_ends(victim: Slot, attacker: Slot) -> None:
    script = (
        "(setsid sh -c 'sleep 1; echo alive > said' &); until test -e said; do sleep 0.05; done; cat said"
    )
    with start(attacker, "echo ready; exec sleep 1000", until="ready"), ThreadPoolExecutor(1) as threads:
        running = threads.submit(victim.sh, script, timeout=GENEROUS)
        while not running.done():
            attacker.sh(DAEMON)
        assert running.result().stdout == "alive\n"


# -- interprocess communication

_OBJECTS = """
libc = ctypes.CDLL(None, use_errno=True)
print(libc.shmget(4711, 4096, 0o1600), libc.semget(4711, 1, 0o1600), libc.msgget(4711, 0o1600))
print(libc.mq_open(b"/mine", os.O_CREAT | os.O_RDWR, 0o600, None))
"""
_TAKE_OBJECTS = """
import sys
libc = ctypes.CDLL(None, use_errno=True)
shm, sem, msg = map(int, sys.argv[1:])
buffer = ctypes.create_string_buffer(4096)
libc.shmat.restype = ctypes.c_void_p
print(libc.shmat(shm, None, 0) == ctypes.c_void_p(-1).value)
print(libc.shmctl(shm, 0, None), libc.semctl(sem, 0, 0, 0), libc.msgctl(msg, 0, None))
print(libc.shmget(4711, 0, 0o600), libc.semget(4711, 0, 0o600), libc.msgget(4711, 0o600))
print(libc.mq_open(b"/mine", os.O_RDWR), libc.mq_unlink(b"/mine"))
"""


def test_objects_of_interprocess_communication_are_their_owners(victim: Slot, attacker: Slot) -> None:
    ids = attack(victim, _OBJECTS).split()[:3]
    assert "-1" not in ids
    taken = attack(attacker, _TAKE_OBJECTS, *ids).split()
    assert set(taken) == {"True", "-1"}
    assert attack(victim, "print(ctypes.CDLL(None).shmget(4711, 0, 0o600))") == ids[0]


# -- greed


@pytest.mark.needs(Capability.QUOTAS)
def test_a_full_disk_is_its_own_slots(victim: Slot, attacker: Slot) -> None:
    attacker.sh("cat /dev/zero > full 2>/dev/null", timeout=GENEROUS)
    assert not attacker.sh("echo x > more").success
    victim.write_bytes("mine", bytes(1 << 20))
    assert victim.sh("echo x > more; cat more").stdout == "x\n"
    attacker.reset()
    assert attacker.sh("echo x > more; cat more").stdout == "x\n"


def test_a_fork_bomb_is_its_own_slots(victim: Slot, attacker: Slot, leftovers: Leftovers) -> None:
    attacker.popen("sh", "-c", "b() { setsid sleep 1000 & b | b & }; b; sleep 1000", env=leftovers.env)
    leftovers.appear(50)
    for _ in range(20):
        assert (
            victim.sh("for i in 1 2 3 4 5 6 7 8 9; do sh -c true & done; wait; echo fine").stdout == "fine\n"
        )
    attacker.reset()
    leftovers.vanish()  # where a reset is another sandbox, the old one is ended meanwhile
    assert attacker.sh("echo fine").stdout == "fine\n"


def test_output_without_end_is_its_own_slots(victim: Slot, attacker: Slot) -> None:
    with ThreadPoolExecutor(1) as threads:
        loud = threads.submit(attacker.sh, "head -c 10G /dev/zero", timeout=GENEROUS * 4)
        for _ in range(20):
            assert victim.exec("echo", "fine", timeout=10).stdout == "fine\n"
        result = loud.result()
    assert result.stdout_truncated
    assert result.success


def test_a_huge_reset_makes_no_neighbour_late(victim: Slot, attacker: Slot) -> None:
    files = """
for folder in range(250):  # nearly as many files as a disk of the usual size may have
    os.mkdir(f"f{folder}")
    for number in range(1000):
        os.close(os.open(f"f{folder}/{number}", os.O_CREAT | os.O_WRONLY))
"""
    attack(attacker, files)
    with ThreadPoolExecutor(1) as threads:
        reset = threads.submit(attacker.reset)
        while True:  # a deadline that is noticed more than a second late loses the sandbox
            with pytest.raises(ExecTimeoutError) as caught:
                victim.sh("sleep 1000", timeout=0.5)
            assert caught.value.result.duration < 0.5 + 1
            if reset.done():
                break
        reset.result()
    assert len(attacker.list_files()) == 0


# -- resets

_OBJECTS_OF = """
import sys
for kind in ("shm", "sem", "msg"):
    names, *rows = map(str.split, open(f"/proc/sysvipc/{kind}"))
    for row in rows:
        if sys.argv[1] in (row[names.index("uid")], row[names.index("cuid")]):
            print(kind, row)
"""


def test_a_reset_takes_what_is_its_own_and_leaves_the_neighbours(victim: Slot, attacker: Slot) -> None:
    victim.sh(
        "echo 42 > kept; echo 42 > /tmp/kept; mkdir -m 777 /tmp/open; echo 42 > /tmp/open/kept", check=True
    )
    ids = attack(victim, _OBJECTS).split()[:3]
    living = start(victim, "echo ready; read line; echo alive", until="ready")
    user = attacker.sh("id -u").stdout.strip()
    find = f"find /tmp /var/tmp /dev/shm /dev/mqueue -mindepth 1 -user {user} | sort"
    fresh = attacker.sh(find).stdout
    attacker.sh("echo x > left; mkdir -p /tmp/deep/er; echo x > /tmp/deep/er/file; echo x > /dev/shm/beside")
    attack(attacker, _OBJECTS.replace("4711", "4712").replace("/mine", "/theirs"))
    assert {"/tmp/deep/er/file", "/dev/shm/beside"} <= set(attacker.sh(find).stdout.splitlines())
    assert len(attack(attacker, _OBJECTS_OF, user).splitlines()) == 3
    attacker.reset()
    assert attacker.sh('ls -A .; ls -A "$HOME"').stdout == ""
    assert attacker.sh(find).stdout == fresh
    assert attack(attacker, _OBJECTS_OF, user) == ""
    assert victim.sh("cat kept /tmp/kept /tmp/open/kept").stdout == "42\n" * 3
    assert attack(victim, "print(ctypes.CDLL(None).shmget(4711, 0, 0o600))") == ids[0]
    living.write("go\n")
    assert living.stdout.readline(GENEROUS) == "alive\n"


def test_a_reset_finds_what_was_left_among_the_neighbours_files(
    victim: Slot, attacker: Slot, promised: frozenset[Capability]
) -> None:
    if Capability.OWN_SANDBOX in promised:
        attacker.sh("mkdir -m 777 -p /tmp/keep/deep")
    else:
        victim.sh("umask 0; mkdir -p /tmp/keep/deep", check=True)
    attacker.sh(
        "umask 0; echo x > /tmp/keep/left; mkdir -p /tmp/keep/deep/left/er; ln -s / /tmp/keep/deep/link",
        check=True,
    )
    victim.sh(
        "umask 0; for d in /tmp/keep/left.d /tmp/keep/deep/left/er; do mkdir -p $d; echo 42 > $d/theirs; done"
    )
    attacker.reset()
    left = victim.sh("find /tmp/keep | sort").stdout.split()
    mine = ["/tmp/keep", "/tmp/keep/deep", "/tmp/keep/left.d", "/tmp/keep/left.d/theirs"]
    if Capability.OWN_SANDBOX not in promised:
        assert left == mine
    assert (
        attacker.sh("find / -xdev -user $(id -u) -not -path '/proc/*' -path '*left*' 2>/dev/null").stdout
        == ""
    )


def test_a_neighbour_that_keeps_making_files_keeps_no_reset_from_ending(victim: Slot, attacker: Slot) -> None:
    victim.sh("mkdir -m 777 /tmp/race", check=True)
    with start_python(
        victim,
        """
        import os
        print("ready", flush=True)
        while True:
            for number in range(100):
                os.makedirs(f"/tmp/race/{number}/a/b", exist_ok=True)
                os.rename(f"/tmp/race/{number}", f"/tmp/race/moved-{number}") if not os.path.exists(f"/tmp/race/moved-{number}") else os.removedirs(f"/tmp/race/moved-{number}/a/b")
        """,
        until="ready",
    ):
        for _ in range(10):
            attacker.sh("touch /tmp/race/mine /tmp/mine")
            attacker.reset()
            assert attacker.sh("ls /tmp/mine /tmp/race/mine 2>/dev/null").stdout == ""


def test_processes_that_come_and_go_all_the_time_end_with_their_exec(
    victim: Slot, attacker: Slot, leftovers: Leftovers
) -> None:
    swarm = "while :; do setsid sh -c 'sleep 0.01 & setsid sleep 100 &'; done"
    for _ in range(5):
        with pytest.raises(ExecTimeoutError):
            attacker.sh(swarm, timeout=0.3, env=leftovers.env)
        assert leftovers.count() == 0
        assert victim.exec("true").success


def test_signals_to_everybody_hit_nobody_else(victim: Slot, attacker: Slot) -> None:
    with start(victim, "echo ready; read line; echo alive", until="ready") as running:
        own = start(attacker, "echo ready; exec sleep 1000", until="ready")
        attacker.sh("kill -9 -1")
        assert own.wait(GENEROUS) == -signal.SIGKILL
        assert attacker.exec("true").success
        running.write("go\n")
        assert running.stdout.readline(GENEROUS) == "alive\n"

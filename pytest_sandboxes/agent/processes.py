"""Process trees: finding them through /proc and ending them, all of them."""

from __future__ import annotations

import os
import resource
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import TracebackType
else:
    import _signal as signal  # `signal` proper pulls in enum: milliseconds of every start

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_ROUNDS = 200


_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_PIDFD_OPEN = 434  # the same on all machines; `os` has it from Python 3.9 on
_SHORTEST_TURN = 100_000  # nanoseconds, the least that the kernel takes


def call_library(function: str, *arguments: int | bytes) -> int:
    """Call a function of the C library. Raises OSError when the interpreter has no ctypes."""
    try:
        import _ctypes  # the package `ctypes` costs 3 ms, its C half a tenth of that
    except ImportError:
        raise OSError("this interpreter has no ctypes") from None
    this_program = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]
    result: int = _ctypes.call_function(_ctypes.dlsym(this_program, function), arguments)
    return result


def _prctl(option: int, value: int) -> None:
    """Call prctl(2). Raises OSError when the kernel refuses."""
    if call_library("prctl", option, value, 0, 0, 0):
        raise OSError(f"prctl({option}) failed")


def take_short_turns(*ranks: int) -> None:
    """Ask the scheduler for short turns, which come sooner than long ones; children have the usual ones.

    `ranks`: nice values, of which the first counts that this process has a right to. Of hundreds of processes with one
    rank, who has just had more than its share may wait for a second or two. Nothing changes where the kernel is older
    than 6.12, or has been told to prefer this process anyway.
    """
    number = _SCHED_SETATTR.get(os.uname().machine)
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    reset_on_fork = 1
    for nice in ranks:
        # struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period
        fields = (
            (48, 4),
            (os.SCHED_OTHER, 4),
            (reset_on_fork, 8),
            (nice, 4),
            (0, 4),
            (_SHORTEST_TURN, 8),
            (0, 8),
            (0, 8),
        )
        attributes = b"".join(value.to_bytes(size, sys.byteorder, signed=True) for value, size in fields)
        if call_library("syscall", number, 0, attributes, 0) == 0:
            break


def forbid_tracing() -> None:
    """Close /proc/<this process>/mem, /fd and the like to processes of the same user."""
    _prctl(_PR_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def parents() -> dict[int, int]:
    """Parent of every process that /proc shows.

    Zombies count: one whose first thread has ended looks just like one, and its other threads run on.
    """
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb", 0) as file:
                stat = file.read(1024)
        except OSError:
            continue
        # the command name may hold anything, parentheses and spaces included: fields start after the last ")"
        found[int(name)] = int(stat[stat.rindex(b")") + 2 :].split(None, 2)[1])
    return found


def children() -> list[int]:
    """The children of this process. Some may be missing while others come and go."""
    try:
        with open("/proc/thread-self/children", "rb", 0) as file:
            return [int(pid) for pid in b"".join(iter(lambda: file.read(4096), b"")).split()]
    except FileNotFoundError:  # a kernel without
        own = os.getpid()
        return [process for process, parent in parents().items() if parent == own]


def user_of(process: int) -> int:
    """Whose a process is; -1 if it is gone. What it may have done to the owner of its files in /proc does not count."""
    try:
        with open(f"/proc/{process}/status", "rb", 0) as file:
            status = file.read(1024)
    except OSError:
        return -1
    # the only lines before hold its name, in which the kernel escapes line ends, and numbers
    at = status.find(b"\nUid:\t")
    return int(status[at + 6 :].split(None, 1)[0]) if at >= 0 else -1


def processes_of(uid: int) -> list[int]:
    """Every process of a user that /proc shows, those included that are only to be buried."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and user_of(int(name)) == uid]


def descendants(root: int, spared: frozenset[int] = frozenset(), uid: int | None = None) -> set[int]:
    """Every descendant of `root`, without `spared` processes and what is below them.

    `uid`: only those whose line begins with a process of that user.
    """
    children: dict[int, list[int]] = {}
    for process, parent in parents().items():
        children.setdefault(parent, []).append(process)
    if uid is not None:
        children[root] = [
            process for process in children.get(root, ()) if process not in spared and user_of(process) == uid
        ]
    found: set[int] = set()
    todo = [root]
    while todo:
        for process in children.get(todo.pop(), ()):
            if process not in spared and process not in found:
                found.add(process)
                todo.append(process)
    return found


def kill_descendants(root: int, spared: frozenset[int] = frozenset(), uid: int | None = None) -> set[int]:
    """Kill every descendant of `root` but the `spared` and theirs, of user `uid` if given; return them all.

    In rounds, until one finds no process that is new. Nobody buries the dead meanwhile, neither this process nor
    `root`, which is stopped if it is another: however fast code forks and its parents exit, each step leaves a zombie
    to be found and takes one from the limit of processes.
    """
    if root != os.getpid():
        send_signal(root, signal.SIGSTOP)
    killed: set[int] = set()
    for _ in range(_ROUNDS):
        fresh = descendants(root, spared, uid) - killed
        if not fresh:
            break
        for process in sorted(fresh):  # most parents come first that way, and see no child die
            send_signal(process, signal.SIGKILL)
        killed |= fresh
    return killed


def kill_everything() -> None:
    """Kill every process of the PID namespace of which this process is the first, in one atomic step."""
    if os.getpid() != 1:
        raise RuntimeError("only the first process of a namespace may kill everything in it")
    try:
        os.kill(-1, signal.SIGKILL)
    except OSError:
        pass


def descriptor_of(process: int) -> int:
    """A descriptor that becomes readable when `process` ends. Raises OSError when it is gone, or before Linux 5.3."""
    fd = call_library("syscall", _PIDFD_OPEN, process, 0)
    if fd < 0:
        raise OSError(f"no descriptor of process {process}, which takes Linux 5.3")
    return fd


def send_signal(process: int, number: int) -> None:
    """Signal `process`, which may be gone already."""
    try:
        os.kill(process, number)
    except OSError:
        pass


def exists(process: int) -> bool:
    """Whether there still is a `process`, if only to be buried."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def oom_kills() -> int:
    """How often the kernel has killed at the memory limit of this process's own control group; 0 if it does not say."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            with open(path, "rb", 0) as file:
                words = file.read(4096).split()
        except OSError:
            continue
        if b"oom_kill" in words:
            return int(words[words.index(b"oom_kill") + 1])
    return 0


def limit_processes(number: int) -> None:
    """Let no user whom this process becomes have more processes than `number`."""
    allowed = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    if allowed != resource.RLIM_INFINITY:  # the shell that runs pytest may have a lower one, not to be raised
        number = min(number, allowed)
    resource.setrlimit(resource.RLIMIT_NPROC, (number, number))


class Sacrifice:
    """A context in which everybody who is started has the same chance when memory runs out."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class FirstVictims(Sacrifice):
    """A context in which all that this process starts is chosen before itself when memory runs out, for all its life.

    The mark is inherited: `forbid_tracing` leaves a process no right to put it on its children, nor on itself but by a
    descriptor from before. So this has to be made first.
    """

    def __init__(self) -> None:
        self._fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        self._usual = os.read(self._fd, 16)

    def __enter__(self) -> None:
        os.write(self._fd, b"1000")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.write(self._fd, self._usual)

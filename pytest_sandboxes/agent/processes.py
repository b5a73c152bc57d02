"""Process trees: finding them through /proc and ending them, all of them."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # `signal` proper pulls in enum: milliseconds of every start

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_ROUNDS = 200


def _prctl(option: int, value: int) -> None:
    """Call prctl(2). Raises OSError when the kernel refuses or the interpreter has no ctypes."""
    try:
        import _ctypes  # the package `ctypes` costs 3 ms, its C half a tenth of that

        this_program = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]
        address = _ctypes.dlsym(this_program, "prctl")
        failed = _ctypes.call_function(address, (option, value, 0, 0, 0))
    except ImportError:
        raise OSError("this interpreter has no ctypes") from None
    if failed:
        raise OSError(f"prctl({option}) failed")


def forbid_tracing() -> None:
    """Close /proc/<this process>/mem, /fd and the like to processes of the same user."""
    _prctl(_PR_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def parents() -> dict[int, int]:
    """Parent of every process that /proc shows, zombies left out."""
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
        state, parent = stat[stat.rindex(b")") + 2 :].split(None, 2)[:2]
        if state != b"Z":
            found[int(name)] = int(parent)
    return found


def descendants(root: int, spared: frozenset[int] = frozenset()) -> set[int]:
    """Every live descendant of `root`, without `spared` processes and what is below them."""
    children: dict[int, list[int]] = {}
    for process, parent in parents().items():
        children.setdefault(parent, []).append(process)
    found: set[int] = set()
    todo = [root]
    while todo:
        for process in children.get(todo.pop(), ()):
            if process not in spared and process not in found:
                found.add(process)
                todo.append(process)
    return found


def kill_descendants(root: int, spared: frozenset[int] = frozenset()) -> None:
    """Kill every descendant of `root` but the `spared` and theirs.

    Processes are stopped first, in rounds, until a round finds none that is new: a stopped process cannot fork, so
    this ends even against code that forks as fast as it is found. Then all are killed.
    """
    stopped: set[int] = set()
    for _ in range(_ROUNDS):
        fresh = descendants(root, spared) - stopped
        if not fresh:
            break
        for process in fresh:
            send_signal(process, signal.SIGSTOP)
        stopped |= fresh
    for process in stopped:
        send_signal(process, signal.SIGKILL)


def kill_everything() -> None:
    """Kill every process of the PID namespace of which this process is the first, in one atomic step."""
    if os.getpid() != 1:
        raise RuntimeError("only the first process of a namespace may kill everything in it")
    try:
        os.kill(-1, signal.SIGKILL)
    except OSError:
        pass


def send_signal(process: int, number: int) -> None:
    """Signal `process`, which may be gone already."""
    try:
        os.kill(process, number)
    except OSError:
        pass


def make_first_victim(process: int) -> None:
    """Have the kernel choose `process` and its future children before anything else when memory runs out."""
    try:
        with open(f"/proc/{process}/oom_score_adj", "wb", 0) as file:
            file.write(b"1000")
    except OSError:
        pass  # it has ended already

"""Many things at once in one slot: each gets its own output, and each end ends its own and nothing else."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from pytest_sandboxes import ExecResult, ExecTimeoutError, Slot
from tests.conformance.capabilities import Capability
from tests.conformance.helpers import DAEMON, GENEROUS, SlotFactory, eventually, python, start
from tests.conformance.leftovers import Leftovers

_BURIAL = 2.0
"""Seconds for which an agent waits for the end of what it has killed: without a processor, the kernel needs more."""


def test_threads_on_one_slot(sandbox: Slot) -> None:
    def work(number: int) -> None:
        name = f"file {number}"
        for turn in range(10):
            text = f"{number}-{turn}\n" * 1000
            sandbox.write_text(name, text)
            assert sandbox.exec("cat", name).stdout == text
            assert sandbox.read_text(name) == text
            result = sandbox.sh(f"cat; echo {number} >&2; exit {turn}", input=text)
            assert (result.stdout, result.stderr, result.returncode) == (text, f"{number}\n", turn)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_a_long_exec_does_not_delay_others(sandbox: Slot) -> None:
    with ThreadPoolExecutor() as pool:
        gate = sandbox.popen("sh", "-c", "mkfifo gate; echo ready; sleep 1000")
        gate.stdout.readline(GENEROUS)
        long = pool.submit(sandbox.exec, "cat", "gate")
        for _ in range(10):
            assert sandbox.exec("echo", "short").stdout == "short\n"
        assert not long.done()
        sandbox.sh("echo opened > gate")
        assert long.result(GENEROUS).stdout == "opened\n"


def test_a_timeout_hits_only_its_own(sandbox: Slot, leftovers: Leftovers) -> None:
    process = sandbox.popen("sh", "-c", "setsid sleep 1000 & echo up; read x; echo alive", env=leftovers.env)
    assert process.stdout.readline(GENEROUS) == "up\n"
    leftovers.settle("sh", "sleep")
    with ThreadPoolExecutor() as pool:
        survivor = pool.submit(sandbox.sh, "while [ ! -e stop ]; do sleep 0.01; done; echo finished")
        doomed = [
            pool.submit(sandbox.sh, "sleep 1000 & setsid sleep 1000 & wait", timeout=0.1) for _ in range(4)
        ]
        for each in doomed:
            with pytest.raises(ExecTimeoutError):
                each.result(GENEROUS)
        sandbox.write_text("stop", "")
        assert survivor.result(GENEROUS).stdout == "finished\n"
    assert leftovers.count() == 2
    process.write("\n")
    assert process.stdout.readline(GENEROUS) == "alive\n"


@pytest.mark.needs(Capability.DAEMONS)
@pytest.mark.parametrize("popen_first", [True, False], ids=["popen before exec", "exec before popen"])
def test_an_exec_takes_its_daemons_and_not_those_of_a_popen(sandbox: Slot, popen_first: bool) -> None:
    ours, theirs = Leftovers(), Leftovers()
    popen_code = f"{DAEMON}; exec sleep 1000"
    exec_code = f"{DAEMON}; while [ ! -e stop ]; do sleep 0.01; done"
    with ThreadPoolExecutor() as pool:
        if popen_first:
            start(sandbox, popen_code, env=theirs.env, until="daemon")
        command = pool.submit(sandbox.sh, exec_code, env=ours.env)
        ours.appear(2)
        if not popen_first:
            start(sandbox, popen_code, env=theirs.env, until="daemon")
        theirs.settle("sleep", "sleep")
        sandbox.write_text("stop", "")
        assert command.result(GENEROUS).stdout == "daemon\n"
    assert ours.count() == 0
    assert theirs.count() == 2
    assert sandbox.exec("true").success
    assert theirs.count() == 2


@pytest.mark.needs(Capability.PYTHON)
@pytest.mark.parametrize("neighbour", ["none", "popen", "exec"])
def test_not_even_a_dying_process_is_left_of_an_exec(
    sandbox: Slot, leftovers: Leftovers, neighbour: str
) -> None:
    # one with much memory takes its time, and holds its ports and locks until then
    daemon = """
        import mmap, os, time
        child = os.fork()
        if child == 0:
            os.closerange(0, 3)  # whose end would be waited for
            memory = mmap.mmap(-1, 32 << 20)
            memory.madvise(mmap.MADV_NOHUGEPAGE)
            memory.write(bytes(32 << 20))
            os.mknod("ready")
            time.sleep(1000)
        while not os.path.exists("ready"): time.sleep(0.005)
        os.unlink("ready")
        print(child)
    """
    with ThreadPoolExecutor() as pool:
        if neighbour == "popen":
            sandbox.popen("sleep", "1000")
        elif neighbour == "exec":
            pool.submit(sandbox.sh, "touch up; while [ ! -e stop ]; do sleep 0.01; done")
            eventually(lambda: "up" in [entry.path for entry in sandbox.list_files()], "the other exec")
        for _ in range(5):
            began = time.monotonic()
            child = int(python(sandbox, daemon, env=leftovers.env).stdout)
            was_waited_for = time.monotonic() - began >= _BURIAL
            assert leftovers.count() == 0
            state = sandbox.sh(f"cut -d ' ' -f 3 /proc/{child}/stat").stdout.strip()
            assert not state or (was_waited_for and state not in "ZX")
        sandbox.write_text("stop", "")


@pytest.mark.needs(Capability.DAEMONS)
def test_an_exec_among_others_takes_its_daemons(sandbox: Slot) -> None:
    marks = [Leftovers() for _ in range(4)]
    daemon = "sleep 1000"
    with ThreadPoolExecutor() as pool:
        commands: list[Future[ExecResult]] = []
        for number, mark in enumerate(marks):
            code = f"{DAEMON}; while [ ! -e {number} ]; do sleep 0.01; done"
            commands.append(pool.submit(sandbox.sh, code, env=mark.env))
            eventually(lambda mark=mark: daemon in mark.commands(), "the daemon")  # type: ignore[misc]
        # out of order: the first one runs without a supervisor, the others with
        for number in (2, 0, 3, 1):
            sandbox.write_text(str(number), "")
            assert commands[number].result(GENEROUS).success
            assert marks[number].count() == 0
            running = [
                mark.commands() for mark, command in zip(marks, commands, strict=True) if not command.done()
            ]
            assert all(daemon in each and len(each) >= 2 for each in running), running


def test_slots_of_one_lease_are_apart(sandbox_factory: SlotFactory, promised: frozenset[Capability]) -> None:
    with sandbox_factory(slots=2) as slots:
        assert isinstance(slots, tuple)
        first, second = slots
        first.write_text("file", "first")
        second.write_text("file", "second")
        assert first.read_text("file") == "first"
        assert second.exec("cat", "file").stdout == "second"
        # where a sandbox has several, these may be the last one of a sandbox and the first one of another
        assert first.name != second.name or Capability.OWN_SANDBOX not in promised

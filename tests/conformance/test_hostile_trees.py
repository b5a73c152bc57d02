"""Process trees that do not want to end: all of them end on time, and nothing of them is left."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from textwrap import dedent

import pytest

from pytest_sandboxes import ExecTimeoutError, Slot
from tests.conformance.capabilities import Capability
from tests.conformance.helpers import GENEROUS, eventually, python, start_python
from tests.conformance.leftovers import Leftovers

pytestmark = pytest.mark.needs(Capability.CONTAINMENT, Capability.PYTHON)

DEAF = """
import os, signal, time
def deaf():
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
def fork():
    try:
        return os.fork()
    except OSError:  # as many as there may be
        return -1
"""
TREES = {
    "deaf to signals": """
        deaf()
        fork(); fork(); fork()
        while True: time.sleep(1000)
    """,
    "daemons": """
        deaf()
        for _ in range(10):
            if fork() == 0:
                os.setsid()
                if fork(): os._exit(0)
                while True: time.sleep(1000)
        time.sleep(1000)
    """,
    "stopped": """
        for _ in range(10):
            if fork() == 0:
                os.setsid()
                os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(1000)
    """,
    "stopped as a whole": """
        fork(); fork(); fork()
        os.kill(os.getppid(), signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
    """,
    "long chain": """
        while fork() == 0: os.setsid()
        time.sleep(1000)
    """,
    "children that wake each other": """
        fork(); fork(); fork(); fork()
        while True:
            try: os.kill(-1, signal.SIGCONT)
            except OSError: pass
    """,
    "children of a thread whose process looks dead": """
        import ctypes, threading
        def work():
            while True:
                if fork() == 0: time.sleep(1000)
                time.sleep(0.01)
        threading.Thread(target=work).start()
        ctypes.CDLL(None).pthread_exit(None)
    """,
    "siblings instead of children": """
        import ctypes, platform
        number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
        CLONE_PARENT, SIGCHLD = 0x8000, 17
        libc = ctypes.CDLL(None)
        for _ in range(20):
            if libc.syscall(number, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) == 0:
                while True: time.sleep(1000)
        time.sleep(1000)
    """,
    "fork bomb": """
        deaf()
        while True: fork()
    """,
    "fork bomb of sessions": """
        deaf()
        while True:
            if fork() == 0: os.setsid()
    """,
    "fork bomb of orphans": """
        while True:
            if fork() > 0 and fork() > 0: os._exit(0)
    """,
}


@pytest.mark.parametrize("neighbour", [False, True], ids=["alone", "beside a popen"])
@pytest.mark.parametrize("tree", TREES)
def test_ends_at_its_deadline(sandbox: Slot, leftovers: Leftovers, tree: str, *, neighbour: bool) -> None:
    code = DEAF + dedent(TREES[tree])
    process = sandbox.popen("cat") if neighbour else None
    with pytest.raises(ExecTimeoutError) as caught:
        # a shell that sleeps by itself: with a bomb beside it, it could not start anything
        script = 'read forever < gate & python3 -I -S -c "$CODE"; wait'
        sandbox.exec("mkfifo", "gate")
        sandbox.sh(script, env={**leftovers.env, "CODE": code}, timeout=0.5)
    leftovers.vanish()  # what has been killed may take the kernel a moment to bury
    # the promise is half a second, and a machine under test may have other things to do
    assert caught.value.result.duration < 0.5 + 5
    assert sandbox.exec("echo", "usable").stdout == "usable\n"
    if process is not None:
        process.write("alive\n")
        assert process.stdout.readline(GENEROUS) == "alive\n"


@pytest.mark.parametrize("neighbour", [False, True], ids=["alone", "beside a popen"])
@pytest.mark.parametrize("tree", ["daemons", "fork bomb of sessions", "fork bomb of orphans"])
def test_ends_with_its_command(sandbox: Slot, leftovers: Leftovers, tree: str, *, neighbour: bool) -> None:
    if neighbour:
        sandbox.popen("sleep", "1000")
    # the shell forks nothing once there is a bomb beside it
    script = 'sleep 0.1 & pause=$!; python3 -I -S -c "$CODE" & wait $pause; echo done'
    result = sandbox.sh(script, env={**leftovers.env, "CODE": DEAF + dedent(TREES[tree])}, timeout=GENEROUS)
    assert (result.stdout, result.returncode) == ("done\n", 0)
    leftovers.vanish()


@pytest.mark.parametrize("tree", ["daemons", "stopped", "fork bomb of sessions"])
def test_ends_with_its_popen(sandbox: Slot, leftovers: Leftovers, tree: str) -> None:
    process = start_python(sandbox, DEAF + dedent(TREES[tree]), env=leftovers.env)
    leftovers.appear(5)
    process.kill()
    assert process.wait(GENEROUS) == -9
    leftovers.vanish()
    assert sandbox.exec("true").success


@pytest.mark.parametrize("tree", ["daemons", "fork bomb", "fork bomb of sessions"])
def test_ends_with_its_slot(sandbox: Slot, leftovers: Leftovers, tree: str) -> None:
    start_python(sandbox, DEAF + dedent(TREES[tree]), env=leftovers.env)
    leftovers.appear(5)
    sandbox.reset()
    leftovers.vanish()


HOPPER = """
    import os, signal, sys, time

    # a crowd in which it takes long to look at everybody
    for _ in range(150):
        if os.fork() == 0:
            signal.pause()
    beat = os.open("beat", os.O_CREAT | os.O_WRONLY)
    if os.fork() == 0:
        os.setsid()
        for descriptor in range(3):
            os.close(descriptor)
        while True:  # never the same process for long
            os.pwrite(beat, str(time.monotonic_ns()).encode(), 0)
            if os.fork():
                os._exit(0)
    time.sleep(0.5)
    print("done")
"""


@pytest.mark.parametrize("neighbour", ["none", "popen before", "popen after", "exec before"])
def test_what_changes_its_process_all_the_time_ends_too(sandbox: Slot, neighbour: str) -> None:
    with ThreadPoolExecutor() as pool:
        if neighbour == "popen before":
            sandbox.popen("sleep", "1000")
        elif neighbour == "exec before":
            pool.submit(sandbox.sh, "touch up; while [ ! -e stop ]; do sleep 0.01; done")
            eventually(lambda: "up" in [entry.path for entry in sandbox.list_files()], "the other exec")
        hopper = pool.submit(python, sandbox, HOPPER)
        if neighbour == "popen after":
            eventually(lambda: "beat" in [entry.path for entry in sandbox.list_files()], "the first beat")
            sandbox.popen("sleep", "1000")
        assert hopper.result(GENEROUS).stdout == "done\n"
        last = sandbox.read_bytes("beat")
        assert last
        sandbox.exec("sleep", "0.1")
        assert sandbox.read_bytes("beat") == last
        sandbox.write_text("stop", "")


def test_a_watcher_rewrites_nothing_once_its_exec_has_ended(sandbox: Slot, leftovers: Leftovers) -> None:
    watcher = """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True:
                    try:
                        with open("answer") as file:
                            wrong = file.read() == "right"
                    except OSError:
                        continue
                    if wrong:
                        os.rename("forged", "answer")
            os._exit(0)
        time.sleep(0.2)
    """
    sandbox.write_text("forged", "forged")
    for _ in range(3):
        assert python(sandbox, watcher, env=leftovers.env).success
        assert leftovers.count() == 0
        sandbox.write_text("answer", "right")
        assert sandbox.exec("cat", "answer").stdout == "right"
        assert sandbox.read_text("answer") == "right"

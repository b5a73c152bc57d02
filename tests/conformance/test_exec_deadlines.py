"""Deadlines and ends: an exec ends on time, and with it all that it has started."""

from __future__ import annotations

import math
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest

from pytest_sandboxes import ExecTimeoutError, Slot
from tests.conformance.helpers import DAEMON, GENEROUS, eventually, start, waits
from tests.conformance.leftovers import Leftovers


def test_a_timeout_carries_what_there_was(sandbox: Slot) -> None:
    with pytest.raises(ExecTimeoutError, match=r"still running after 2 s") as caught:
        sandbox.sh("echo partial; echo warned >&2; sleep 1000", timeout=2)
    assert isinstance(caught.value, TimeoutError)
    result = caught.value.result
    assert (result.stdout, result.stderr) == ("partial\n", "warned\n")
    assert (result.timed_out, result.success, result.returncode) == (True, False, -signal.SIGKILL)
    assert 2 <= result.duration < 2 + GENEROUS
    assert "timed out" in repr(result)
    assert "| partial" in str(caught.value)


def test_a_timeout_ends_the_command_and_not_the_slot(sandbox: Slot, leftovers: Leftovers) -> None:
    sandbox.write_text("kept", "content")
    began = time.monotonic()
    with pytest.raises(ExecTimeoutError):
        sandbox.sh("sleep 1000 & sleep 1000", timeout=0.1, env=leftovers.env)
    assert time.monotonic() - began < GENEROUS
    assert leftovers.count() == 0
    assert sandbox.exec("cat", "kept").stdout == "content"


@pytest.mark.sandbox(exec_timeout=0.2)
def test_the_default_is_the_markers(sandbox: Slot) -> None:
    with pytest.raises(ExecTimeoutError):
        sandbox.exec("sleep", "1000")
    assert sandbox.exec("sleep", "0.4", timeout=GENEROUS).success
    assert sandbox.exec("sleep", "0.4", timeout=math.inf).success
    process = sandbox.popen("sleep", "0.4")  # has a deadline only when given one
    assert process.wait(GENEROUS) == 0


@pytest.mark.parametrize("timeout", [0, -1, -math.inf, math.nan])
def test_a_deadline_that_cannot_be_is_refused(sandbox: Slot, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        sandbox.exec("true", timeout=timeout)
    with pytest.raises(ValueError, match="timeout"):
        sandbox.popen("true", timeout=timeout)


def test_an_end_in_time_is_no_timeout(sandbox: Slot) -> None:
    result = sandbox.exec("sleep", "0.1", timeout=GENEROUS)
    assert (result.returncode, result.timed_out) == (0, False)


def test_the_counter_sees_a_daemon(sandbox: Slot, leftovers: Leftovers) -> None:
    assert leftovers.count() == 0
    process = start(sandbox, f"{DAEMON}; exec sleep 1000", env=leftovers.env, until="daemon")
    leftovers.appear(2)
    process.kill()
    leftovers.vanish()


def test_the_end_of_an_exec_ends_all_that_it_has_started(sandbox: Slot, leftovers: Leftovers) -> None:
    script = 'sleep 1000 & nohup setsid sleep 1000 & sh -c "$1; sleep 1000" & while [ ! -e seen ]; do sleep 0.01; done'
    with ThreadPoolExecutor() as pool:
        running = pool.submit(sandbox.exec, "sh", "-c", script, "sh", DAEMON, env=leftovers.env)
        leftovers.appear(5)
        sandbox.write_text("seen", "")
        assert running.result(GENEROUS).returncode == 0
    assert leftovers.count() == 0  # not soon after, but by the time that it has returned


class _Interrupted(BaseException):
    """What a signal handler raises into a test, as Ctrl-C and pytest-timeout do."""


def test_an_interrupted_call_kills_what_it_runs(sandbox: Slot, leftovers: Leftovers) -> None:
    def interrupt(_: int, __: FrameType | None) -> None:
        raise _Interrupted

    def once_it_runs() -> None:
        leftovers.appear()
        main = threading.main_thread()
        # an interrupt before that is one of the start, which may have nothing to kill yet
        eventually(lambda: waits(main), "the main thread to wait")
        signal.pthread_kill(main.ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        interrupter = threading.Thread(target=once_it_runs)
        interrupter.start()
        with pytest.raises(_Interrupted):
            sandbox.sh("sleep 1000 & sleep 1000", env=leftovers.env)
    finally:
        interrupter.join()
        signal.signal(signal.SIGUSR1, before)
    leftovers.vanish()
    assert sandbox.exec("echo", "usable").stdout == "usable\n"


def test_the_end_of_a_lease_ends_all_in_it(sandbox: Slot, leftovers: Leftovers) -> None:
    # the pool gives the sandbox up behind this test's back, which `reset` does as well
    sandbox.popen("sh", "-c", "setsid sleep 1000 & sleep 1000", env=leftovers.env)
    leftovers.appear(2)
    sandbox.reset()
    leftovers.vanish()

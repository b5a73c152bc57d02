"""popen: commands that outlive the call, their input, output and end."""

from __future__ import annotations

import signal
import time

import pytest

from pytest_sandboxes import ExecTimeoutError, Slot
from tests.conformance.capabilities import Capability
from tests.conformance.helpers import DAEMON, GENEROUS, eventually, start
from tests.conformance.leftovers import Leftovers


class TestInput:
    def test_after_its_end_is_refused(self, sandbox: Slot) -> None:
        process = sandbox.popen("cat")
        process.write("kept")
        process.close_stdin()
        for data in ("lost", ""):
            with pytest.raises(ValueError, match=r"has been closed: write before close_stdin\(\)"):
                process.write(data)
        process.close_stdin()
        assert process.stdout.read(GENEROUS) == b"kept"
        assert process.wait(GENEROUS) == 0
        with pytest.raises(ValueError, match="has been closed"):
            process.write("lost")

    def test_a_conversation(self, sandbox: Slot) -> None:
        process = sandbox.popen("sh", "-c", 'while read line; do echo "got $line"; done; echo end')
        process.write("one\n")
        assert process.stdout.readline(GENEROUS) == "got one\n"
        process.write(b"two\nthr")
        assert process.stdout.readline(GENEROUS) == "got two\n"
        process.write("ee\n")
        assert process.stdout.readline(GENEROUS) == "got three\n"
        assert process.poll() is None
        process.close_stdin()
        assert process.stdout.readline(GENEROUS) == "end\n"
        assert process.stdout.readline(GENEROUS) == ""
        assert process.wait(GENEROUS) == 0
        assert process.poll() == process.returncode == 0

    def test_megabytes(self, sandbox: Slot) -> None:
        process = sandbox.popen("wc", "-c")
        process.write(bytes(5 << 20), GENEROUS)
        process.close_stdin()
        assert process.stdout.readline(GENEROUS) == f"{5 << 20}\n"

    def test_that_nobody_reads(self, sandbox: Slot) -> None:
        process = sandbox.popen("sleep", "1000")
        with pytest.raises(TimeoutError, match="did not read"):
            process.write(bytes(5 << 20), timeout=0.1)
        assert sandbox.exec("true").success
        assert process.poll() is None

    def test_of_a_process_that_has_ended(self, sandbox: Slot) -> None:
        process = sandbox.popen("true")
        process.wait(GENEROUS)
        with pytest.raises(BrokenPipeError):
            process.write("x")
        process.close_stdin()

    @pytest.mark.needs(Capability.CLOSED_INPUT)
    def test_of_a_process_that_has_closed_it(self, sandbox: Slot) -> None:
        process = sandbox.popen("sh", "-c", "exec <&-; echo closed; sleep 1000")
        assert process.stdout.readline(GENEROUS) == "closed\n"
        with pytest.raises(BrokenPipeError):
            for _ in range(100):
                process.write(bytes(1 << 20), GENEROUS)


class TestOutput:
    def test_comes_as_it_is_printed(self, sandbox: Slot) -> None:
        process = sandbox.popen("sh", "-c", "echo out; echo err >&2; sleep 1000")
        assert process.stdout.readline(GENEROUS) == "out\n"
        assert process.stderr.readline(GENEROUS) == "err\n"
        assert process.poll() is None

    def test_by_lines(self, sandbox: Slot) -> None:
        process = sandbox.popen("printf", "one\\n\\ngr\\303\\274n\\n\\377\\nunfinished")
        assert list(process.stdout) == ["one\n", "\n", "grün\n", "�\n", "unfinished"]
        assert list(process.stdout) == []

    def test_by_bytes(self, sandbox: Slot) -> None:
        process = sandbox.popen("sh", "-c", "head -c 3m /dev/zero; printf '\\377end'")
        assert b"".join(iter(lambda: process.stdout.read(GENEROUS), b"")) == bytes(3 << 20) + b"\xffend"
        assert process.stdout.read(GENEROUS) == b""
        assert process.stderr.read(GENEROUS) == b""

    def test_by_lines_and_then_bytes(self, sandbox: Slot) -> None:
        process = sandbox.popen("sh", "-c", "printf 'line\\nre'; printf 'st'; read x; printf more", env={})
        assert process.stdout.readline(GENEROUS) == "line\n"
        process.close_stdin()
        assert b"".join(iter(lambda: process.stdout.read(GENEROUS), b"")) == b"restmore"

    def test_a_line_without_end_comes_in_pieces(self, sandbox: Slot) -> None:
        process = sandbox.popen("sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo")
        pieces = list(process.stdout)
        assert "".join(pieces) == "x" * 3_000_000 + "\n"
        assert max(map(len, pieces)) <= 1 << 20

    def test_that_does_not_come(self, sandbox: Slot) -> None:
        process = sandbox.popen("sh", "-c", "printf part; read line; echo ial")
        with pytest.raises(TimeoutError, match="no output"):
            process.stdout.readline(0.05)
        process.close_stdin()
        assert process.stdout.readline(GENEROUS) == "partial\n"

    def test_can_be_read_after_the_end(self, sandbox: Slot) -> None:
        process = sandbox.popen("sh", "-c", "head -c 3m /dev/zero; echo 1>&2 end; exit 5")
        stderr = process.stderr.readline  # of a process that waits for its other stream to be read
        with pytest.raises(TimeoutError):
            stderr(0.05)
        assert len(b"".join(iter(lambda: process.stdout.read(GENEROUS), b""))) == 3 << 20
        assert process.wait(GENEROUS) == 5
        assert stderr(GENEROUS) == "end\n"

    def test_that_is_unread_stalls_nobody_else(self, sandbox: Slot) -> None:
        flood = sandbox.popen("sh", "-c", "cat /dev/zero")
        other = sandbox.popen("cat")
        for number in range(20):
            other.write(f"{number}\n")
            assert other.stdout.readline(GENEROUS) == f"{number}\n"
            assert sandbox.exec("head", "-c", "2m", "/dev/zero").stdout_bytes == bytes(2 << 20)
        assert flood.poll() is None
        assert len(flood.stdout.read(GENEROUS)) > 0

    def test_has_no_limit(self, sandbox: Slot) -> None:
        process = sandbox.popen("head", "-c", "30m", "/dev/zero")
        assert sum(len(piece) for piece in iter(lambda: process.stdout.read(GENEROUS), b"")) == 30 << 20


class TestEnd:
    def test_wait_gives_up(self, sandbox: Slot) -> None:
        process = sandbox.popen("sleep", "1000")
        with pytest.raises(TimeoutError, match=r"still running after 0\.05 s") as caught:
            process.wait(0.05)
        assert not isinstance(caught.value, ExecTimeoutError)
        assert process.poll() is None

    @pytest.mark.parametrize("ending", ["exit 3", "kill -15 $$"])
    def test_code(self, sandbox: Slot, ending: str) -> None:
        assert sandbox.popen("sh", "-c", ending).wait(GENEROUS) == (
            3 if "exit" in ending else -signal.SIGTERM
        )

    def test_kill(self, sandbox: Slot) -> None:
        process = sandbox.popen("sleep", "1000")
        process.kill()
        assert process.wait(GENEROUS) == -signal.SIGKILL
        process.kill()
        assert process.returncode == -signal.SIGKILL

    def test_a_deadline(self, sandbox: Slot, leftovers: Leftovers) -> None:
        process = sandbox.popen("sh", "-c", "sleep 1000 & sleep 1000", timeout=0.2, env=leftovers.env)
        with pytest.raises(ExecTimeoutError) as caught:
            process.wait(GENEROUS)
        assert caught.value.result.timed_out
        with pytest.raises(ExecTimeoutError):
            process.poll()
        assert leftovers.count() == 0

    def test_a_block(self, sandbox: Slot, leftovers: Leftovers) -> None:
        with sandbox.popen("sleep", "1000", env=leftovers.env) as process:
            leftovers.appear()
        assert process.wait(GENEROUS) == -signal.SIGKILL

    def test_a_kill_takes_all_that_was_started(self, sandbox: Slot, leftovers: Leftovers) -> None:
        process = start(sandbox, f"{DAEMON}; exec sleep 1000", env=leftovers.env, until="daemon")
        leftovers.appear(2)
        process.kill()
        assert process.wait(GENEROUS) == -signal.SIGKILL
        assert leftovers.count() == 0

    def test_an_end_takes_all_that_was_started(self, sandbox: Slot, leftovers: Leftovers) -> None:
        process = start(sandbox, f"{DAEMON}; read line", env=leftovers.env, until="daemon")
        leftovers.appear(2)
        process.write("\n")
        assert process.wait(GENEROUS) == 0
        assert leftovers.count() == 0


def test_outlives_the_call_and_execs(sandbox: Slot, leftovers: Leftovers) -> None:
    process = sandbox.popen(
        "sh", "-c", "while i=$((i + 1)); do echo $i > beat; sleep 0.01; done", env=leftovers.env
    )
    leftovers.appear()
    for _ in range(3):
        before = _beat(sandbox)
        eventually(lambda before=before: _beat(sandbox) != before, "the next beat")  # type: ignore[misc]
        sandbox.sh("sleep 1000 & true")
        with pytest.raises(ExecTimeoutError):
            sandbox.sh("sleep 1000", timeout=0.05)
    assert process.poll() is None


def _beat(slot: Slot) -> str:
    return slot.sh("cat beat 2>/dev/null").stdout


def test_usage_is_that_of_the_process(sandbox: Slot) -> None:
    began = time.monotonic()
    process = sandbox.popen("sh", "-c", "read line; exec sleep 0.3")
    assert process.poll() is None
    process.write("\n")
    assert time.monotonic() - began < GENEROUS
    assert process.wait(GENEROUS) == 0
    assert time.monotonic() - began >= 0.3


def test_many_at_once(sandbox: Slot) -> None:
    processes = [sandbox.popen("sh", "-c", f"read x; echo {number} $x") for number in range(50)]
    for number, process in enumerate(processes):
        process.write(f"line {number}\n")
    for number, process in reversed(list(enumerate(processes))):
        assert process.stdout.readline(GENEROUS) == f"{number} line {number}\n"
        assert process.wait(GENEROUS) == 0

"""Limits: kept where they can be kept, refused where not, and a breach is the code's own failure."""

from __future__ import annotations

import contextlib

import pytest

from pytest_sandboxes import ExecTimeoutError, MemoryLimitExceededError, Slot, UnsupportedError
from tests.conformance.capabilities import Capability
from tests.conformance.helpers import GENEROUS, SlotFactory, python


def takes(megabytes: int) -> tuple[str, ...]:
    """A command that takes so much memory at once."""
    return ("dd", "if=/dev/zero", "of=/dev/null", f"bs={megabytes}M", "count=1")


@pytest.mark.parametrize(
    ("field", "capability"),
    [
        ("memory", Capability.MEMORY_LIMIT),
        ("pids", Capability.PIDS_LIMIT),
        ("disk", Capability.QUOTAS),
        ("cpu", Capability.CPU_LIMIT),
    ],
)
def test_a_limit_is_kept_or_refused(
    sandbox_factory: SlotFactory, promised: frozenset[Capability], field: str, capability: Capability
) -> None:
    limit = {field: 1 if field == "cpu" else 100}
    if capability in promised:
        with sandbox_factory(**limit) as slot:
            assert slot.exec("true").success
    else:
        with (
            pytest.raises(UnsupportedError, match=f"{field} of profile '[a-z]+' cannot be kept"),
            sandbox_factory(**limit),
        ):
            pass


@pytest.mark.needs(Capability.MEMORY_LIMIT, Capability.MEMORY_VERDICTS, Capability.OWN_SANDBOX)
class TestMemory:
    def test_a_breach_is_killed_and_said(self, sandbox_factory: SlotFactory) -> None:
        with sandbox_factory(memory=64) as slot:
            result = slot.exec(*takes(256))
            assert (result.returncode, result.oom_killed, result.success) == (-9, True, False)
            assert "killed at the memory limit" in repr(result)
            following = slot.exec(*takes(16))
            assert (following.returncode, following.oom_killed) == (0, False)

    def test_is_that_of_all_processes_together(self, sandbox_factory: SlotFactory) -> None:
        child = "dd if=/dev/zero bs=24M count=1 2>/dev/null | { sleep 0.3; cat >/dev/null; }"
        with sandbox_factory(memory=64) as slot:
            assert not slot.sh(child).oom_killed
            assert slot.sh(f"for _ in 1 2 3 4 5 6 7 8; do {child} & done; wait").oom_killed

    @pytest.mark.needs(Capability.PYTHON)
    def test_commands_go_before_what_answers_for_them(self, sandbox_factory: SlotFactory) -> None:
        code = """
            import os, time
            for _ in range(200):
                if os.fork() == 0:
                    x = bytearray(1 << 20)
                    time.sleep(1000)
            os.wait()
        """
        with sandbox_factory(memory=64) as slot:
            assert python(slot, code).oom_killed
            assert slot.exec("echo", "usable").stdout == "usable\n"

    def test_of_a_popen(self, sandbox_factory: SlotFactory) -> None:
        with sandbox_factory(memory=64) as slot:
            process = slot.popen(*takes(256))
            assert process.wait(GENEROUS) == -9
            assert slot.exec("true").success

    def test_is_enough_when_kept(self, sandbox_factory: SlotFactory) -> None:
        with sandbox_factory(memory=256) as slot:
            result = slot.exec(*takes(128))
            assert (result.success, result.oom_killed) == (True, False)

    @pytest.mark.needs(Capability.MEASUREMENTS)
    def test_what_was_taken_of_it_is_said(self, sandbox_factory: SlotFactory) -> None:
        with sandbox_factory(memory=256) as slot:
            assert slot.exec(*takes(128)).peak_memory > 128 << 20

    @pytest.mark.parametrize("place", ["/tmp", "/dev/shm", "."])
    def test_counts_files_in_memory(self, sandbox_factory: SlotFactory, place: str) -> None:
        with sandbox_factory(memory=48) as slot:
            # with the memory in files there may be nothing left to kill but the sandbox, which is the code's doing as well
            with contextlib.suppress(MemoryLimitExceededError):
                result = slot.sh(f"head -c 60m /dev/zero > {place}/file; echo $?")
                assert result.oom_killed
                assert result.stdout != "0\n"
            with pytest.raises(MemoryLimitExceededError, match="memory limit"):
                for number in range(60):
                    slot.write_bytes(str(number), bytes(1 << 20))


@pytest.mark.needs(Capability.PIDS_LIMIT)
def test_processes_of_the_profile(sandbox_factory: SlotFactory) -> None:
    with sandbox_factory(pids=20) as slot:
        assert 0 < _children_at_once(slot, 50) < 20
        assert slot.exec("true").success


@pytest.mark.needs(Capability.PROCESS_QUOTAS)
def test_processes_are_limited_anyway(sandbox: Slot) -> None:
    assert 20 < _children_at_once(sandbox, 5000) < 4999
    assert sandbox.exec("true").success


def _children_at_once(slot: Slot, wanted: int) -> int:
    result = slot.sh(f"for child in $(seq {wanted}); do sleep 1000 & echo $child; done")
    assert "fork" in result.stderr.lower(), result
    return len(result.stdout.splitlines())


@pytest.mark.needs(Capability.QUOTAS)
@pytest.mark.sandbox(disk=4)
class TestDisk:
    @pytest.mark.parametrize("place", [".", "$TMPDIR", "$HOME", "/tmp", "/var/tmp"])
    def test_is_limited_wherever_files_go(self, sandbox: Slot, place: str) -> None:
        result = sandbox.sh(f"dd if=/dev/zero of={place}/file bs=1M count=8; stat -c %s {place}/file")
        assert "No space left" in result.stderr
        assert int(result.stdout) <= 4 << 20

    def test_can_be_used_up_to_the_limit(self, sandbox: Slot) -> None:
        assert sandbox.sh("head -c 3900k /dev/zero > file").success

    def test_nothing_is_in_the_way_of_a_full_slot(self, sandbox: Slot) -> None:
        sandbox.sh("head -c 8m /dev/zero > file; head -c 8m /dev/zero > /tmp/file")
        assert sandbox.exec("cat", input="input").stdout == "input"
        assert len(sandbox.read_bytes("file")) > 0
        sandbox.reset()
        assert sandbox.list_files() == []

    @pytest.mark.needs(Capability.FILE_COUNT)
    @pytest.mark.parametrize("place", [".", "/tmp"])
    def test_limits_files_without_content_too(self, sandbox: Slot, place: str) -> None:
        result = sandbox.sh(
            f"cd {place}; mkdir many; cd many; seq 5000 | xargs touch; ls | wc -l", timeout=GENEROUS
        )
        assert "No space left" in result.stderr
        assert 1000 < int(result.stdout) < 4 * 512


@pytest.mark.needs(Capability.CPU_LIMIT, Capability.CPU_VERDICTS, Capability.MEASUREMENTS)
def test_processor_time_is_that_of_all_processes_together(sandbox_factory: SlotFactory) -> None:
    count = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"
    with sandbox_factory(cpu=0.25) as slot:
        result = slot.sh(f"for _ in 1 2 3; do ({count}) & done; wait", timeout=GENEROUS)
        assert result.success
        # a period's quota may be left at the beginning, and be used up before it is missed at the end
        assert result.cpu_time < 0.25 * result.duration + 0.15, result
        assert result.cpu_time > 0.2, "it was no attack"
        assert slot.exec("echo", "usable").stdout == "usable\n"


@pytest.mark.needs(Capability.CPU_LIMIT, Capability.CPU_VERDICTS)
def test_a_deadline_is_on_time_whatever_takes_the_processor(sandbox_factory: SlotFactory) -> None:
    """One that was noticed more than a second late would be a lost sandbox."""
    with sandbox_factory(cpu=0.25) as slot, pytest.raises(ExecTimeoutError):
        slot.sh("for _ in 1 2 3 4; do (while :; do :; done) & done; wait", timeout=1)

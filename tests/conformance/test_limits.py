"""Limits: kept where they can be kept, refused where not, and a breach is the code's own failure."""

from __future__ import annotations

import contextlib

import pytest

from pytest_sandboxes import MemoryLimitExceededError, Slot, UnsupportedError
from tests.conformance.capabilities import Capability
from tests.conformance.helpers import GENEROUS, SlotFactory, python


@pytest.mark.parametrize(
    ("field", "capability"),
    [
        ("memory", Capability.MEMORY_LIMIT),
        ("pids", Capability.PIDS_LIMIT),
        ("disk", Capability.QUOTAS),
    ],
)
def test_a_limit_is_kept_or_refused(
    sandbox_factory: SlotFactory, promised: frozenset[Capability], field: str, capability: Capability
) -> None:
    limit = {field: 100}
    if capability in promised:
        with sandbox_factory(**limit) as slot:
            assert slot.exec("true").success
    else:
        with (
            pytest.raises(UnsupportedError, match=f"{field} of profile 'default' cannot be kept"),
            sandbox_factory(**limit),
        ):
            pass


@pytest.mark.needs(Capability.MEMORY_LIMIT)
class TestMemory:
    def test_a_breach_is_killed_and_said(self, sandbox_factory: SlotFactory) -> None:
        with sandbox_factory(memory=64) as slot:
            result = python(slot, "x = bytearray(256 << 20)")
            assert (result.returncode, result.oom_killed, result.success) == (-9, True, False)
            assert "killed at the memory limit" in repr(result)
            following = python(slot, "x = bytearray(16 << 20); print(len(x))")
            assert (following.stdout, following.oom_killed) == (f"{16 << 20}\n", False)

    def test_is_that_of_all_processes_together(self, sandbox_factory: SlotFactory) -> None:
        code = """
            import os, time
            children = []
            for _ in range(8):
                pid = os.fork()
                if not pid:
                    x = bytearray(24 << 20)
                    time.sleep(0.3)
                    os._exit(0)
                children.append(pid)
            print({os.waitpid(child, 0)[1] for child in children} >= {9})
        """
        with sandbox_factory(memory=64) as slot:
            result = python(slot, code)
            assert result.oom_killed
            assert result.stdout in ("True\n", "")

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
            process = slot.popen("python3", "-c", "x = bytearray(256 << 20)")
            assert process.wait(GENEROUS) == -9
            assert slot.exec("true").success

    def test_is_enough_when_kept(self, sandbox_factory: SlotFactory) -> None:
        with sandbox_factory(memory=256) as slot:
            result = python(slot, "x = bytearray(128 << 20)")
            assert (result.success, result.oom_killed) == (True, False)
            assert result.peak_memory > 128 << 20

    @pytest.mark.parametrize("place", ["/tmp", "/dev/shm", "."])
    def test_counts_files_in_memory(self, sandbox_factory: SlotFactory, place: str) -> None:
        with sandbox_factory(memory=48) as slot:
            # with the memory in files there may be nothing left to kill but the sandbox, which is the code's doing as well
            with contextlib.suppress(MemoryLimitExceededError):
                result = slot.sh(f"head -c 60M /dev/zero > {place}/file; echo $?")
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


@pytest.mark.needs(Capability.QUOTAS)
def test_processes_are_limited_anyway(sandbox: Slot) -> None:
    assert 20 < _children_at_once(sandbox, 5000) < 4999
    assert sandbox.exec("true").success


def _children_at_once(slot: Slot, wanted: int) -> int:
    code = """
        import os, sys, signal
        children = []
        try:
            for _ in range(int(sys.argv[1])):
                pid = os.fork()
                if not pid:
                    signal.pause()
                children.append(pid)
        except OSError as error:
            print(error.errno, file=sys.stderr)
        print(len(children))
    """
    result = python(slot, code, str(wanted))
    assert result.stderr == "11\n"
    return int(result.stdout)


@pytest.mark.needs(Capability.QUOTAS)
@pytest.mark.sandbox(disk=4)
class TestDisk:
    @pytest.mark.parametrize("place", [".", "$TMPDIR", "$HOME", "/tmp", "/var/tmp"])
    def test_is_limited_wherever_files_go(self, sandbox: Slot, place: str) -> None:
        result = sandbox.sh(f"head -c 8M /dev/zero > {place}/file; stat -c %s {place}/file")
        assert "No space left" in result.stderr
        assert int(result.stdout) <= 4 << 20

    def test_can_be_used_up_to_the_limit(self, sandbox: Slot) -> None:
        assert sandbox.sh("head -c 3900K /dev/zero > file").success

    def test_nothing_is_in_the_way_of_a_full_slot(self, sandbox: Slot) -> None:
        sandbox.sh("head -c 8M /dev/zero > file; head -c 8M /dev/zero > /tmp/file")
        assert sandbox.exec("cat", input="input").stdout == "input"
        assert len(sandbox.read_bytes("file")) > 0
        sandbox.reset()
        assert sandbox.list_files() == []

"""The fixtures as users meet them, in right and in wrong use, and the slots of failed tests that are kept."""

from __future__ import annotations

import shlex
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.chaos import leftovers
from tests.integration.conftest import Inner
from tests.waiting import wait_until


def test_slots(inner: Inner) -> None:
    inner.write(
        "test_slots.py",
        """
        import pytest

        def test_one(sandbox):
            sandbox.write_text("mine", "one")
            assert sandbox.read_text("mine") == "one"

        def test_fresh(sandbox):
            assert sandbox.list_files() == []

        @pytest.mark.sandbox(slots=2)
        def test_two(sandbox):
            first, second = sandbox
            first.write_text("mine", "one")
            assert second.list_files() == []
            assert first.name != second.name

        @pytest.mark.sandbox(exec_timeout=0.2)
        class TestMarks:
            def test_of_the_class(self, sandbox):
                with pytest.raises(TimeoutError):
                    sandbox.exec("sleep", "1000")

            @pytest.mark.sandbox(exec_timeout=60, env_vars={"COLOUR": "red"})
            def test_closest_wins(self, sandbox):
                assert sandbox.sh("sleep 0.3; echo $COLOUR").stdout == "red\\n"
        """,
    )
    run = inner.run()
    assert set(run.verdicts.values()) == {"passed"}


def test_a_slot_does_not_outlive_its_fixture(inner: Inner) -> None:
    inner.write(
        "test_later.py",
        """
        import pytest
        from pytest_sandboxes import LeaseClosedError

        kept = []

        def test_first(sandbox, sandbox_factory):
            kept.append(sandbox)
            with sandbox_factory() as slot:
                kept.append(slot)

        def test_second():
            for slot in kept:
                with pytest.raises(LeaseClosedError, match="given back: a slot lives as long as the fixture"):
                    slot.list_files()

        def test_third():
            kept[0].list_files()
        """,
    )
    run = inner.run()
    assert run.verdicts == {"test_first": "passed", "test_second": "passed", "test_third": "failure"}


def test_factory(inner: Inner) -> None:
    inner.write("sandboxes.yaml", "profiles:\n  other: {workspace_base: /elsewhere, buffer_sandboxes: 0}\n")
    inner.write(
        "test_factory.py",
        """
        def test_profile(sandbox_factory, sandbox_pool):
            before = sandbox_pool.statistics()
            with sandbox_factory(profile="other", slots=2, exec_timeout=5) as (first, second):
                assert first.workspace == second.workspace == "/elsewhere"
                now = sandbox_pool.statistics()
                assert (now.leased, now.leases - before.leases) == (2, 1)
                assert "2 leased" in repr(sandbox_pool)
            assert sandbox_pool.statistics().leased == 0

        def test_twice(sandbox_factory):
            wish = sandbox_factory()
            for _ in range(2):
                with wish as slot:
                    assert slot.list_files() == []
                    slot.write_text("mine", "")
        """,
    )
    assert inner.run().verdicts == {"test_profile": "passed", "test_twice": "passed"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            "profil='default'",
            "sandbox_factory in test_factory.py::test_it: unknown argument 'profil'; did you mean 'profile'?",
        ),
        (
            "profile='defalt'",
            "unknown profile 'defalt', there is default (sandboxes.yaml); did you mean 'default'?",
        ),
        ("slots=0", "slots is 0 (int), but must be a whole number above 0"),
        ("slots=9", "slots is 9, but the pool of profile 'default' never has more than 8"),
        ("memory=-1", "memory is -1 (int), but must be a whole number of MB above 0"),
        ("network='outbound'", "backend local cannot give a sandbox a network"),
    ],
)
def test_misuse_of_the_factory_raises_at_once(inner: Inner, arguments: str, complaint: str) -> None:
    inner.write("test_factory.py", f"def test_it(sandbox_factory):\n    sandbox_factory({arguments})\n")
    run = inner.run()
    assert run.verdicts == {"test_it": "failure"}
    assert complaint in run.cases["test_it"].text
    assert "pytest_sandboxes/" not in run.stdout, "a traceback of ours"


def test_the_factory_without_a_block_says_what_is_missing(inner: Inner) -> None:
    inner.write(
        "test_factory.py",
        """
        def test_call(sandbox_factory):
            sandbox_factory().exec("true")

        def test_unpacked(sandbox_factory):
            one, two = sandbox_factory(slots=2)

        def test_asked(sandbox_factory):
            assert not hasattr(sandbox_factory(), "exec")
        """,
    )
    run = inner.run()
    assert run.verdicts == {"test_call": "failure", "test_unpacked": "failure", "test_asked": "passed"}
    hint = "sandbox_factory leases for a block, so write `with sandbox_factory(...) as slot:`"
    assert f"AttributeError: no 'exec' before the lease: {hint}" in run.cases["test_call"].text
    assert f"TypeError: no slots before the lease: {hint}" in run.cases["test_unpacked"].text


def test_the_factory_in_a_test_starts_from_its_marker(inner: Inner) -> None:
    inner.write("sandboxes.yaml", "profiles:\n  small: {execution_timeout_s: 7}\n")
    inner.write(
        "test_factory.py",
        """
        import pytest

        def what(slot):
            return slot._lease.profile.name, slot._lease.profile.execution_timeout_s, slot._lease.count

        @pytest.fixture
        def mine(sandbox_factory):
            with sandbox_factory() as slot:
                yield slot

        @pytest.mark.sandbox(profile="small", slots=2, exec_timeout=1)
        def test_it(sandbox, sandbox_factory, mine):
            assert what(mine) == ("default", 60, 1)
            with sandbox_factory() as slot:
                assert what(slot) == ("small", 1, 1)
            with sandbox_factory(exec_timeout=3) as slot:
                assert what(slot) == ("small", 3, 1)
            with sandbox_factory(profile="default") as slot:
                assert what(slot) == ("default", 1, 1)

        def test_next(sandbox_factory):
            with sandbox_factory() as slot:
                assert what(slot) == ("default", 60, 1)
        """,
    )
    run = inner.run()
    assert run.verdicts == {"test_it": "passed", "test_next": "passed"}, run.stdout


def test_positional_arguments_of_the_factory(inner: Inner) -> None:
    inner.write("test_factory.py", "def test_it(sandbox_factory):\n    sandbox_factory('default')\n")
    assert "TypeError" in inner.run().cases["test_it"].text


def test_statistics_are_a_frozen_snapshot(inner: Inner) -> None:
    inner.write(
        "test_statistics.py",
        """
        import dataclasses
        import pytest

        def test_it(sandbox, sandbox_pool):
            before = sandbox_pool.statistics()
            sandbox.reset()
            after = sandbox_pool.statistics()
            assert (before.resets, after.resets) == (0, 1)
            assert (before.leases, before.leased, after.leased) == (1, 1, 1)
            assert after.sandboxes_started == before.sandboxes_started + 1
            with pytest.raises(dataclasses.FrozenInstanceError):
                after.leases = 0
        """,
    )
    assert inner.run().verdicts == {"test_it": "passed"}


def test_hooks_see_leases(inner: Inner) -> None:
    inner.write(
        "conftest.py",
        """
        def pytest_sandboxes_leased(lease):
            print(f"leased to {lease.holder}: {lease.count} on {lease.backend}")

        def pytest_sandboxes_released(lease):
            print(f"released by {lease.holder}: {len(lease.ports)} still there")
            print(lease)
        """,
    )
    inner.write("test_hooks.py", "def test_it(sandbox):\n    print('in between')\n")
    run = inner.run("-rP", "-q")
    said = [line for line in run.stdout.splitlines() if "leased" in line or "between" in line]
    assert said[:3] == [
        "leased to test_hooks.py::test_it: 1 on local",
        "in between",
        "released by test_hooks.py::test_it: 1 still there",
    ]
    assert "<Lease of 1 slot on local for test_hooks.py::test_it: local-" in run.stdout


def test_a_hook_that_fails_leaks_no_lease(inner: Inner) -> None:
    inner.write(
        "conftest.py",
        """
        def pytest_sandboxes_leased(lease):
            if "first" in lease.holder:
                raise ValueError("no")

        def pytest_sandboxes_released(lease):
            if "second" in lease.holder:
                raise ValueError("no")
        """,
    )
    inner.write(
        "test_hooks.py",
        """
        def test_first(sandbox): pass
        def test_second(sandbox): pass
        def test_third(sandbox_pool):
            assert sandbox_pool.statistics().leased == 0
        """,
    )
    assert inner.run().verdicts == {"test_first": "error", "test_second": "error", "test_third": "passed"}


# -- slots of failed tests

KEPT = """
import pytest

def test_passes(sandbox):
    pass

def test_passes_after_a_loss(sandbox, attempt, lose):
    if attempt == 1:
        lose()
        assert False

def test_fails(sandbox):
    sandbox.write_text("evidence", "of failure")
    sandbox.popen("sleep", "1000")
    assert False

@pytest.mark.xfail
def test_fails_as_expected(sandbox):
    assert False

@pytest.mark.flaky(reruns=1)
def test_passes_in_the_end(sandbox, attempt):
    assert attempt == 2
"""


def mark(inner: Inner) -> str:
    """Give the project's sandboxes a mark by which they can be counted, beside others of this process."""
    marker = f"kept-{uuid.uuid4().hex}"
    inner.write(
        "sandboxes.yaml", f"profiles: {{default: {{workspace_base: /{marker}, buffer_sandboxes: 0}}}}"
    )
    return marker


def kept_commands(output: str) -> dict[str, tuple[str, str]]:
    """The commands printed for each test: to enter, and to end."""
    lines = output.splitlines()
    return {
        lines[at - 1]: (line.partition("enter: ")[2], lines[at + 1].partition("end:   ")[2])
        for at, line in enumerate(lines)
        if line.startswith("  enter: ")
    }


def say(command: str, script: str) -> str:
    """What a shell that `command` starts answers to `script`."""
    done = subprocess.run(shlex.split(command), input=script, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def is_alive(pid: int) -> bool:
    """Neither gone nor a zombie."""
    try:
        return ") Z " not in Path("/proc", str(pid), "stat").read_text()
    except OSError:
        return False


def end_all(commands: Mapping[str, tuple[str, str]]) -> None:
    for _, end in commands.values():
        subprocess.run(shlex.split(end), capture_output=True, check=False)


def test_slots_of_failed_tests_are_kept_and_no_others(inner: Inner) -> None:
    inner.load("rerunfailures")
    inner.write("test_kept.py", KEPT)
    marker = mark(inner)
    run = inner.run("--sandbox-keep-failed")
    assert run.counts["failed"] == 1
    assert "slots of failed tests, kept for an hour:" in run.stdout
    commands = kept_commands(run.stdout)
    try:
        assert commands.keys() == {"test_kept.py::test_fails"}
        enter, end = commands["test_kept.py::test_fails"]
        assert leftovers.processes(marker)
        assert say(enter, "pwd; id -un; cat evidence\n") == f"/{marker}\nsandbox\nof failure"
        assert "sleep" in say(enter, "cat /proc/[0-9]*/comm\n").split(), "what the test had left running"
        subprocess.run(shlex.split(end), check=True)
        leftovers.seconds_until_gone(marker, 60)
        assert say(enter, "pwd\n").startswith("cannot enter process "), "there is nothing any more"
    finally:
        end_all(commands)


def test_nothing_is_kept_unless_asked_for(inner: Inner) -> None:
    inner.load("rerunfailures")
    inner.write("test_kept.py", KEPT)
    marker = mark(inner)
    run = inner.run()
    assert run.counts["failed"] == 1
    assert kept_commands(run.stdout) == {}
    leftovers.seconds_until_gone(marker, 60)


def test_a_kept_slot_outlives_its_run(inner: Inner) -> None:
    inner.load("rerunfailures")
    inner.write("test_kept.py", KEPT)
    run = inner.run_apart("--sandbox-keep-failed", "-k", "test_fails")
    commands = kept_commands(run.stdout)
    try:
        ((enter, end),) = commands.values()
        assert say(enter, "cat evidence\n") == "of failure"
        pid = int(end.split()[-1])
        assert is_alive(pid)
        subprocess.run(shlex.split(end), check=True)
        wait_until(lambda: not is_alive(pid))
    finally:
        end_all(commands)


def test_a_slot_that_is_lost_is_not_kept(inner: Inner) -> None:
    inner.write("test_kept.py", "def test_it(sandbox, lose):\n    lose()\n    assert False\n")
    run = inner.run("--sandbox-keep-failed", "--sandbox-infra-retries=0")
    assert run.verdicts == {"test_it": "error"}
    assert "kept for an hour" not in run.stdout

"""One pool for all workers of pytest-xdist: what they share, and that nothing else is different."""

from __future__ import annotations

import re

import pytest

from tests.integration.conftest import Inner

ONE = """
profiles:
  default: {max_sandboxes: 1, buffer_sandboxes: 1}
"""
TELLING = """
import os
from pathlib import Path

from pytest_sandboxes.backends.local import LocalBackend


class Telling(LocalBackend):
    name = "telling"

    def launch(self, profile):
        with Path("log").open("a") as log:
            log.write(f"{os.getpid()}\\n")
        return super().launch(profile)


def pytest_sandboxes_backends(config):
    return {"telling": Telling}
"""
MANY = """
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_it(sandbox, number):
    sandbox.write_text("number", str(number))
    assert sandbox.exec("cat", "number").stdout == str(number)
    assert len(sandbox.list_files()) == 1
"""
EXCLUSIVE = """
from pathlib import Path

import pytest

HELD = Path(__file__).parent / "held"

@pytest.mark.parametrize("number", range(16))
def test_it(sandbox, sandbox_pool, number):
    HELD.mkdir()  # or another test holds the only slot
    assert sandbox.exec("echo", str(number)).stdout == f"{number}\\n"
    now = sandbox_pool.statistics()
    HELD.rmdir()
    assert now.leased + now.idle + now.starting == 1
"""


def sandboxes_of(run_output: str) -> str:
    """What the summary says of sandboxes; it is there once."""
    (found,) = re.findall(r"^=+ sandboxes =+\n(.*)$", run_output, re.MULTILINE)
    return str(found)


@pytest.mark.parametrize("dist", ["load", "worksteal", "loadscope", "loadfile", "loadgroup"])
def test_four_workers_share_one_sandbox(inner: Inner, dist: str) -> None:
    inner.write("sandboxes.yaml", ONE)
    inner.write("conftest.py", TELLING)
    inner.write("test_it.py", EXCLUSIVE)
    run = inner.run_apart("-n", "4", "--dist", dist, "--sandbox-backend=telling")
    assert run.counts == {"passed": 16}
    assert len(set((inner.path / "log").read_text().split())) == 1, "started by more than the controller"
    assert "16 leased" in sandboxes_of(run.stdout)
    assert len({case.properties["sandbox"] for case in run.cases.values()}) == 16


def test_each_worker_runs_all(inner: Inner) -> None:
    inner.write("test_it.py", MANY.format(count=3))
    run = inner.run_apart("-n", "2", "--dist", "each")
    assert run.counts == {"passed": 6}
    assert "6 leased" in sandboxes_of(run.stdout)


@pytest.mark.parametrize("options", [("-n", "0"), ("-p", "no:xdist")])
def test_without_workers_the_pool_is_here(inner: Inner, options: tuple[str, ...]) -> None:
    inner.write(
        "test_it.py",
        """
        from pytest_sandboxes.pool.pool import Pool

        def test_it(sandbox, sandbox_pool):
            assert type(sandbox_pool) is Pool
        """,
    )
    inner.write("conftest.py", "")
    run = inner.run_apart(*options)
    assert run.counts == {"passed": 1}


def test_only_collecting_starts_nothing(inner: Inner) -> None:
    inner.write("test_it.py", MANY.format(count=3))
    run = inner.run_apart("-n", "2", "--collect-only", "-q")
    assert run.exit_code == 0
    assert "test_it[2]" in run.stdout
    assert "sandboxes =" not in run.stdout


def test_everything_that_a_slot_can_do(inner: Inner) -> None:
    inner.write(
        "test_it.py",
        """
        import asyncio, os, threading
        import pytest
        from pytest_sandboxes import CommandFailedError, ExecTimeoutError, LeaseClosedError

        def test_files(sandbox, tmp_path):
            content = os.urandom(3_000_000)
            sandbox.write_bytes("deep/file", content)
            assert sandbox.read_bytes("deep/file") == content
            (tmp_path / "tree").mkdir()
            (tmp_path / "tree" / "name").write_bytes(content)
            sandbox.upload(tmp_path / "tree", "uploaded")
            sandbox.download("uploaded", tmp_path / "again")
            assert (tmp_path / "again" / "name").read_bytes() == content
            assert [each.path for each in sandbox.list_files("uploaded", sha256=True)] == ["name"]
            with pytest.raises(FileNotFoundError):
                sandbox.read_bytes("missing")

        def test_errors(sandbox):
            with pytest.raises(ExecTimeoutError) as caught:
                sandbox.sh("echo so far; sleep 100", timeout=5)
            assert caught.value.result.stdout == "so far\\n"
            with pytest.raises(CommandFailedError):
                sandbox.exec("false", check=True)
            with pytest.raises(ValueError, match="256 KiB"):
                sandbox.exec("echo", "x" * 300_000)
            with pytest.raises(OSError):
                sandbox.exec("echo", "x" * 200_000)  # more than a kernel takes in one word

        def test_input_and_output_larger_than_any_window(sandbox):
            data = "x" * 5_000_000
            assert sandbox.exec("cat", input=data).stdout == data
            result = sandbox.sh("head -c 30000000 /dev/zero")
            assert result.stdout_truncated and len(result.stdout_bytes) == 10 << 20

        def test_processes(sandbox):
            with sandbox.popen("cat") as process:
                process.write("one\\n")
                assert process.stdout.readline(timeout=60) == "one\\n"
                process.close_stdin()
                assert process.wait(60) == 0
            endless = sandbox.popen("yes")
            sandbox.exec("true")  # nobody reads what `yes` says
            endless.kill()
            assert endless.wait(60) == -9
            gone = sandbox.popen("true")
            gone.wait(60)
            with pytest.raises(BrokenPipeError):
                gone.write("too late")
            with pytest.raises(FileNotFoundError):
                sandbox.popen("no-such-program")

        def test_async(sandbox):
            async def run():
                results = await asyncio.gather(*(sandbox.aio.exec("echo", str(n)) for n in range(20)))
                return [result.stdout for result in results]
            assert asyncio.run(run()) == [f"{n}\\n" for n in range(20)]

        def test_reset_and_end(sandbox_factory):
            with sandbox_factory() as slot:
                slot.write_text("file", "x")
                slot.reset()
                assert not list(slot.list_files())
            with pytest.raises(LeaseClosedError):
                slot.exec("true")

        @pytest.mark.sandbox(slots=2)
        def test_two(sandbox):
            one, two = sandbox
            assert one.name != two.name
            threads = [threading.Thread(target=slot.exec, args=("true",)) for slot in sandbox * 5]
            for each in threads: each.start()
            for each in threads: each.join()

        def test_forked(sandbox):
            if os.fork() == 0:
                try:
                    sandbox.exec("true")
                except RuntimeError:
                    os._exit(7)
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
            assert sandbox.exec("true").success
        """,
    )
    run = inner.run_apart("-n", "2", "-W", "ignore::DeprecationWarning")
    assert run.counts == {"passed": 8}, run.stdout


def test_a_sandbox_that_no_signature_tells_of(inner: Inner) -> None:
    inner.write(
        "test_it.py",
        """
        def test_it(request):
            assert request.getfixturevalue("sandbox").exec("echo", "hello").stdout == "hello\\n"
        """,
    )
    run = inner.run_apart("-n", "2")
    assert run.counts == {"passed": 1}
    assert "1 leased" in sandboxes_of(run.stdout)


def test_statistics_count_all_workers(inner: Inner) -> None:
    inner.write(
        "test_it.py",
        """
        def test_it(sandbox, sandbox_pool):
            now = sandbox_pool.statistics()
            assert now.leased == 1 and now.leases >= 1
            assert repr(sandbox_pool).startswith("<SharedPool: 1 leased")
        """,
    )
    assert inner.run_apart("-n", "1").counts == {"passed": 1}


def test_what_does_not_apply_is_said_once(inner: Inner) -> None:
    inner.write("sandboxes.yaml", "profiles:\n  default: {image: 'python:3.12'}\n")
    inner.write("test_it.py", MANY.format(count=4))
    run = inner.run_apart("-n", "3")
    assert run.stdout.count("sandboxes: profile default: image not used by backend local") == 1


def test_a_profile_that_cannot_be_kept_ends_the_run(inner: Inner) -> None:
    inner.write("sandboxes.yaml", "profiles:\n  default: {network: outbound}\n")
    inner.write("test_it.py", MANY.format(count=4))
    run = inner.run_apart("-n", "3")
    assert run.exit_code == pytest.ExitCode.USAGE_ERROR
    (sentence,) = [line for line in run.stderr.splitlines() if line.startswith("ERROR: ")]
    assert "network" in sentence
    assert "INTERNALERROR" not in run.stdout + run.stderr


def test_a_factory_that_asks_for_what_cannot_be_kept_fails_its_test(inner: Inner) -> None:
    inner.write(
        "test_it.py",
        """
        import pytest
        from pytest_sandboxes import UnsupportedError

        def test_it(sandbox_factory):
            with pytest.raises(UnsupportedError, match="network"):
                sandbox_factory(network="outbound")
        """,
    )
    assert inner.run_apart("-n", "2").counts == {"passed": 1}


def test_workers_load_no_backend(inner: Inner) -> None:
    inner.write(
        "test_it.py",
        """
        import sys

        def test_it(sandbox):
            sandbox.exec("true")
            loaded = {name for name in sys.modules if name.startswith("pytest_sandboxes.backends.")}
            assert not loaded & {f"pytest_sandboxes.backends.{name}" for name in ("local", "isolated", "bubblewrap")}
        """,
    )
    # the plugin with faults brings backends of its own
    arguments = ["-n", "2", "-p", "no:tests.integration.faults", "-q"]
    result = inner.pytester.runpytest_subprocess(*arguments, timeout=120)
    result.assert_outcomes(passed=1)


def test_slots_of_failed_tests_are_kept_and_told_once(inner: Inner) -> None:
    inner.write(
        "test_it.py",
        """
        def test_it(sandbox):
            sandbox.write_text("kept", "x")
            assert False
        """,
    )
    run = inner.run_apart("-n", "2", "--sandbox-keep-failed")
    (end,) = re.findall(r"^  end: +(.*)$", run.stdout, re.MULTILINE)
    assert run.stdout.count("enter: ") == 1
    assert inner.pytester.run(*end.split()).ret == 0


def test_memory_is_the_codes_own_fault_in_a_worker_too(inner: Inner) -> None:
    inner.write(
        "test_it.py",
        """
        import os
        import pytest
        from pytest_sandboxes import errors
        from pytest_sandboxes.sharing import messages

        @pytest.mark.parametrize("kind", [errors.MemoryLimitExceededError, errors.SandboxLostError])
        def test_it(sandbox, kind):
            error = messages.unpack_error(messages.pack_error(kind("it is gone")))
            assert type(error) is kind and str(error) == "it is gone"
        """,
    )
    assert inner.run_apart("-n", "2").counts == {"passed": 2}


@pytest.mark.parametrize("text", ["\\udcff", "\\x1b[2J", "::add-mask::x"])
def test_no_text_ends_a_worker(inner: Inner, text: str) -> None:
    inner.write(
        "test_it.py",
        f"""
        import warnings

        def test_message(sandbox):
            assert False, "{text}"

        def test_property(sandbox, record_property):
            record_property("text", {{"{text}": ["{text}", {{"{text}"}}]}})

        def test_warning(sandbox):
            warnings.warn("{text}")

        def test_reason(sandbox_factory):
            with sandbox_factory() as slot:
                slot._port.lose("{text}")
        """,
    )
    run = inner.run_apart("-n", "2")
    assert "INTERNALERROR" not in run.stdout + run.stderr
    assert run.verdicts["test_message"] == "failure"
    assert run.verdicts["test_property"] == run.verdicts["test_warning"] == "passed"
    assert run.verdicts["test_reason"] == "error"


def test_no_amount_of_output_fills_the_controller(inner: Inner) -> None:
    inner.write(
        "test_it.py",
        """
        import os, time
        from pathlib import Path
        import pytest

        MEGABYTES, MOST = 300, 150
        FLOOD = ("head", "-c", f"{MEGABYTES}M", "/dev/zero")

        def peak(pid):
            status = Path(f"/proc/{pid}/status").read_text()
            return int(status.partition("VmHWM:")[2].split()[0]) >> 10

        @pytest.fixture(autouse=True)
        def bounded():
            yield
            assert peak(os.getpid()) < MOST
            assert peak(os.getppid()) < MOST

        def test_cut(sandbox):
            assert sandbox.exec(*FLOOD).stdout_truncated

        def test_read(sandbox):
            flood = sandbox.popen(*FLOOD)
            size = 0
            while piece := flood.stdout.read(1 << 20):
                size += len(piece)
            assert size == MEGABYTES << 20

        def test_not_read(sandbox):
            flood = sandbox.popen(*FLOOD)
            time.sleep(1)
            assert flood.poll() is None
        """,
    )
    assert inner.run_apart("-n", "3").counts == {"passed": 3}

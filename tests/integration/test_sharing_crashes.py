"""Workers of pytest-xdist that die in a test: their leases come back, and their test is run once more."""

from __future__ import annotations

import itertools
import os
import signal
from textwrap import dedent

import pytest

from tests.integration.conftest import Inner

ONE = """
profiles:
  default: {max_sandboxes: 1, buffer_sandboxes: 1}
"""
DEATHS = {
    "exit": "os._exit(3)",
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
    "segfault": "os.kill(os.getpid(), signal.SIGSEGV)",
    "grandchild": "exit_before_a_child()",
}
SUITE = """
import os, signal, time
from pathlib import Path

import pytest

HERE = Path(__file__).parent

def exit_before_a_child():
    if child := os.fork():
        (HERE / "child").write_text(str(child))
        os._exit(3)
    time.sleep(90)

def is_first(name):
    try:
        (HERE / f"{{name}}.began").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

def test_dies(sandbox):
    sandbox.exec("true")
    if is_first("dies"):
        {death}

@pytest.mark.parametrize("number", range(6))
def test_lives(sandbox, sandbox_pool, number):
    assert sandbox.exec("echo", str(number)).stdout == f"{{number}}\\n"
    now = sandbox_pool.statistics()
    assert now.leased + now.idle + now.starting == 1
"""


@pytest.mark.parametrize("death", DEATHS)
def test_four_workers_and_one_sandbox(inner: Inner, death: str) -> None:
    inner.write("sandboxes.yaml", ONE)
    inner.write("test_it.py", SUITE.format(death=DEATHS[death]))
    try:
        run = inner.run_apart("-n", "4", "-p", "no:faulthandler", timeout=80)
    finally:
        if death == "grandchild":
            os.kill(int((inner.path / "child").read_text()), signal.SIGKILL)
    assert run.counts == {"passed": 7}
    assert set(run.verdicts.values()) == {"passed"}
    case = run.cases["test_dies"]
    assert case.attempts == 2
    assert len(case.lost) == 1
    assert case.lost[0].startswith("attempt 1: worker gw")
    assert case.repeated == ()
    assert "1 tried again after a loss" in run.stdout


@pytest.mark.parametrize("dist", ["load", "worksteal", "loadscope", "loadfile"])
def test_the_second_crash_is_an_error(inner: Inner, dist: str) -> None:
    inner.write(
        "test_it.py",
        """
        import os

        def test_dies(sandbox):
            os._exit(3)

        def test_lives(sandbox):
            pass
        """,
    )
    run = inner.run_apart("-n", "2", "--dist", dist)
    assert run.counts == {"passed": 1, "errors": 1}
    assert run.verdicts == {"test_dies": "error", "test_lives": "passed"}
    assert len([each for each in run.cases["test_dies"].lost if ": worker gw" in each]) == 2
    assert "crashed" in run.cases["test_dies"].text


@pytest.mark.parametrize(
    ("marker", "options"),
    [("@pytest.mark.sandbox(retry_safe=False)", ()), ("", ("--sandbox-infra-retries=0",))],
    ids=["not safe", "not wanted"],
)
def test_once_is_enough(inner: Inner, marker: str, options: tuple[str, ...]) -> None:
    inner.write(
        "test_it.py",
        f"""
        import os
        from pathlib import Path
        import pytest

        {marker}
        def test_dies(sandbox):
            Path("runs").open("a").write("x")
            os._exit(3)
        """,
    )
    run = inner.run_apart("-n", "2", *options)
    assert run.verdicts == {"test_dies": "error"}
    assert (inner.path / "runs").read_text() == "x"


def test_other_crashes_are_none_of_ours(inner: Inner) -> None:
    inner.write(
        "test_it.py",
        """
        import os
        from pathlib import Path

        def test_dies():
            Path("runs").open("a").write("x")
            os._exit(3)

        def test_lives(sandbox):
            pass
        """,
    )
    run = inner.run_apart("-n", "2")
    assert run.counts == {"passed": 1, "failed": 1}
    assert (inner.path / "runs").read_text() == "x"


def test_a_crash_while_nothing_is_free(inner: Inner) -> None:
    """What waits for a lease when its worker dies is forgotten, not granted."""
    inner.write("sandboxes.yaml", ONE)
    inner.write(
        "test_it.py",
        """
        import os, signal, threading, time
        from pathlib import Path

        def test_holds(sandbox, sandbox_pool):
            while not Path("waited").exists():
                time.sleep(0.01)
            while sandbox_pool.statistics().waiting:
                time.sleep(0.01)

        def test_waits(sandbox_factory, sandbox_pool):
            while not sandbox_pool.statistics().leased:
                time.sleep(0.01)

            def die():
                while not sandbox_pool.statistics().waiting:
                    time.sleep(0.01)
                Path("waited").touch()
                os._exit(3)

            threading.Thread(target=die, daemon=True).start()
            with sandbox_factory():
                raise AssertionError("there was a lease to be had")
        """,
    )
    run = inner.run_apart("-n", "2", "--sandbox-infra-retries=0", timeout=80)
    assert run.verdicts == {"test_holds": "passed", "test_waits": "error"}


CRASHES_ONCE = """
    import os
    from pathlib import Path
    import pytest

    def pytest_configure(config):
        global IS_WORKER
        IS_WORKER = hasattr(config, "workerinput")

    def crash_once(nodeid):
        if IS_WORKER and nodeid.endswith("[1]") and not Path("crashed").exists():
            Path("crashed").touch()
            os._exit(3)

    {hook}
"""
MOMENTS = {
    "before its lease": """
    @pytest.fixture(autouse=True, scope="function")
    def early(request):
        crash_once(request.node.nodeid)
    """,
    "before its lease is asked for": """
    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(item):
        crash_once(item.nodeid)
    """,
    "when a part has been reported": """
    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(report):
        if report.when == "call":
            crash_once(report.nodeid)
    """,
    "when all has been reported": """
    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(nodeid):
        crash_once(nodeid)
    """,
}


@pytest.mark.parametrize("dist", ["load", "worksteal", "loadscope"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_test_has_one_result_whenever_its_worker_crashes(inner: Inner, dist: str, moment: str) -> None:
    hook = dedent(MOMENTS[moment]).replace("\n", "\n    ")
    inner.write("conftest.py", CRASHES_ONCE.format(hook=hook))
    inner.write(
        "test_it.py",
        """
        from pathlib import Path
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_it(sandbox, number):
            Path("runs").open("a").write(str(number))
            assert number == "wrong"
        """,
    )
    run = inner.run_apart("-n", "2", "--dist", dist)
    assert (inner.path / "crashed").exists()
    assert run.verdicts == dict.fromkeys([f"test_it[{number}]" for number in range(4)], "failure")
    assert run.counts == {"failed": 4}
    runs = (inner.path / "runs").read_text()
    assert sorted(runs) == sorted("01123" if moment == "when a part has been reported" else "0123")


@pytest.mark.parametrize(
    ("dist", "restarts"),
    [
        *itertools.product(["load", "worksteal", "loadscope"], [0, 2, 100]),
        *itertools.product(["loadfile", "loadgroup"], [100]),  # as by scope, but for what belongs together
    ],
)
def test_a_crash_is_never_silence(inner: Inner, dist: str, restarts: int) -> None:
    """Whether or not there are workers left to run it again."""
    for name in ("a", "b"):
        inner.write(
            f"test_{name}.py",
            f"""
            import os
            import pytest

            @pytest.mark.parametrize("number", range(3))
            def test_{name}(sandbox, number):
                if number == 1:
                    os._exit(3)
            """,
        )
    run = inner.run_apart("-n", "2", "--dist", dist, f"--max-worker-restart={restarts}")
    assert run.exit_code == pytest.ExitCode.TESTS_FAILED, run.stdout
    errors = [name for name, verdict in run.verdicts.items() if verdict == "error"]
    assert errors
    assert set(run.verdicts.values()) <= {"error", "passed"}
    if restarts == 100:
        assert sorted(errors) == ["test_a[1]", "test_b[1]"]
        assert len(run.verdicts) == 6


def test_a_worker_that_comes_too_late_is_no_internal_error(inner: Inner) -> None:
    """The last test is given out when it comes, so it is told to end; it has not collected yet when that test crashes."""
    inner.write(
        "conftest.py",
        """
        import os
        import time
        from pathlib import Path

        WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")

        def wait_for(name):
            deadline = time.monotonic() + 60
            while not Path(name).exists():
                assert time.monotonic() < deadline, name
                time.sleep(0.01)

        Path(f"{WORKER} is here").touch()
        if WORKER == "gw3":
            wait_for("the last test runs")

        def pytest_collection():
            if WORKER == "gw2":
                wait_for("gw3 is here")
            if WORKER == "gw3":
                Path("gw3 collects").touch()
                wait_for("gw4 is here")
        """,
    )
    inner.write(
        "test_it.py",
        """
        import os
        from pathlib import Path

        import pytest
        from conftest import WORKER, wait_for

        @pytest.mark.parametrize("number", range(3))
        def test_it(sandbox, number):
            if number < 2 and WORKER in ("gw0", "gw1"):
                os._exit(3)
            if number == 2 and not Path("the last test runs").exists():
                Path("the last test runs").touch()
                wait_for("gw3 collects")
                os._exit(3)
        """,
    )
    run = inner.run_apart("-n", "2", "--max-worker-restart=100")
    assert run.verdicts == {f"test_it[{number}]": "passed" for number in range(3)}, run.stdout
    assert run.counts == {"passed": 3}
    assert (inner.path / "gw4 is here").exists()

"""Lost attempts beside plugins and options that repeat, stop, select, guard and debug tests themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest
import pytest_rerunfailures  # type: ignore[import-untyped]

from tests.integration.conftest import Inner

HAS_EXCLUDED_PATHS = hasattr(pytest_rerunfailures, "_is_rerun_path_excluded")
needs_subtests = pytest.mark.skipif(pytest.version_tuple < (9, 0), reason="subtests came with pytest 9")


@pytest.fixture(autouse=True)
def _beside_others(inner: Inner) -> None:
    inner.load("asyncio", "rerunfailures", "timeout")


# -- pytest-rerunfailures


@pytest.fixture
def flaky(inner: Inner) -> Inner:
    inner.write(
        "test_flaky.py",
        """
        import pytest

        @pytest.mark.flaky(reruns=2)
        def test_lost_then_passed(sandbox, attempt, lose, record_property):
            record_property("mine", attempt)
            if attempt == 1:
                lose()
            sandbox.list_files()

        @pytest.mark.flaky(reruns=2)
        def test_lost_unnoticed(sandbox, attempt, lose):
            if attempt == 1:
                lose()

        @pytest.mark.flaky(reruns=2)
        @pytest.mark.xfail
        def test_lost_under_xfail(sandbox, attempt, lose):
            if attempt == 1:
                lose()
                sandbox.list_files()
            raise ValueError("as expected")

        @pytest.mark.flaky(reruns=2)
        def test_failed_then_lost_then_passed(sandbox, attempt, lose):
            assert attempt != 1
            if attempt == 2:
                lose()
            sandbox.list_files()

        @pytest.mark.flaky(reruns=1)
        def test_lost_to_the_end(sandbox, lose):
            lose()
            sandbox.list_files()

        @pytest.mark.flaky(reruns=1)
        def test_guilty(sandbox, lose):
            sandbox.exec("true")
            lose()
            sandbox.list_files()

        def test_lost_without_marker(sandbox, attempt, lose):
            if attempt == 1:
                lose()
            sandbox.list_files()
        """,
    )
    return inner


def endings(inner: Inner, *args: str) -> dict[str, tuple[str, str]]:
    """What `-v` says about each test: how often it was repeated, and its end."""
    found: dict[str, list[str]] = {}
    for line in inner.run("-v", *args).stdout.splitlines():
        place, _, rest = line.partition(" ")
        if "::" in place and rest.split():
            found.setdefault(place.partition("::")[2], []).append(rest.split()[0])
    return {name: ("R" * words.count("RERUN"), words[-1]) for name, words in found.items()}


def test_rerunfailures_is_handed_the_lost_attempts(flaky: Inner) -> None:
    assert endings(flaky) == {
        "test_lost_then_passed": ("R", "PASSED"),
        "test_lost_unnoticed": ("R", "PASSED"),
        "test_lost_under_xfail": ("R", "XFAIL"),
        "test_failed_then_lost_then_passed": ("RR", "PASSED"),
        "test_lost_to_the_end": ("R", "ERROR"),
        "test_guilty": ("R", "FAILED"),
        "test_lost_without_marker": ("", "PASSED"),
    }


def test_counts_and_records_beside_rerunfailures(flaky: Inner) -> None:
    run = flaky.run()
    assert run.counts == {"passed": 4, "xfailed": 1, "failed": 1, "errors": 1, "rerun": 7}
    ends = {name: entries[-1] for name, entries in run.entries.items()}
    assert {name: end.verdict for name, end in ends.items()} == {
        "test_lost_then_passed": "passed",
        "test_lost_unnoticed": "passed",
        "test_lost_under_xfail": "skipped",
        "test_failed_then_lost_then_passed": "passed",
        "test_lost_to_the_end": "error",
        "test_guilty": "failure",
        "test_lost_without_marker": "passed",
    }
    assert {name: end.attempts for name, end in ends.items() if end.attempts != 2} == {
        "test_failed_then_lost_then_passed": 3
    }
    assert {end.repeated for end in ends.values()} == {()}, "properties have accumulated"
    assert ends["test_failed_then_lost_then_passed"].lost[0].startswith("attempt 2: ")


def test_reruns_for_all_tests(flaky: Inner) -> None:
    everything = endings(flaky, "--reruns=1", "-k", "without_marker or then_passed")
    assert everything == {
        "test_lost_then_passed": ("R", "PASSED"),
        "test_failed_then_lost_then_passed": ("RR", "PASSED"),
        "test_lost_without_marker": ("R", "PASSED"),
    }


@pytest.mark.skipif(not HAS_EXCLUDED_PATHS, reason="excluded paths came with pytest-rerunfailures 16.2")
def test_what_rerunfailures_leaves_alone_is_repeated_as_ever(flaky: Inner) -> None:
    ends = endings(flaky, "--reruns=1", "--rerun-exclude-path=.", "-k", "then_passed")
    assert ends == {
        "test_lost_then_passed": ("", "PASSED"),
        "test_failed_then_lost_then_passed": ("", "FAILED"),
    }


@needs_subtests
def test_subtests_of_a_lost_attempt_are_not_counted_beside_rerunfailures(inner: Inner) -> None:
    inner.write(
        "test_subtests.py",
        """
        import pytest

        @pytest.mark.flaky(reruns=1)
        def test_it(sandbox, subtests, fault):
            for number in range(3):
                with subtests.test(number=number):
                    if number == 1:
                        fault(sandbox)
                    sandbox.list_files()
        """,
    )
    assert inner.run("-v", "--fault=never").counts == {"passed": 1, "subtests": 3}
    assert inner.run("-v", "--fault=once").counts == {"passed": 1, "subtests": 3, "rerun": 1}
    assert inner.run("-v", "--fault=always").counts == {"errors": 1, "rerun": 1}


# -- pytest-timeout


def test_a_timeout_of_the_test_kills_its_command(inner: Inner) -> None:
    inner.write(
        "test_timeout.py",
        """
        import pytest

        @pytest.fixture
        def watched(sandbox):
            yield sandbox
            running = sandbox.sh("cat /proc/[0-9]*/comm").stdout.split()
            assert "sleep" not in running, running

        @pytest.mark.timeout(0.5, method="signal", func_only=True)
        def test_it(watched):
            watched.exec("sleep", "1000", timeout=60)
        """,
    )
    run = inner.run()
    assert run.counts == {"failed": 1}
    assert "Timeout" in run.cases["test_it"].text
    assert "ExecTimeoutError" not in run.cases["test_it"].text
    assert run.cases["test_it"].attempts == 1


@pytest.mark.parametrize("func_only", [False, True])
def test_each_attempt_is_guarded_by_the_timeout(inner: Inner, func_only: bool) -> None:
    """After an exception, pytest-timeout itself would guard nothing any more."""
    inner.write(
        "conftest.py",
        """
        def pytest_timeout_set_timer(item, settings):
            print("guarded for", settings.timeout)
        """,
    )
    inner.write(
        "test_timeout.py",
        f"""
        import signal
        import pytest

        @pytest.mark.timeout(1000, method="signal", func_only={func_only})
        def test_it(sandbox, fault):
            fault(sandbox)
            sandbox.list_files()
            left, _ = signal.getitimer(signal.ITIMER_REAL)
            assert left > 0
        """,
    )
    run = inner.run("--fault=once", "-s")
    assert run.verdicts == {"test_it": "passed"}
    assert run.cases["test_it"].attempts == 2
    assert run.stdout.count("guarded for 1000") == 2


# -- pytest's own options

SEQUENCE = """
import pytest

@pytest.mark.parametrize("number", range(4))
def test_it(sandbox, attempt, lose, number):
    if number == 0 and attempt == 1:
        lose()
    if number == 1:
        lose()
        sandbox.list_files()
    sandbox.list_files()
    assert number != 2
"""


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("-x", {"passed": 1, "errors": 1}),
        ("--maxfail=1", {"passed": 1, "errors": 1}),
        ("--maxfail=2", {"passed": 1, "errors": 1, "failed": 1}),
        ("--maxfail=3", {"passed": 2, "errors": 1, "failed": 1}),
    ],
)
def test_lost_attempts_that_were_repeated_stop_nothing(
    inner: Inner, option: str, expected: dict[str, int]
) -> None:
    inner.write("test_sequence.py", SEQUENCE)
    run = inner.run(option)
    assert run.counts == expected
    assert run.exit_code == 1


def test_last_failed(inner: Inner) -> None:
    inner.write("test_sequence.py", SEQUENCE)
    inner.run()
    run = inner.run("--lf")
    assert run.verdicts == {"test_it[1]": "error", "test_it[2]": "failure"}


def test_a_loss_while_the_run_is_to_stop_is_not_repeated(inner: Inner) -> None:
    inner.write(
        "test_stop.py",
        """
        def test_first(sandbox, lose, request):
            lose()
            request.session.shouldstop = "enough"

        def test_second(sandbox):
            pass
        """,
    )
    run = inner.run()
    assert run.verdicts == {"test_first": "error"}
    assert run.cases["test_first"].attempts == 1


def test_a_failure_where_there_is_no_terminal(inner: Inner) -> None:
    inner.write("test_it.py", "def test_it(sandbox):\n    assert sandbox.sh('echo 42').stdout == '43'\n")
    result = inner.pytester.runpytest_inprocess("-p", "no:terminal", f"--junitxml={inner.report}")
    run = inner.finished(result)
    assert run.exit_code == pytest.ExitCode.TESTS_FAILED
    assert "terminalreporter is not None" not in run.cases["test_it"].text


def test_debugger_stops_the_clocks(inner: Inner) -> None:
    inner.write(
        "test_debug.py",
        """
        import pdb

        def test_it(sandbox):
            process = sandbox.popen("sh", "-c", "read line; exit 7", timeout=3)
            pdb.set_trace()
            process.write("go on\\n")
            assert process.wait() == 7
            assert sandbox.sh("echo 42").stdout == "43\\n"
        """,
    )
    commands = "import time; time.sleep(4.5)\nc\nsandbox.sh('echo still here').stdout\nc\n"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *inner.arguments("--pdb")],
        input=commands,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=inner.path,
    )
    assert "assert '42\\n' == '43\\n'" in done.stdout, done.stdout
    assert "'still here\\n'" in done.stdout
    assert "1 failed" in done.stdout


def test_workers_of_xdist(inner: Inner) -> None:
    inner.use_suite("losses")
    run = inner.run("-n", "2", "--fault=once", "--after-code")
    assert run.counts == {"passed": len(run.cases) - 3, "xfailed": 3}
    attempts = {name: case.attempts for name, case in run.cases.items()}
    assert {name for name in attempts if attempts[name] != 2} == {"test_untouched"}
    assert {case.repeated for case in run.cases.values()} == {()}

"""A guest in every run of pytest: costs nothing until used, starts nothing before it must, and goes when told to."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Inner
from tests.waiting import DEADLINE, wait_until

HEAVY = ("msgspec", "yaml", "docker", "modal", "google.cloud", "asyncio", "pytest_sandboxes.pool.pool")
OTHER_PLUGINS = ("anyio", "asyncio", "hypothesispytest", "xdist", "rerunfailures", "timeout")


def imported_by(inner: Inner, *args: str) -> list[str]:
    """Which of the heavy modules a run has imported at its end."""
    others = [word for name in OTHER_PLUGINS for word in ("-p", f"no:{name}")]
    script = (
        "import sys, pytest\n"
        f"pytest.main({[*others, *args]!r})\n"
        f"print('imported:', *[name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=inner.path,
        timeout=120,
    )
    return done.stdout.splitlines()[-1].split()[1:]


def test_help_imports_nothing(inner: Inner) -> None:
    assert imported_by(inner, "--help", "--sandbox-backend=local") == []


def test_a_run_without_sandbox_tests_imports_nothing(inner: Inner) -> None:
    inner.write("test_it.py", "def test_it(): pass\n")
    (inner.path / "sandboxes.yaml").unlink()
    assert imported_by(inner, "-q") == []


def test_collection_imports_no_backend_of_others(inner: Inner) -> None:
    inner.write("test_it.py", "def test_it(sandbox): pass\n")
    assert not {"docker", "modal", "google.cloud"} & set(imported_by(inner, "--collect-only"))


def test_help_lists_the_options_in_a_group(inner: Inner) -> None:
    text = inner.run("--help").stdout
    group = text[text.index("sandboxes: isolated slots") :]
    for option in (
        "backend",
        "profile",
        "profiles-file",
        "list-profiles",
        "isolation",
        "enforcement",
        "infra-retries",
    ):
        assert f"--sandbox-{option}" in group
    assert "env PYTEST_SANDBOXES_INFRA_RETRIES, ini sandbox_infra_retries" in " ".join(group.split())


def test_the_marker_is_known(inner: Inner) -> None:
    inner.write("test_it.py", "import pytest\n\n@pytest.mark.sandbox(exec_timeout=1)\ndef test_it(): pass\n")
    assert inner.run("--strict-markers").counts == {"passed": 1}
    assert (
        "@pytest.mark.sandbox(profile, slots, exec_timeout, retry_safe, **fields)"
        in inner.run("--markers").stdout
    )


def test_switched_off(inner: Inner) -> None:
    inner.write("test_it.py", "def test_it(): pass\n\ndef test_sandbox(sandbox): pass\n")
    result = inner.pytester.runpytest_subprocess("-p", "no:sandboxes")
    assert result.parseoutcomes() == {"passed": 1, "errors": 1}
    result.stdout.fnmatch_lines(["*fixture 'sandbox' not found"])
    result.stdout.no_fnmatch_line("sandboxes: *")
    assert inner.pytester.runpytest_subprocess("-p", "no:sandboxes", "--sandbox-backend=local").ret == 4


@pytest.mark.parametrize(
    "option",
    [
        ("--collect-only",),
        ("--setup-plan",),
        ("--fixtures",),
        ("--fixtures-per-test",),
        ("-k", "nothing"),
        ("--sandbox-list-profiles",),
        ("--deselect", "test_it.py::test_it"),
    ],
    ids=" ".join,
)
def test_nothing_is_started_when_no_test_needs_it(
    inner: Inner, launches: list[object], option: tuple[str, ...]
) -> None:
    inner.write("test_it.py", "def test_it(sandbox):\n    sandbox.list_files()\n\ndef test_other(): pass\n")
    run = inner.run(*option, "--sandbox-backend=local")
    assert run.exit_code in {0, pytest.ExitCode.NO_TESTS_COLLECTED}
    assert launches == []
    assert "sandbox-seconds" not in run.stdout


def test_the_counter_of_launches_sees_them(inner: Inner, launches: list[object]) -> None:
    inner.write("test_it.py", "def test_it(sandbox): pass\n")
    inner.run()
    assert launches


def test_a_directory_called_sandbox_makes_no_sandbox_tests(inner: Inner) -> None:
    inner.write("sandbox/test_it.py", "def test_sandbox(): pass\n")
    (inner.path / "sandboxes.yaml").unlink()
    assert imported_by(inner, "-q") == []


# -- ends that nobody planned

NAP = f"1000.{os.getpid()}"
"""Tells this process's sleepers from all others."""

BUSY = f"""
import math
from pathlib import Path

def test_busy(sandbox):
    sandbox.popen("sh", "-c", "trap '' TERM INT; sleep {NAP} & wait")
    sandbox.exec("sleep", "{NAP}", timeout=math.inf)

def test_never_reached(sandbox):
    Path("reached").touch()
"""


def sleepers() -> list[int]:
    """Processes of `BUSY`, wherever they are."""
    wanted = f"sleep\0{NAP}\0".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):  # gone meanwhile
                found += [int(name)] if Path("/proc", name, "cmdline").read_bytes() == wanted else []
    return found


@pytest.fixture
def busy(inner: Inner) -> Iterator[subprocess.Popen[str]]:
    """A run with two commands in a sandbox."""
    inner.write("test_busy.py", BUSY)
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *inner.arguments("-v")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=inner.path,
        start_new_session=True,
    )
    try:
        wait_until(lambda: len(sleepers()) == 2)
        yield process
    finally:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for the run's end, and for that of all that it had started."""
    output, _ = process.communicate(timeout=DEADLINE)
    wait_until(lambda: not sleepers())
    return output


def test_interrupted(inner: Inner, busy: subprocess.Popen[str]) -> None:
    busy.send_signal(signal.SIGINT)
    output = finish(busy)
    assert busy.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "KeyboardInterrupt" in output
    assert "no tests ran in" in output
    assert "Traceback" not in output
    assert not (inner.path / "reached").exists()


def test_interrupted_twice(inner: Inner, busy: subprocess.Popen[str]) -> None:
    busy.send_signal(signal.SIGINT)
    busy.send_signal(signal.SIGINT)
    finish(busy)
    assert busy.returncode != 0
    assert not (inner.path / "reached").exists()


def test_terminated(inner: Inner, busy: subprocess.Popen[str]) -> None:
    busy.send_signal(signal.SIGTERM)
    finish(busy)
    assert busy.returncode == -signal.SIGTERM
    assert not (inner.path / "reached").exists()

"""What batch mode cannot do is refused before anything is started, in one sentence that says what to do."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from tests.integration.batch_projects import BatchProject, project, wheelhouse

__all__ = ["project", "wheelhouse"]

PLAIN = "def test_it(): pass\n"
MARKED = "import pytest\n\n@pytest.mark.sandbox(isolation='none')\ndef test_it(sandbox): pass\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--pdb"], "batch mode (--sandbox-mode) runs tests in other processes, where --pdb cannot work"),
        (["--trace"], "where --trace cannot work: use --sandbox-mode interactive"),
        (["--setup-only"], "where --setup-only cannot work: use --sandbox-mode interactive"),
        (
            ["--sandbox-keep-failed"],
            "--sandbox-keep-failed: batch mode (--sandbox-mode) runs tests in other processes",
        ),
        (
            ["--sandbox-keep"],
            "--sandbox-keep: batch mode (--sandbox-mode) runs tests in other processes, each with",
        ),
        (
            ["--sandbox-budget=5"],
            "which end with it and are not counted together: drop it, or use --sandbox-mode",
        ),
        (
            ["--sandbox-isolation=none"],
            "--sandbox-isolation is 'none', but batch mode runs shards beside each other",
        ),
        (
            ["--dist=each", "-n2"],
            "but --dist each runs them in every worker: use another --dist, or --sandbox",
        ),
        (["--sandbox-backend=gcp"], "backend gcp needs a bucket for what it sends"),
        (["--sandbox-shards=none"], "--sandbox-shards is 'none', but must be auto, or a whole number"),
        (["--sandbox-mode=bach"], "--sandbox-mode is 'bach', but must be auto, interactive or batch"),
        (["--sandbox-wheelhouse=nowhere"], "--sandbox-wheelhouse is /"),
        (
            ["--sandbox-runner-image=a b"],
            "--sandbox-runner-image is 'a b', but must be the name of a container image",
        ),
        (
            ["--sandbox-runner-image=python", "--sandbox-backend=gcp"],
            "--sandbox-runner-image is for shards on this machine: name the image of those of backend gcp",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_options(project: BatchProject, arguments: list[str], complaint: str) -> None:
    project.write("test_it.py", PLAIN)
    run = project.run_here(*arguments)
    assert (run.exit_code, run.stderr.count("ERROR: ")) == (4, 1)
    assert complaint in run.stderr


def test_a_marker_without_isolation(project: BatchProject) -> None:
    project.write("test_it.py", MARKED)
    run = project.run_here()
    assert run.exit_code == 4
    assert (
        "marker on test_it.py::test_it is 'none', but batch mode runs shards beside each other" in run.stderr
    )


def test_backend_gcp_has_no_sandboxes_in_interactive_mode(project: BatchProject) -> None:
    project.write("test_it.py", "def test_it(sandbox): pass\n")
    run = project.run_here("--sandbox-backend=gcp", "--sandbox-mode=interactive")
    assert run.exit_code == 4
    assert "backend gcp has no sandboxes for profile 'default' here: it runs whole tests" in run.stderr


def test_a_profile_with_secrets(project: BatchProject) -> None:
    project.write("sandboxes.yaml", "profiles: {default: {secrets: [TOKEN]}}\n")
    project.write("test_it.py", "def test_it(sandbox): pass\n")
    run = project.run_here()
    assert run.exit_code == 4
    assert "asks for secrets, and batch mode carries none to its shards" in run.stderr


def test_a_test_file_that_git_does_not_track(project: BatchProject) -> None:
    project.write("test_it.py", PLAIN)
    project.inner.write("sub/conftest.py", "")
    project.inner.write("sub/test_new.py", PLAIN)
    run = project.run_here()
    assert run.exit_code == 4
    assert "2 files are needed" in run.stderr
    assert "git add sub/test_new.py sub/conftest.py" in run.stderr


def test_a_project_without_git(project: BatchProject) -> None:
    project.inner.write("test_it.py", PLAIN)
    run = project.run_here()
    assert run.exit_code == 4
    assert "git init && git add . makes it one" in run.stderr


@pytest.mark.parametrize(
    ("error", "complaint"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "make room, or name another directory with TMPDIR",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "a.txt"),
            "Permission denied: a.txt: have this account",
        ),
    ],
    ids=["no space", "unreadable"],
)
def test_what_cannot_be_packed(
    project: BatchProject, monkeypatch: pytest.MonkeyPatch, error: OSError, complaint: str
) -> None:
    def fail(*_: object) -> NoReturn:
        raise error

    project.write("test_it.py", PLAIN)
    monkeypatch.setattr("tarfile.TarFile.addfile", fail)
    run = project.run_here()
    assert run.exit_code == 4
    assert f"batch mode cannot pack what it sends: {error.strerror}" in run.stderr
    assert complaint in run.stderr


def test_a_wheelhouse_that_lacks_a_dependency(
    project: BatchProject, wheelhouse: Path, tmp_path: Path
) -> None:
    project.write("test_it.py", PLAIN)
    shutil.copytree(wheelhouse, tmp_path / "wheels")
    next((tmp_path / "wheels").glob("msgspec*")).unlink()
    run = project.run_here(f"--sandbox-wheelhouse={tmp_path / 'wheels'}")
    assert run.exit_code == 4
    assert "lacks msgspec" in run.stderr
    assert f"python -m pip download --dest {tmp_path / 'wheels'} 'msgspec" in run.stderr


def test_a_suite_without_tests(project: BatchProject) -> None:
    project.write("test_it.py", "")
    run = project.run_here()
    assert run.exit_code == 5
    assert "batch mode has no tests to run; pytest --collect-only shows what is collected" in run.stdout


def test_a_test_that_is_there_twice(project: BatchProject) -> None:
    project.write("test_it.py", PLAIN)
    run = project.run_here("--keep-duplicates", "test_it.py", "test_it.py")
    assert run.exit_code == 4
    assert "test_it.py::test_it is there twice" in run.stderr


@pytest.mark.parametrize("option", ["--collect-only", "--setup-plan", "-k=nothing"])
def test_nothing_is_sent_where_nothing_is_run(project: BatchProject, option: str) -> None:
    project.inner.write("test_it.py", PLAIN)  # git would be missed
    run = project.run_here(option)
    assert run.exit_code == (5 if option == "-k=nothing" else 0)
    assert "bundle" not in run.stdout


def test_errors_of_the_collection_are_pytests_own(project: BatchProject) -> None:
    project.write("test_it.py", PLAIN)
    project.write("test_broken.py", "import nothing_there_is\n")
    run = project.run_here()
    assert run.exit_code == 2
    assert "bundle" not in run.stdout


def test_tests_that_are_not_the_same_there(project: BatchProject) -> None:
    project.write(
        "test_it.py",
        "import os, pytest\n\n@pytest.mark.parametrize('pid', [os.getpid()])\ndef test_it(pid): pass\n",
    )
    project.write("test_more.py", "import docker\n\ndef test_more(): pass\n")
    run = project.run("--sandbox-shards=1")
    assert (run.exit_code, run.entries) == (4, {})
    assert re.search(
        r"shard 1 on runner local differs from this process: missing there: 2 of 2 tests "
        r"\(test_it\.py::test_it\[\d+\], test_more\.py::test_more\); only there: 1 test \(test_it\.py::test_it\[\d+\]\); "
        r"its first error is: test_more\.py: E   ModuleNotFoundError: No module named 'docker'",
        run.stderr,
    )


def test_what_the_backend_refuses_there(project: BatchProject) -> None:
    project.write(
        "test_it.py", "import pytest\n\n@pytest.mark.sandbox(gpu='any')\ndef test_it(sandbox): pass\n"
    )
    run = project.run("--sandbox-shards=1")
    assert run.exit_code == 4
    assert "shard 1 has refused to start: marker on test_it.py::test_it" in run.stderr
    assert "gpu" in run.stderr

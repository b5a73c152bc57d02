"""Projects that run in batch mode, and what they are told to run with."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import wheelhouses
from tests.integration.conftest import SUITES, Inner, Run

FLAKY_BACKEND = '''
"""Brings a backend that has no sandbox for one profile."""

from pytest_sandboxes.backends.local import LocalBackend
from pytest_sandboxes.errors import SandboxStartError


class Flaky(LocalBackend):
    name = "flaky"

    def check_machine(self, profile):
        pass

    def launch(self, profile):
        if profile.name == "broken":
            raise SandboxStartError("the far end is on strike")
        return super().launch(profile)


def pytest_sandboxes_backends(config):
    return {"flaky": Flaky}
'''


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory, kept_wheels: Path) -> Path:
    """Wheels of what pytest and this plugin need, and of pytest-xdist: less than all that is installed here."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    wheelhouses.fill(folder, kept_wheels)
    return folder


class BatchProject:
    """A project that git tracks."""

    def __init__(self, inner: Inner, wheelhouse: Path, kept: Path) -> None:
        self.inner = inner
        self.path = inner.path
        self._wheelhouse = wheelhouse
        self._kept = kept

    def write(self, name: str, text: str) -> Path:
        """Write a file that git tracks."""
        path = self.inner.write(name, text)
        self.git("add", "-f", name)
        return path

    def use_suite(self, name: str) -> None:
        """Make a file of `suites` a module of the project."""
        self.write(f"test_{name}.py", (SUITES / f"{name}.py").read_text("utf-8"))

    def git(self, *arguments: str) -> None:
        """Run git in the project."""
        if not (self.path / ".git").exists():
            subprocess.run(["git", "init", "-q"], cwd=self.path, check=True, timeout=60)
            arguments, first = ("add", "-A"), arguments
            subprocess.run(["git", *arguments], cwd=self.path, check=True, timeout=60)
            arguments = first
        subprocess.run(["git", *arguments], cwd=self.path, check=True, timeout=60)

    def add_to_wheelhouse(self, *names: str) -> Path:
        """A wheelhouse with more in it."""
        folder = self.path.parent / f"{self.path.name}-wheels"
        shutil.copytree(self._wheelhouse, folder)
        for name in names:
            wheelhouses.add(folder, self._kept, name)
        return folder

    def arguments(self, *args: str | Path) -> list[str]:
        """What makes a run one in batch mode."""
        # the plugin of tests that injects faults is not in any bundle
        standing = [word for name in wheelhouses.WITHOUT for word in ("-p", f"no:{name}")]
        self.inner.report.unlink(missing_ok=True)
        standing += ["-o", "junit_family=xunit1", f"--junitxml={self.inner.report}", "--tb=short"]
        return [
            *standing,
            "--sandbox-mode=batch",
            f"--sandbox-wheelhouse={self._wheelhouse}",
            *map(str, args),
        ]

    def run(self, *args: str | Path) -> Run:
        """Run the project in shards."""
        command = (sys.executable, "-m", "pytest", *self.arguments(*args))
        return self.inner.finished(self.inner.pytester.run(*command, timeout=300))

    def run_here(self, *args: str | Path) -> Run:
        """Run the project from this process; for runs that come to no shard."""
        return self.inner.finished(self.inner.pytester.runpytest_inprocess(*self.arguments(*args)))


@pytest.fixture
def project(
    inner: Inner, wheelhouse: Path, kept_wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BatchProject]:
    """An empty project, in a directory for temporary files of its own, in which a run has to leave nothing."""
    if shutil.which("git") is None:
        pytest.skip("no git is installed")
    folder = inner.path.parent / f"{inner.path.name}-tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    yield BatchProject(inner, wheelhouse, kept_wheels)
    left = [each.name for each in folder.iterdir() if each.name.startswith("pytest-sandboxes-")]
    assert left == []

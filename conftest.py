"""Rules for the project's own tests: in CI, a test that does not run is a failure unless the list below allows it."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Generator
from typing import TypeVar

import pytest

pytest_plugins = ["pytester"]

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # a shell's background jobs ignore it, and ignoring is inherited: by the runs of pytest that tests interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)

ALLOWED_SKIPS: dict[str, bool] = {
    "(native TOML|subtests) came with pytest 9": pytest.version_tuple < (9,),
    "no permission on the Docker socket": os.geteuid() != 0,
    "only root's processes can become other users": os.geteuid() != 0,
    "only root can start dockerd": os.geteuid() != 0,
    "no git is installed": shutil.which("git") is None,
    "no dockerd is installed": shutil.which("dockerd") is None,
    "no sshd is installed": shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") is None,
}
"""Reasons to skip, as regular expressions for the whole of them, each with whether it can be true here."""

_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Refuse what a test skips, or is expected to fail."""
    return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Refuse what a module skips."""
    return _refuse_skip((yield))


def _refuse_skip(report: _Report) -> _Report:
    if not report.skipped or not os.environ.get("CI"):
        return report
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    allowed = any(re.fullmatch(pattern, reason) for pattern, holds in ALLOWED_SKIPS.items() if holds)
    if not allowed or hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"did not run, in CI, for a reason not in ALLOWED_SKIPS of conftest.py: {reason}"
    return report


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Runs of pytest within tests have the setting that pytest-asyncio would otherwise ask for in a warning each."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-o asyncio_default_fixture_loop_scope=function")
    return pytester

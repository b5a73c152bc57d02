"""Runs of pytest within tests, and what each said about each of its tests: on the terminal, by exit code, in JUnit."""

from __future__ import annotations

import os
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

FAULTS = "tests.integration.faults"
pytest.register_assert_rewrite(FAULTS)

# A run in this process drops what it has imported, and would import it again next time, some of it twice.
import pytest_sandboxes.backends.local
import pytest_sandboxes.profiles.file
import pytest_sandboxes.reporting.outcomes
import pytest_sandboxes.reporting.summary
import tests.integration.faults
from tests.wheelhouses import WITHOUT

if TYPE_CHECKING:
    from tests.integration.docker_images import ImageMaker

Refused = Callable[..., str]
NEEDS_A_SANDBOX = """
import pytest

def test_it(sandbox):
    sandbox.list_files()
"""
ROOT = Path(__file__).parents[2]
SUITES = Path(__file__).parent / "suites"
ONE_AT_A_TIME = """
profiles:
  default: {buffer_sandboxes: 0}
"""


@dataclass(frozen=True)
class Case:
    """One test's entry in a JUnit file."""

    verdict: str
    """`passed`, `failure`, `error` or `skipped`; several, joined by `+`, for an entry that is not well-formed."""
    properties: Mapping[str, str]
    """Those of the plugin, without its prefix."""
    lost: tuple[str, ...]
    """The records of lost attempts."""
    repeated: tuple[str, ...]
    """Names of all properties that are there more than once, lost attempts aside."""
    text: str
    """What it says about its verdict."""

    @property
    def attempts(self) -> int:
        """How many there were at the test."""
        return int(self.properties.get("attempts", 0))


class Run:
    """What a run of pytest came to."""

    def __init__(self, result: pytest.RunResult, report: Path) -> None:
        self.result = result
        self.exit_code = int(result.ret)
        self.stdout = result.stdout.str()
        self.stderr = result.stderr.str()
        self.entries = _read_junit(report) if report.exists() else {}
        """What JUnit says about each test; pytest-rerunfailures makes an entry of each attempt."""

    @property
    def cases(self) -> dict[str, Case]:
        """What JUnit says about each test, which is there once."""
        assert all(len(entries) == 1 for entries in self.entries.values()), self.entries
        return {name: entries[0] for name, entries in self.entries.items()}

    @property
    def counts(self) -> dict[str, int]:
        """The terminal's last line, without warnings."""
        counts = self.result.parseoutcomes()
        return {name: count for name, count in counts.items() if name != "warnings"}

    @property
    def verdicts(self) -> dict[str, str]:
        """What JUnit says about each test."""
        return {name: case.verdict for name, case in self.cases.items()}


def _read_junit(report: Path) -> dict[str, list[Case]]:
    cases: dict[str, list[Case]] = {}
    for entry in ET.parse(report).iter("testcase"):
        found = [(each.attrib["name"], each.attrib["value"]) for each in entry.iter("property")]
        own = [(name.removeprefix("sandbox."), value) for name, value in found if name.startswith("sandbox.")]
        names = [name for name, _ in found if name != "sandbox.lost"]
        kinds = [each for each in entry if each.tag in {"failure", "error", "skipped"}]
        case = Case(
            "+".join(sorted({each.tag for each in kinds})) or "passed",
            dict(own),
            tuple(value for name, value in own if name == "lost"),
            tuple(sorted({name for name in names if names.count(name) > 1})),
            "\n".join(f"{each.attrib.get('message', '')}\n{each.text or ''}" for each in kinds),
        )
        cases.setdefault(entry.attrib["name"], []).append(case)
    return cases


class Inner:
    """A project of its own, with one sandbox at a time, and runs of pytest in it."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pytester = pytester
        self._monkeypatch = monkeypatch
        self._asyncio_options = os.environ["PYTEST_ADDOPTS"]
        self.load()
        self.path = pytester.path
        self.report = self.path / "report.xml"
        self.write("sandboxes.yaml", ONE_AT_A_TIME)

    def load(self, *plugins: str) -> None:
        """Which plugins of others its runs have. To import all that are installed takes half of a short run's time."""
        options = [f"-p no:{each}" for each in WITHOUT if each not in plugins]
        if "asyncio" in plugins:
            options.append(self._asyncio_options)
        self._monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(options))

    def write(self, name: str, text: str) -> Path:
        """Write a file of the project."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
        return path

    def use_suite(self, name: str) -> None:
        """Make a file of `suites` the project's test module."""
        self.write(f"test_{name}.py", (SUITES / f"{name}.py").read_text(encoding="utf-8"))

    def arguments(self, *args: str | Path) -> list[str]:
        """The arguments of every run, and `args`."""
        self.report.unlink(missing_ok=True)
        # the family is for `record_property`
        standing = ["-p", FAULTS, "--tb=short", "-o", "junit_family=xunit1"]
        if "-n" not in args:  # beside it, pytest-rerunfailures opens a socket that it never closes
            standing += ["-p", "no:xdist"]
        return [*standing, f"--junitxml={self.report}", *map(str, args)]

    def run(self, *args: str | Path) -> Run:
        """Run the project's tests in this process."""
        return Run(self.pytester.runpytest_inprocess(*self.arguments(*args)), self.report)

    def run_apart(self, *args: str | Path, timeout: float = 120) -> Run:
        """Run the project's tests in a process of their own."""
        command = (sys.executable, "-m", "pytest", *self.arguments(*args))
        return Run(self.pytester.run(*command, timeout=timeout), self.report)

    def finished(self, result: pytest.RunResult) -> Run:
        """What a run that was started otherwise came to."""
        return Run(result, self.report)


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    """An empty project."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for processes of their own
    for name in os.environ:
        if name == "CI" or name.startswith("PYTEST_SANDBOXES_"):  # pytest prints more in CI
            monkeypatch.delenv(name)
    return Inner(pytester, monkeypatch)


@pytest.fixture
def make_image(engine: Any) -> Iterator[ImageMaker]:
    """Makes images that are gone after the test."""
    from tests.integration.docker_images import ImageMaker

    with closing(ImageMaker(engine)) as maker:
        yield maker


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every launch of a sandbox, in this process."""
    from pytest_sandboxes.backends.local import LocalBackend

    seen: list[object] = []
    launch = LocalBackend.launch

    def recorded(*args: Any) -> object:
        seen.append(args)
        return launch(*args)

    monkeypatch.setattr(LocalBackend, "launch", recorded)
    return seen


@pytest.fixture
def refused(inner: Inner, launches: list[object]) -> Refused:
    """Runs that have to be refused; returns the sentence."""
    inner.write("test_it.py", NEEDS_A_SANDBOX)

    def run(*args: str) -> str:
        sentence = check_refusal(inner.run(*args))
        assert launches == []
        return sentence

    return run


def check_refusal(run: Run) -> str:
    """The run was refused with one sentence, which is returned."""
    said = [line for line in run.stderr.splitlines() if line]
    assert run.exit_code == pytest.ExitCode.USAGE_ERROR, run.stdout + run.stderr
    assert len(said) == 1, said
    assert said[0].startswith("ERROR: ")
    output = run.stdout + run.stderr
    assert "Traceback" not in output
    assert "INTERNALERROR" not in output
    assert "passed" not in output
    return said[0].removeprefix("ERROR: ")

"""Batch mode: tests run in shards, each in a directory and an environment of its own, and are reported as if here."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.batch_projects import FLAKY_BACKEND, BatchProject, project, wheelhouse

__all__ = ["project", "wheelhouse"]

_TIMES = ("time", "timestamp", "hostname")
_OF_ONE_RUN = ("sandbox.sandbox", "sandbox.queue_wait", "sandbox.sandbox_seconds", "sandbox.peak_memory")


def entries(report: Path) -> tuple[dict[str, str], list[str]]:
    """What JUnit says of the run, and of each test, but for what differs from run to run."""
    root = ET.parse(report).getroot()
    for element in root.iter():
        for name in _TIMES:
            element.attrib.pop(name, None)
        for properties in element.iter("properties"):
            for each in list(properties):
                if each.attrib["name"] in _OF_ONE_RUN:
                    properties.remove(each)
    suite = root[0]
    text = [re.sub("0x[0-9a-f]+", "0x", ET.tostring(each, "unicode")) for each in suite.iter("testcase")]
    text = [re.sub(r"(started from|sandbox) [\w-]*-\d+\b", r"\1 N", each) for each in text]
    return dict(suite.attrib), sorted(text)


@pytest.fixture
def awkward(project: BatchProject) -> BatchProject:
    project.write(
        "sandboxes.yaml", "profiles: {default: {buffer_sandboxes: 0}, broken: {buffer_sandboxes: 0}}\n"
    )
    project.write("conftest.py", FLAKY_BACKEND)
    project.use_suite("awkward")
    project.use_suite("awkward_reruns")
    if pytest.version_tuple >= (9,):
        project.use_suite("awkward_subtests")
    return project


def test_four_shards_report_what_a_plain_run_reports(awkward: BatchProject) -> None:
    wheels = awkward.add_to_wheelhouse("pytest-rerunfailures")
    options = (
        *("--doctest-modules", "-p", "rerunfailures", f"--sandbox-wheelhouse={wheels}", "-rw"),
        *("--sandbox-backend=flaky", "--sandbox-infra-retries=1"),
    )
    shards = awkward.run(*options, "--sandbox-shards=4")
    found = entries(awkward.inner.report)
    plain = awkward.run(*options, "--sandbox-mode=interactive")
    expected = entries(awkward.inner.report)
    assert [each for each in found[1] if each not in expected[1]] == []
    assert found[1] == expected[1]
    assert found[0] == expected[0]
    assert len(found[1]) >= 45
    assert (shards.exit_code, shards.counts) == (plain.exit_code, plain.counts)
    assert "Careful: careful\n" in shards.stdout
    assert Counter(re.findall(r"^  .*Warning: .*", shards.stdout)) == Counter(
        re.findall(r"^  .*Warning: .*", plain.stdout)
    )
    assert " in 4 shards, at most " in shards.stdout
    assert "under way" not in shards.stdout  # which is for terminals

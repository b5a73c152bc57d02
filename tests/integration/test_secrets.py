"""Secrets: the code has them, and nobody else can find them where people and programs look."""

from __future__ import annotations

import uuid

import pytest

from tests.integration.conftest import Inner

SUITE = """
import os
import subprocess
import warnings
from pathlib import Path

import pytest

from tests.integration.secret_hunt import hunt

VALUE = Path("value").read_text()
MARKED = {"MARKER": "x"}  # the hunt of one worker sees what the tests of another run meanwhile

def test_it_has_it(sandbox):
    result = sandbox.sh("printf %s \\"$API_KEY\\"", env=MARKED)
    assert result.stdout == VALUE
    assert sandbox.popen("sh", "-c", "printf %s \\"$API_KEY\\"", env=MARKED).stdout.readline(60) == VALUE
    assert sandbox.exec("printenv", "API_KEY", env={**MARKED, "API_KEY": "mine"}).stdout == "mine\\n"
    assert VALUE not in repr(sandbox._lease.profile) + repr(sandbox) + repr(sandbox._lease)

def test_it_prints_it(sandbox):
    result = sandbox.sh("echo $API_KEY; echo $API_KEY >&2; head -c 1990 /dev/zero | tr '\\\\0' x", env=MARKED)
    print(result.stdout)
    warnings.warn(f"beware of {result.stdout}")
    assert result.stdout == "", result

def test_it_fails(sandbox, record_property):
    record_property("output", sandbox.sh("echo $API_KEY", env=MARKED).stdout)
    sandbox.sh("echo $API_KEY; exit 1", env=MARKED, check=True)

def test_it_is_nowhere_while_it_is_used(sandbox):
    with sandbox.popen("sh", "-c", "echo ready; exec sleep 1000", env=MARKED) as process:
        assert process.stdout.readline(60) == "ready\\n"
        found = hunt(VALUE)
    assert found == [], found

@pytest.mark.sandbox(secrets=[])
def test_others_have_none(sandbox):
    assert VALUE not in sandbox.sh("env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline").stdout
"""


@pytest.fixture
def value(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> str:
    """A secret that is in a file."""
    value = f"secret-{uuid.uuid4().hex}"
    monkeypatch.delenv("API_KEY", raising=False)
    inner.write("value", value)  # which the suite compares with; nothing of the plugin's looks there
    inner.write("secrets", f"API_KEY={value}\n").chmod(0o600)
    inner.write("test_it.py", SUITE)
    return value


@pytest.fixture
def docker_profile(inner: Inner, python_image: str) -> None:
    profile = f"{{image: {python_image}, secrets: [API_KEY], slots_per_sandbox: 2, buffer_sandboxes: 0}}"
    inner.write("sandboxes.yaml", f"profiles: {{default: {profile}}}")


def check(inner: Inner, value: str, *arguments: str) -> None:
    ran = inner.run_apart(
        "--sandbox-secrets-file=secrets", "--full-trace", "--showlocals", "-rA", "-W", "default", *arguments
    )
    assert ran.counts == {"passed": 3, "failed": 2}, ran.stdout
    printed = ran.stdout + ran.stderr + inner.report.read_text()
    assert value not in printed
    assert value[-16:] not in printed
    assert printed.count("***API_KEY***") >= 6
    assert "beware of ***API_KEY***" in ran.stdout
    assert ran.cases["test_it_fails"].text.count("***API_KEY***") >= 1


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["", "xdist"])
def test_local(inner: Inner, value: str, workers: tuple[str, ...]) -> None:
    inner.write("sandboxes.yaml", "profiles: {default: {secrets: [API_KEY], buffer_sandboxes: 0}}")
    check(inner, value, *workers)


@pytest.mark.usefixtures("docker_profile")
def test_docker(inner: Inner, value: str) -> None:
    check(inner, value, "--sandbox-backend=docker")


def test_no_isolation(inner: Inner, value: str) -> None:
    inner.write("sandboxes.yaml", "profiles: {default: {secrets: [API_KEY], buffer_sandboxes: 0}}")
    ran = inner.run("--sandbox-secrets-file=secrets", "--sandbox-isolation=none", "-k", "test_it_has_it")
    assert ran.counts == {"passed": 1, "deselected": 4}


def test_a_shell_of_an_image_gets_none(
    inner: Inner, value: str, busybox_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_PYTHON_HOST_PLATFORM", "macosx-14.0-arm64")  # what runs here cannot be carried there
    inner.write("sandboxes.yaml", f"profiles: {{default: {{image: {busybox_image}, secrets: [API_KEY]}}}}")
    ran = inner.run_apart("--sandbox-secrets-file=secrets", "--sandbox-backend=docker")
    assert ran.exit_code == pytest.ExitCode.USAGE_ERROR
    assert "sandboxes.yaml:1: secrets of profile 'default' cannot be ('API_KEY',) in image" in ran.stderr


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["", "xdist"])
def test_an_unknown_one(inner: Inner, value: str, workers: tuple[str, ...]) -> None:
    inner.write("sandboxes.yaml", "profiles:\n  default: {secrets: [API_KEI]}\n")
    ran = inner.run_apart("--sandbox-secrets-file=secrets", *workers)
    assert ran.exit_code == pytest.ExitCode.USAGE_ERROR
    (sentence,) = [line for line in ran.stderr.splitlines() if line]
    assert sentence == (
        "ERROR: sandboxes.yaml:2: secrets of profile 'default' has 'API_KEI', which is not in the environment, nor in "
        "secrets (--sandbox-secrets-file); did you mean 'API_KEY'?"
    )
    assert value not in ran.stdout + ran.stderr


def test_a_file_that_others_can_read(inner: Inner, value: str) -> None:
    (inner.path / "secrets").chmod(0o644)
    ran = inner.run("--sandbox-secrets-file=secrets")
    assert ran.exit_code == pytest.ExitCode.USAGE_ERROR
    assert "is open to others, by mode 644: chmod 600 it" in ran.stderr

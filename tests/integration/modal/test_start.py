"""What is missing or wrong before the first test: one sentence, at once, and exit code 4."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pytest_sandboxes.backends.modal import images, service
from pytest_sandboxes.errors import BackendUnavailableError
from pytest_sandboxes.profiles.profile import Profile
from tests.emulators.modal.control import Control
from tests.integration.conftest import Inner
from tests.integration.modal.conftest import SUITE, Start, backend, complaint


def test_without_the_client(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modal", None)
    assert complaint(inner) == "backend modal needs Modal's client: pip install 'pytest-sandboxes[modal]'"


def test_with_a_client_that_is_too_old(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may fail at its import, or at a call, in words of its own."""
    monkeypatch.setattr(service, "version", lambda _: "1.5.9")
    assert complaint(inner) == (
        "backend modal needs version 1.6 of Modal's client or a newer one, and here is 1.5.9: pip install --upgrade "
        "'pytest-sandboxes[modal]'"
    )


def test_with_a_client_that_lacks_something(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "import_module", lambda _: import_module("no_such_module"))
    assert complaint(inner) == (
        "backend modal needs Modal's client, which cannot be imported (No module named 'no_such_module'): pip install "
        "'pytest-sandboxes[modal]'"
    )


def test_without_credentials(emulator: Control, inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODAL_TOKEN_ID")
    monkeypatch.delenv("MODAL_TOKEN_SECRET")
    assert complaint(inner) == (
        "backend modal has no credentials: set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or make a token with "
        "`modal token new`"
    )


def test_with_bad_credentials(emulator: Control, inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-wrong")
    assert complaint(inner) == (
        "backend modal: the credentials of MODAL_TOKEN_ID and MODAL_TOKEN_SECRET are not accepted (Token validation "
        "failed): correct them, or make new ones with `modal token new`"
    )


def test_settings_that_cannot_be_read(start: Start, inner: Inner) -> None:
    """By a client that is imported for it, in a process of its own."""
    inner.write("test_suite.py", SUITE)
    inner.write("modal.toml", "no toml [")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--sandbox-backend=modal"],
        cwd=inner.path,
        env={**os.environ, "MODAL_CONFIG_PATH": str(inner.path / "modal.toml")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 4, ran.stdout
    assert (
        f"ERROR: backend modal: {inner.path / 'modal.toml'}, the settings of Modal's client, " in ran.stderr
    )
    assert "Traceback" not in ran.stderr + ran.stdout


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("{regoin: us}", "modal 'regoin'; did you mean 'region'?"),
        ("{dockerfile: Nowhere}", "there is no file "),
        ("{python: '2.7'}", "modal.python is '2.7', but must be a version such as '3.13', in quotes"),
        (
            "{cidr_allowlist: [10.0.0.0/8]}",
            "modal.cidr_allowlist says whom code may reach, but network is 'none'",
        ),
        ("{volumes: {data: models}}", "'data' in modal.volumes is not an absolute path other than '/'"),
        ("{build_args: {A: b}}", "modal.build_args is for a Dockerfile, and there is none"),
    ],
)
def test_a_section_that_is_wrong(inner: Inner, section: str, expected: str) -> None:
    inner.write("test_suite.py", SUITE)
    inner.write("sandboxes.yaml", f"profiles: {{default: {{modal: {section}}}}}")
    run = inner.run("--sandbox-backend=modal")
    assert run.exit_code == 4
    assert expected in run.stderr
    assert run.stderr.count("sandboxes.yaml:1") >= 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("{disk: 10}", "disk of profile 'default' cannot be kept: Modal limits no slot's disk"),
        ("{user: alice}", "user of profile 'default' cannot be kept: with isolation slot"),
        (
            "{pids: 10, isolation: sandbox}",
            "pids of profile 'default' cannot be kept: with isolation sandbox",
        ),
        ("{max_lifetime: 90000}", "but Modal lets a sandbox live 86400 s at most: lower it"),
        (
            "{app_name: a b}",
            "but a name on Modal has letters, digits, '-', '_' and '.', at most 64: set app_name to such a one",
        ),
        (
            "{modal: {volumes: {/workspace/models: m}}}",
            "sandboxes.yaml:1: modal.volumes of profile 'default' has '/workspace/models', but the workspaces of slots",
        ),
        (
            "{workspace_base: /data/w, modal: {volumes: {/data: m}}}",
            "has '/data', but the workspaces of slots",
        ),
        ("{workspace_base: /tmp/x}", "but /tmp is no place for workspaces: choose another"),
    ],
)
def test_a_field_that_cannot_be_kept(inner: Inner, fields: str, expected: str) -> None:
    inner.write("test_suite.py", SUITE)
    inner.write("sandboxes.yaml", f"profiles: {{default: {fields}}}")
    run = inner.run("--sandbox-backend=modal")
    assert run.exit_code == 4
    assert expected in run.stderr


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("{secrets: [nope]}", "secrets of profile 'default' has 'nope', which the account does not have ("),
        (
            "{modal: {volumes: {/data: nope}}}",
            "modal.volumes of profile 'default' has 'nope', which the account does not have (",
        ),
    ],
)
def test_what_the_account_does_not_have(emulator: Control, inner: Inner, fields: str, expected: str) -> None:
    inner.write("test_suite.py", SUITE)
    inner.write("sandboxes.yaml", f"profiles: {{default: {fields}}}")
    run = inner.run("--sandbox-backend=modal")
    assert run.exit_code == 4, run.stdout
    assert f"ERROR: sandboxes.yaml:1: {expected}" in run.stderr
    assert not emulator.events("sandbox_created")


def test_a_build_that_fails(emulator: Control) -> None:
    emulator.fail_builds("numpyy", "ERROR: no matching distribution \x1b[31mfound\n")
    profile = Profile().override({"modal": {"pip": ["numpyy"]}}, "sandboxes.yaml:1")
    with backend() as made, pytest.raises(BackendUnavailableError) as caught:
        made.check_machine(profile)
    text = str(caught.value)
    assert text.startswith("backend modal: image debian_slim with Python 3.13 cannot be built: ")
    assert "no matching distribution" in text
    assert "\x1b" not in text


def test_a_dockerfile_that_has_gone_since(
    emulator: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("FROM debian\n")
    profile = Profile().override({"modal": {"dockerfile": str(file)}}, "sandboxes.yaml:1")
    describe = images._describe

    def describe_and_lose(*args: Any, **more: Any) -> Any:
        described = describe(*args, **more)
        file.unlink(missing_ok=True)
        return described

    monkeypatch.setattr(images, "_describe", describe_and_lose)
    with backend() as made, pytest.raises(BackendUnavailableError) as caught:
        made.check_machine(profile)
    assert f"cannot be built: {file} cannot be read (No such file or directory); correct that" in str(
        caught.value
    )


def test_an_image_without_an_agent(emulator: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its own Python nor ours will do."""
    monkeypatch.setattr(images, "_OWN_PYTHON", ("false",))
    monkeypatch.setenv("_PYTHON_HOST_PLATFORM", "macosx-14.0-arm64")  # so that it is not carried
    with (
        backend() as made,
        pytest.raises(BackendUnavailableError, match="cannot run a sandbox's agent: its python3 ends"),
    ):
        made.check_machine(Profile())

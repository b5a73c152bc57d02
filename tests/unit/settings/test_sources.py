"""Where settings come from, and which of several counts."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.settings.settings import _OPTIONS, Mode, Settings
from tests.unit.settings.conftest import OnlyOptions, Read, native_toml, value_of, variable

pytest_plugins = ["pytester"]


class Example(NamedTuple):
    """One value of one option, as it is written in each source."""

    name: str
    line: list[str]
    text: str
    meaning: object

    @property
    def variable(self) -> str:
        return variable(self.name)

    @property
    def key(self) -> str:
        return "sandbox_" + self.name.replace("-", "_")


EXAMPLES = [
    Example("backend", ["--sandbox-backend", "docker"], "docker", ("docker",)),
    Example("backend", ["--sandbox-backend=local, docker"], "local, docker", ("local", "docker")),
    Example("profile", ["--sandbox-profile", "pytorch-gpu"], "pytorch-gpu", "pytorch-gpu"),
    Example("list-profiles", ["--sandbox-list-profiles"], "true", True),  # noqa: FBT003
    Example("isolation", ["--sandbox-isolation", "none"], "none", "none"),
    Example("enforcement", ["--sandbox-enforcement", "best-effort"], "best-effort", "best-effort"),
    Example("max-sandboxes", ["--sandbox-max-sandboxes", "4"], "4", 4),
    Example("budget", ["--sandbox-budget", "3600"], "3600", 3600),
    Example("infra-retries", ["--sandbox-infra-retries", "0"], "0", 0),
    Example("keep", ["--sandbox-keep=600"], "600", 600.0),
    Example("keep", ["--sandbox-keep"], "yes", 900.0),
    Example("keep-failed", ["--sandbox-keep-failed"], "true", True),  # noqa: FBT003
    Example("mode", ["--sandbox-mode", "batch"], "batch", "batch"),
    Example("shards", ["--sandbox-shards", "4"], "4", 4),
    Example("shards", ["--sandbox-shards", "auto"], "auto", None),
    Example("runner-image", ["--sandbox-runner-image", "python:3.12"], "python:3.12", "python:3.12"),
    Example("wheelhouse", ["--sandbox-wheelhouse=/wheels"], "/wheels", Path("/wheels")),
]
examples = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.name}-{example.text}")


def test_every_setting_has_one_option_and_every_option_an_example() -> None:
    assert [option.setting for option in _OPTIONS] == [each.name for each in fields(Settings)][:-2]
    assert {option.name for option in _OPTIONS} - {example.name for example in EXAMPLES} == {
        "profiles-file",
        "secrets-file",
    }


def test_nothing_given(settings: Read) -> None:
    found = settings()

    assert found == Settings()
    assert (found.backends, found.profile, found.profiles_file) == (("local",), "default", None)
    assert (found.isolation, found.enforcement, found.infra_retries) == (None, "strict", 2)
    assert (found.list_profiles, found.keep, found.keep_failed) == (False, None, False)
    assert found.source("backends") == "default"


@pytest.mark.parametrize(
    ("mode", "backends", "is_batch"),
    [
        ("auto", ("local",), False),
        ("auto", ("docker", "modal"), False),
        ("auto", ("gcp",), True),
        ("batch", ("local",), True),
        ("interactive", ("gcp",), False),
    ],
)
def test_mode(mode: Mode, backends: tuple[str, ...], is_batch: bool) -> None:
    assert Settings(mode=mode, backends=backends).is_batch is is_batch


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "100000"])
def test_shards_are_a_whole_number_or_auto(settings: Read, text: str) -> None:
    with pytest.raises(
        ConfigurationError, match="--sandbox-shards is .* but must be auto, or a whole number from 1"
    ):
        settings(f"--sandbox-shards={text}")


def test_settings_are_frozen(settings: Read) -> None:
    with pytest.raises(FrozenInstanceError):
        settings().profile = "other"  # type: ignore[misc]


@examples
def test_command_line(settings: Read, example: Example) -> None:
    found = settings(*example.line)

    assert value_of(found, example.name) == (example.meaning, f"--sandbox-{example.name}")


@examples
def test_environment(settings: Read, monkeypatch: pytest.MonkeyPatch, example: Example) -> None:
    monkeypatch.setenv(example.variable, example.text)

    source = f"environment variable {example.variable}"
    assert value_of(settings(), example.name) == (example.meaning, source)


@examples
def test_ini(settings: Read, pytester: pytest.Pytester, example: Example) -> None:
    pytester.makeini(f"[pytest]\n{example.key} = {example.text}\n")

    source = f"ini option {example.key} in tox.ini"
    assert value_of(settings(), example.name) == (example.meaning, source)


@examples
def test_ini_override_on_the_command_line(settings: Read, example: Example) -> None:
    found = settings("-o", f"{example.key}={example.text}")

    assert value_of(found, example.name) == (example.meaning, f"-o {example.key}")


@native_toml
@examples
def test_native_toml(settings: Read, pytester: pytest.Pytester, example: Example) -> None:
    is_string = {option.name: option.ini_type for option in _OPTIONS}[example.name] == "string"
    written = f'"{example.text}"' if is_string else example.text
    pytester.path.joinpath("pytest.toml").write_text(f"[pytest]\n{example.key} = {written}\n")

    source = f"ini option {example.key} in pytest.toml"
    assert value_of(settings(), example.name) == (example.meaning, source)


def test_pyproject_with_strings(settings: Read, pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nsandbox_infra_retries = "3"\n')

    assert value_of(settings(), "infra-retries") == (3, "ini option sandbox_infra_retries in pyproject.toml")


def test_precedence(settings: Read, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeini("[pytest]\nsandbox_profile = from-ini\nsandbox_keep_failed = true\n")
    assert settings().profile == "from-ini"
    monkeypatch.setenv("PYTEST_SANDBOXES_PROFILE", "from-environment")
    assert settings().profile == "from-environment"
    assert settings("--sandbox-profile", "from-line").profile == "from-line"
    assert settings("-o", "sandbox_profile=from-override").profile == "from-environment"

    assert settings().keep_failed
    monkeypatch.setenv("PYTEST_SANDBOXES_KEEP_FAILED", "no")
    assert not settings().keep_failed


def test_a_value_equal_to_the_default_still_outranks(settings: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_SANDBOXES_INFRA_RETRIES", "5")

    assert settings("--sandbox-infra-retries", "2").infra_retries == 2


def test_the_last_of_two_on_the_command_line_counts(settings: Read) -> None:
    line = ["--sandbox-backend", "docker", "--sandbox-backend", "local"]

    assert settings(*line).backends == ("local",)


def test_an_empty_variable_is_not_set(settings: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    for option in _OPTIONS:
        monkeypatch.setenv(option.variable, "")

    assert settings() == Settings()


def test_variables_of_profiles_are_gathered(settings: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"PROFILES": "a", "PROFILE_A_MEMORY": "1", "DEFAULT_CPU": "2", "PROFILE_A_B_C": "3"}
    for name, text in {**about, "DEFAULT_DISK": "", "PROFILE": "a", "PROFILES_FILE": "x.yaml"}.items():
        monkeypatch.setenv(variable(name), text)

    found = settings()

    assert found.profile_variables == {variable(name): text for name, text in about.items()}
    assert (found.profile, found.profiles_file is None) == ("a", False)


class TestProfilesFile:
    def test_found_in_the_rootdir(self, settings: Read, pytester: pytest.Pytester) -> None:
        pytester.path.joinpath("sandboxes.yaml").touch()

        found = settings()

        assert found.profiles_file == pytester.path / "sandboxes.yaml"
        assert found.source("profiles_file") == "sandboxes.yaml in the rootdir"

    def test_named_on_the_command_line_is_relative_to_where_pytest_was_called(
        self, settings: Read, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytester.path.joinpath("sandboxes.yaml").touch()
        pytester.makeini("[pytest]")
        monkeypatch.chdir(pytester.mkdir("below"))

        found = settings("--sandbox-profiles-file", "own.yaml")

        assert found.profiles_file == pytester.path / "below/own.yaml"
        assert found.source("profiles_file") == "--sandbox-profiles-file"

    def test_named_in_ini_is_relative_to_the_ini_file(
        self, settings: Read, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytester.makeini("[pytest]\nsandbox_profiles_file = conf/own.yaml\n")
        monkeypatch.chdir(pytester.mkdir("below"))

        assert settings().profiles_file == pytester.path / "conf/own.yaml"

    def test_absolute_and_home(self, settings: Read, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/somewhere")

        assert settings("--sandbox-profiles-file", "/etc/own.yaml").profiles_file == Path("/etc/own.yaml")
        assert settings("--sandbox-profiles-file", "~/own.yaml").profiles_file == Path("/somewhere/own.yaml")
        monkeypatch.setenv("PYTEST_SANDBOXES_PROFILES_FILE", "~nobody-of-this-name/x.yaml")
        assert settings().profiles_file  # a path like any other, which will not be found


def test_help_tells_all_three_spellings(pytester: pytest.Pytester) -> None:
    output = pytester.runpytest_inprocess("--help", plugins=[OnlyOptions()]).stdout.str()

    squeezed = "".join(output.split())  # names may be broken at the end of a line
    for option in _OPTIONS:
        assert f"(env{option.variable},ini{option.key})" in squeezed
        assert option.flag in squeezed


def test_importing_is_cheap() -> None:
    program = (
        "import sys, pytest; before = set(sys.modules); import pytest_sandboxes.settings.settings;"
        "print(*sorted(name for name in set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert all(name.startswith("pytest_sandboxes") for name in done.stdout.split()), done.stdout

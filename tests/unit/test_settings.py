from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.settings import _OPTIONS, Settings, add_options, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    Configure = Callable[..., pytest.Config]
    Read = Callable[..., Settings]

pytest_plugins = ["pytester"]

native_toml = pytest.mark.skipif(pytest.version_tuple < (9, 0), reason="native TOML came with pytest 9")


class OnlyOptions:
    """A plugin that registers the options and does nothing else."""

    @staticmethod
    def pytest_addoption(parser: pytest.Parser) -> None:
        add_options(parser)


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # an installed copy would add the options twice
    for option in _OPTIONS:
        monkeypatch.delenv(option.variable, raising=False)


@pytest.fixture
def configure(pytester: pytest.Pytester) -> Configure:
    """The configuration of a run with the given command line."""

    def run(*args: str) -> pytest.Config:
        pytester.plugins = [OnlyOptions()]
        return pytester.parseconfig(*args)

    return run


@pytest.fixture
def settings(configure: Configure) -> Read:
    """The settings of a run with the given command line."""
    return lambda *args: read_settings(configure(*args))


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


def variable(name: str) -> str:
    return "PYTEST_SANDBOXES_" + name.upper().replace("-", "_")


EXAMPLES = [
    Example("backend", ["--sandbox-backend", "docker"], "docker", ("docker",)),
    Example("backend", ["--sandbox-backend=local, docker"], "local, docker", ("local", "docker")),
    Example("profile", ["--sandbox-profile", "pytorch-gpu"], "pytorch-gpu", "pytorch-gpu"),
    Example("list-profiles", ["--sandbox-list-profiles"], "true", True),  # noqa: FBT003
    Example("isolation", ["--sandbox-isolation", "none"], "none", "none"),
    Example("enforcement", ["--sandbox-enforcement", "best-effort"], "best-effort", "best-effort"),
    Example("infra-retries", ["--sandbox-infra-retries", "0"], "0", 0),
    Example("keep-failed", ["--sandbox-keep-failed"], "true", True),  # noqa: FBT003
]
examples = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.name}-{example.text}")


def value_of(settings: Settings, name: str) -> tuple[object, str]:
    setting = {option.name: option.setting for option in _OPTIONS}[name]
    return getattr(settings, setting), settings.source(setting)


def test_every_setting_has_one_option_and_every_option_an_example() -> None:
    assert [option.setting for option in _OPTIONS] == [each.name for each in fields(Settings)][:-1]
    assert {option.name for option in _OPTIONS} - {example.name for example in EXAMPLES} == {"profiles-file"}


def test_nothing_given(settings: Read) -> None:
    found = settings()

    assert found == Settings()
    assert (found.backends, found.profile, found.profiles_file) == (("local",), "default", None)
    assert (found.isolation, found.enforcement, found.infra_retries) == (None, "strict", 2)
    assert (found.list_profiles, found.keep_failed) == (False, False)
    assert found.source("backends") == "default"


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
    written = example.text if isinstance(example.meaning, int) else f'"{example.text}"'
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


WRONG = [
    ("backend", "local,,docker", "must be backend names .* with commas between; one is empty"),
    ("backend", ",", "one is empty"),
    ("backend", "local docker", "'local docker' is none"),
    ("backend", "dock[er]", r"'dock\[er\]' is none"),
    ("backend", "2fast", "'2fast' is none"),
    ("backend", "local,docker,local", "each once; 'local' is there 2 times"),
    ("profile", " ", "must be the name of a profile"),
    ("profiles-file", " ", "must be the path of a YAML file"),
    ("isolation", "slots", "must be slot, sandbox or none; did you mean 'slot'?"),
    ("isolation", "Sandbox", "did you mean 'sandbox'?"),
    ("isolation", "xyzzy", "must be slot, sandbox or none$"),
    ("enforcement", "besteffort", "must be strict or best-effort; did you mean 'best-effort'?"),
    ("infra-retries", "-1", "must be a whole number from 0 to 100"),
    ("infra-retries", "1.5", "must be a whole number from 0 to 100"),
    ("infra-retries", "two", "must be a whole number from 0 to 100"),
    ("infra-retries", "101", "must be a whole number from 0 to 100"),
    ("infra-retries", "٣", "must be a whole number from 0 to 100"),  # a digit, but not ours
    ("infra-retries", "9" * 5000, "must be a whole number from 0 to 100"),
]
wrong = pytest.mark.parametrize(("name", "text", "message"), WRONG)


@wrong
def test_wrong_on_the_command_line(settings: Read, name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^--sandbox-{name} is '.*, but .*{message}"):
        settings(f"--sandbox-{name}={text}")


@wrong
def test_wrong_in_the_environment(
    settings: Read, monkeypatch: pytest.MonkeyPatch, name: str, text: str, message: str
) -> None:
    monkeypatch.setenv(variable(name), text)

    with pytest.raises(ConfigurationError, match=rf"^environment variable {variable(name)} is .*{message}"):
        settings()


@pytest.mark.parametrize("name", ["keep-failed", "list-profiles"])
@pytest.mark.parametrize(
    ("text", "on"), [("1", True), ("YES", True), ("on", True), ("0", False), ("False", False), ("2", None)]
)
def test_switches_in_the_environment(
    settings: Read, monkeypatch: pytest.MonkeyPatch, name: str, text: str, *, on: bool | None
) -> None:
    monkeypatch.setenv(variable(name), text)

    if on is None:
        with pytest.raises(ConfigurationError, match=f"{variable(name)} is '2', but must be true or false"):
            settings()
    else:
        assert value_of(settings(), name)[0] is on


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "sandbox_infra_retries = many",
            "sandbox_infra_retries in tox.ini is 'many', but must be a whole number",
        ),
        ("sandbox_infra_retries = -1", "sandbox_infra_retries in tox.ini is .*-1.* from 0 to 100"),
        (
            "sandbox_keep_failed = perhaps",
            "sandbox_keep_failed in tox.ini is 'perhaps', but must be true or false$",
        ),
        ("sandbox_isolation = slots", "^ini option sandbox_isolation in tox.ini is 'slots', .* 'slot'"),
        ("sandbox_backend =", "^ini option sandbox_backend in tox.ini is '', but"),
    ],
)
def test_wrong_in_ini(settings: Read, pytester: pytest.Pytester, line: str, message: str) -> None:
    pytester.makeini(f"[pytest]\n{line}\n")

    with pytest.raises(ConfigurationError, match=message):
        settings()


@native_toml
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('sandbox_backend = ["local", "docker"]', "but must be one string"),
        ("sandbox_profile = 1", "but must be one string"),
        ("sandbox_infra_retries = true", "whole number"),
        ('sandbox_infra_retries = "2"', "but must be a whole number"),
        ("sandbox_infra_retries = 1.0", "but must be a whole number"),
        ("sandbox_infra_retries = -1", "from 0 to 100"),
        ("sandbox_keep_failed = 1", "true or false"),
        ("sandbox_isolation = 2020-01-01", "but must be one string"),
    ],
)
def test_wrong_in_native_toml(settings: Read, pytester: pytest.Pytester, line: str, message: str) -> None:
    pytester.path.joinpath("pytest.toml").write_text(f"[pytest]\n{line}\n")
    name = line.partition(" ")[0]

    with pytest.raises(ConfigurationError, match=rf"^ini option {name} in pytest.toml .*{message}"):
        settings()


def test_a_value_that_is_outranked_is_not_looked_at(settings: Read, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nsandbox_infra_retries = many\n")

    assert settings("--sandbox-infra-retries", "1").infra_retries == 1


@pytest.mark.parametrize("name", [option.name for option in _OPTIONS])
def test_any_text_is_read_or_refused(configure: Configure, name: str) -> None:
    config = configure()
    unreadable = {"blacklist_categories": ["Cs"], "blacklist_characters": "\0"}

    @given(st.text(st.characters(**unreadable)))  # type: ignore[arg-type]
    def check(text: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(variable(name), text)
            try:
                read_settings(config)
            except ConfigurationError as error:
                assert str(error).startswith(f"environment variable {variable(name)} is ")
                assert str(error) == one_line(str(error), 1000)

    check()


def test_help_tells_all_three_spellings(pytester: pytest.Pytester) -> None:
    output = pytester.runpytest_inprocess("--help", plugins=[OnlyOptions()]).stdout.str()

    squeezed = "".join(output.split())  # names may be broken at the end of a line
    for option in _OPTIONS:
        assert f"(env{option.variable},ini{option.key})" in squeezed
        assert option.flag in squeezed


def test_importing_is_cheap() -> None:
    program = (
        "import sys, pytest; before = set(sys.modules); import pytest_sandboxes.settings;"
        "print(*sorted(name for name in set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert all(name.startswith("pytest_sandboxes") for name in done.stdout.split()), done.stdout

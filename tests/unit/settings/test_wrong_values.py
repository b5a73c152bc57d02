"""Values that are refused, whichever source they come from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.settings.settings import _OPTIONS, read_settings
from tests.unit.settings.conftest import Configure, Read, native_toml, value_of, variable

pytest_plugins = ["pytester"]

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
        ("sandbox_max_sandboxes = 0", "sandbox_max_sandboxes in tox.ini is .*0.* from 1 to 999999"),
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

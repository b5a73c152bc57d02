from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.environment import apply_variables
from pytest_sandboxes.profiles.profile import FIELDS, Profile

MAKES = "PYTEST_SANDBOXES_PROFILES"
ONE, ALL = "PYTEST_SANDBOXES_PROFILE_", "PYTEST_SANDBOXES_DEFAULT_"
FILE = {name: Profile(name=name) for name in ("default", "gpu", "high-memory")}


def apply(**variables: str) -> dict[str, Profile]:
    return apply_variables({f"PYTEST_SANDBOXES_{name}": text for name, text in variables.items()}, FILE)


def refusal(**variables: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        apply(**variables)
    message = str(caught.value)
    assert message.startswith("environment variable PYTEST_SANDBOXES_")
    assert message == one_line(message, 1000)
    return message.removeprefix("environment variable PYTEST_SANDBOXES_")


class TestNames:
    def test_profiles_are_made(self) -> None:
        found = apply(PROFILES="b, a.b,gpu", PROFILE_A_B_MEMORY="64")

        assert [*found] == ["default", "gpu", "high-memory", "b", "a.b"]
        assert found["a.b"] == Profile(name="a.b").override({"memory": 64}, "here")
        assert found["a.b"].source("memory") == f"environment variable {ONE}A_B_MEMORY"
        assert found["gpu"] == FILE["gpu"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a,,b", "'' cannot name a profile; a name has "),
            (" ", "'' cannot name a profile; a name has "),
            ("a b", "'a b' cannot name a profile; a name has "),
            ("a\x1b", "'a\\x1b' cannot name a profile; a name has "),
            ("a" * 64, f"'{'a' * 64}' cannot name a profile"),
        ],
    )
    def test_names_that_cannot_be(self, text: str, message: str) -> None:
        assert refusal(PROFILES=text).startswith("PROFILES: " + message)

    def test_one_that_is_there_stays_as_it_is(self) -> None:
        there = {"gpu": Profile(name="gpu").override({"memory": 64}, "file")}

        assert apply_variables({MAKES: "gpu"}, there) == there

    def test_a_name_twice(self) -> None:
        assert refusal(PROFILES="a,b,a") == "PROFILES has 'a' 2 times; name each profile once"


class TestTargets:
    def test_one_profile(self) -> None:
        found = apply(PROFILE_HIGH_MEMORY_MEMORY="64", PROFILE_DEFAULT_CPU="2")

        assert [each.memory for each in found.values()] == [None, None, 64]
        assert [each.cpu for each in found.values()] == [2, None, None]

    def test_all_profiles_those_of_the_environment_included(self) -> None:
        assert {each.memory for each in apply(DEFAULT_MEMORY="64", PROFILES="new").values()} == {64}

    @pytest.mark.parametrize("field", FIELDS)
    def test_every_field_has_a_variable_of_its_own(self, field: str) -> None:
        text, value = TEXTS[field]

        changed = apply_variables({f"{ONE}HIGH_MEMORY_{field.upper()}": text}, FILE)
        all_changed = apply_variables({f"{ALL}{field.upper()}": text}, FILE)

        for found in (changed, all_changed):
            assert getattr(found["high-memory"], field) == value != getattr(Profile(), field)
        assert changed["gpu"] == FILE["gpu"]
        assert (
            changed["high-memory"].source(field) == f"environment variable {ONE}HIGH_MEMORY_{field.upper()}"
        )
        assert all_changed["gpu"].source(field) == f"environment variable {ALL}{field.upper()}"

    @pytest.mark.parametrize(
        ("profiles", "variable", "meanings"),
        [
            ("a-b,a_b", "A_B_MEMORY", "memory of profile 'a-b' or memory of profile 'a_b'"),
            ("a,A", "A_MEMORY", "memory of profile 'a' or memory of profile 'A'"),
            ("gpu.high,gpu-high", "GPU_HIGH_CPU", "cpu of profile 'gpu.high' or cpu of profile 'gpu-high'"),
            (
                "x,x-target",
                "X_TARGET_SLOTS_PER_SANDBOX",
                "slots_per_sandbox of profile 'x-target' or target_slots_per_sandbox of profile 'x'",
            ),
        ],
    )
    def test_what_fits_several_is_refused(self, profiles: str, variable: str, meanings: str) -> None:
        assert refusal(PROFILES=profiles, **{f"PROFILE_{variable}": "1"}) == (
            f"PROFILE_{variable} could be {meanings}; say in the profiles file which, or rename one of the profiles"
        )
        assert apply(PROFILES=profiles, DEFAULT_MEMORY="1")  # as long as nobody asks

    @pytest.mark.parametrize(
        ("variable", "message"),
        [
            ("PROFILE_GPU_MEMORI", "unknown profile field 'memori'; did you mean 'memory'?"),
            ("PROFILE_HIGH_MEMORY_XYZZY", "unknown profile field 'xyzzy'"),
            ("PROFILE_GPU_memory", "write it in capitals, as in MEMORY"),
            ("PROFILE_GPU_TIMEOUT", "unknown profile field 'timeout'; did you mean 'execution_timeout_s'?"),
            ("PROFILE_GPU_EXTENDS", "unknown profile field 'extends'"),
            ("PROFILE_GPU_NAME", "unknown profile field 'name'; did you mean 'app_name'?"),
            (
                "PROFILE_GPUS_MEMORY",
                (
                    "no profile is called 'GPUS', there are default, gpu and high-memory; did you mean 'gpu'?; others can "
                    f"be named in {MAKES}"
                ),
            ),
            (
                "PROFILE_HIGH_MEMROY_MEMORY",
                (
                    "no profile is called 'HIGH_MEMROY', there are default, gpu and high-memory; did you mean "
                    f"'high-memory'?; others can be named in {MAKES}"
                ),
            ),
            (
                "PROFILE_gpu_MEMORY",
                (
                    "no profile is called 'gpu', there are default, gpu and high-memory; did you mean 'gpu'?; others can "
                    f"be named in {MAKES}"
                ),
            ),
            (
                "PROFILE_X_Y",
                f"no profile is called 'X_Y', there are default, gpu and high-memory; others can be named in {MAKES}",
            ),
            ("DEFAULT_MEMORI", "unknown profile field 'memori'; did you mean 'memory'?"),
            ("DEFAULT_memory", "write it in capitals, as in MEMORY"),
            ("DEFAULT_NETWOR\u212a", "write it in capitals"),
        ],
    )
    def test_what_fits_nothing_is_refused(self, variable: str, message: str) -> None:
        said = refusal(**{variable: "1"}).removeprefix(variable + ": ")
        assert said == message or (message == "write it in capitals" and said.startswith(message))


# For each field, a text and what it means.
TEXTS: dict[str, tuple[str, object]] = {
    "image": ("python:3.12", "python:3.12"),
    "user": ("1000", "1000"),
    "setup": ("apt update, pip install x", ("apt update", "pip install x")),
    "workspace_base": ("/elsewhere", "/elsewhere"),
    "workspace_source": ("data", "data"),
    "env_vars": ("A=1; B=c=d;C=", {"A": "1", "B": "c=d", "C": ""}),
    "secrets": ("ONE,TWO", ("ONE", "TWO")),
    "app_name": ("mine", "mine"),
    "gpu": ("A100:2", "A100:2"),
    "cpu": ("0.5", 0.5),
    "memory": ("64", 64),
    "disk": ("64", 64),
    "pids": ("64", 64),
    "network": ("outbound", "outbound"),
    "isolation": ("sandbox", "sandbox"),
    "output_limit": ("5", 5),
    "acquire_timeout_s": ("1e2", 100.0),
    "execution_timeout_s": ("null", None),
    "slots_per_sandbox": ("3", 3),
    "target_slots_per_sandbox": ("1", 1),
    "min_sandboxes": ("1", 1),
    "max_sandboxes": ("9", 9),
    "buffer_sandboxes": ("0", 0),
    "scaledown_window": ("2.5", 2.5),
    "idle_timeout": ("null", None),
    "max_lifetime": ("60", 60.0),
    "max_uses": ("7", 7),
    "local": ("a=1", {"a": "1"}),
    "docker": ("dockerfile=a/Dockerfile;target=b", {"dockerfile": "a/Dockerfile", "target": "b"}),
    "modal": ("a=1", {"a": "1"}),
    "gcp": ("a=1", {"a": "1"}),
}


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("memory", "lots", "memory is 'lots' (str), but must be a whole number of MB"),
        ("memory", "1.5", "memory is '1.5' (str), but must be a whole number of MB"),
        ("memory", "-1", "memory is -1 (int), but must be a whole number of MB"),
        ("memory", "1_000", "memory is '1_000' (str), but must be"),
        ("memory", "٣", "memory is '٣' (str), but must be"),
        ("memory", "9" * 5000, "memory is '9999"),
        ("memory", " 1", "memory is ' 1' (str), but must be"),
        ("memory", "true", "memory is 'true' (str), but must be"),
        ("cpu", "nan", "cpu is 'nan' (str), but must be"),
        ("cpu", "inf", "cpu is 'inf' (str), but must be"),
        ("cpu", "1e999", "cpu is inf (float), but must be"),
        ("cpu", "1" * 5000, "cpu is '1111"),
        ("max_sandboxes", "null", "max_sandboxes is null, but must be"),
        ("image", "\udcff", "image is '\\udcff' (str), but must be text without NUL"),
        ("network", "no", "network is 'no' (str), but must be none or outbound; did you mean 'none'?"),
        ("secrets", "A,,B", "secrets[1] is '' (str), but must be non-empty text"),
        ("setup", "null", "setup is null, but must be a list of texts"),
        ("docker", "null", "docker is null, but must be a mapping"),
        ("gpu", "A100:0", "gpu is 'A100:0' (str), but must be"),
        ("workspace_source", "../x", "workspace_source is '../x' (str), but must be"),
    ],
)
def test_wrong_values(field: str, text: str, message: str) -> None:
    for variable in (f"PROFILE_GPU_{field.upper()}", f"DEFAULT_{field.upper()}"):
        said = re.sub(r"^\S+, profile '(gpu|default)': ", "", refusal(**{variable: text}))
        assert said.startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A", "'A' in env_vars is no name with a value; write them as NAME=VALUE;NAME=VALUE"),
        ("A=1;", "'' in env_vars is no name with a value; write them as NAME=VALUE;NAME=VALUE"),
        ("=1", "'=1' in env_vars is no name with a value; write them as NAME=VALUE;NAME=VALUE"),
        ("A=1;B=2;A=3", "'A' is in env_vars twice; take one out"),
    ],
)
def test_wrong_maps(text: str, message: str) -> None:
    assert refusal(DEFAULT_ENV_VARS=text) == f"DEFAULT_ENV_VARS: {message}"


def test_sections_are_merged_by_key() -> None:
    profiles = {"default": Profile().override({"docker": {"context": "c", "target": "a"}}, "file")}
    variables = {f"{ALL}DOCKER": "target=b;dockerfile=d", f"{ONE}DEFAULT_DOCKER": "dockerfile=e"}

    found = apply_variables(variables, profiles)["default"]

    assert found.docker == {"context": "c", "target": "b", "dockerfile": "e"}
    sources = [found.source(f"docker.{key}") for key in ("context", "target", "dockerfile")]
    assert sources == [
        "file",
        f"environment variable {ALL}DOCKER",
        f"environment variable {ONE}DEFAULT_DOCKER",
    ]


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
ITEMS = st.text("abAB19_./:= -", min_size=1).filter(lambda text: text == text.strip())


def in_capitals(name: str) -> str:
    return name.upper().replace("-", "_").replace(".", "_")


@given(st.lists(NAMES, unique_by=in_capitals, min_size=1, max_size=5), st.data())
def test_what_is_written_arrives_or_is_ambiguous(names: list[str], data: st.DataObject) -> None:
    name, field = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(list(TEXTS)))
    text, value = TEXTS[field]
    variable = f"{ONE}{in_capitals(name)}_{field.upper()}"
    readings = {
        (each, known)
        for each in {"default", *names}
        for known in FIELDS
        if f"{in_capitals(each)}_{known.upper()}" == f"{in_capitals(name)}_{field.upper()}"
    }
    try:
        found = apply_variables({MAKES: ",".join(names), variable: text}, {"default": Profile()})
    except ConfigurationError as error:
        assert len(readings) > 1
        assert "could be" in str(error)
    else:
        assert readings == {(name, field)}
        assert getattr(found[name], field) == value
        assert all(not each.sources for each in found.values() if each.name != name)


@given(
    st.lists(ITEMS.filter(lambda text: text != "null"), min_size=1),
    st.dictionaries(ITEMS.filter(lambda text: "=" not in text), ITEMS | st.just(""), min_size=1),
)
def test_lists_and_maps_arrive_as_they_were(items: list[str], variables: dict[str, str]) -> None:
    found = apply(
        DEFAULT_SETUP=",".join(items), DEFAULT_ENV_VARS=";".join(f"{k}={v}" for k, v in variables.items())
    )

    assert found["gpu"].setup == tuple(items)
    assert found["gpu"].env_vars == variables


@given(st.floats(min_value=1e-3, max_value=1e6), st.integers(1, 2**30))
def test_numbers_arrive_as_they_were(number: float, whole: int) -> None:
    found = apply(DEFAULT_CPU=repr(number), DEFAULT_MEMORY=str(whole))["default"]

    assert math.isclose(found.cpu or 0, number, rel_tol=0)
    assert found.memory == whole


TEXT: st.SearchStrategy[Any] = st.text() | st.text("0123456789.eE+-=;,_ null")


@given(st.dictionaries(st.text() | st.sampled_from([f"GPU_{each.upper()}" for each in FIELDS]), TEXT), TEXT)
def test_any_variables_are_taken_or_refused(ends: dict[str, str], names: str) -> None:
    variables = {prefix + end: text for end, text in ends.items() for prefix in (ONE, ALL)}
    for each in ({MAKES: names, **variables}, variables):
        try:
            found = apply_variables(each, FILE)
        except ConfigurationError as error:
            assert str(error) == one_line(str(error), 2000)
        else:
            assert all(profile.digest for profile in found.values())

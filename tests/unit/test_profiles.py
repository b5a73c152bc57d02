from __future__ import annotations

import inspect
import math
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.profile import FIELDS, LEASE_FIELDS, SECTIONS, Profile

MB = "a whole number of MB above 0, up to 1073741824 or null"

# For each field, values it takes (as a user writes them), and values it refuses.
TEXTS: tuple[list[Any], list[Any]] = (
    [[], ["a"], ("a", "b c")],
    ["a", None, [1], [None], [""], {"a"}, {"a": 1}, ["\0"], b"a", [["a"]]],
)
OPTIONAL_TEXT: tuple[list[Any], list[Any]] = (
    [None, "a", "ü:1"],
    ["", 1, True, 1.5, ["a"], b"a", "a\0b", "\ud800"],
)
POSITIVE: tuple[list[Any], list[Any]] = ([1, 2, 4096], [0, -1, "2", 2.0, True, None, [1], 10**30, math.nan])
OPTIONAL_POSITIVE = ([None, *POSITIVE[0]], [each for each in POSITIVE[1] if each is not None])
SECONDS: tuple[list[Any], list[Any]] = (
    [1, 0.5, 3600],
    [0, -1, -0.0, "2", True, None, math.inf, math.nan, 10**400, 1e9, [1]],
)
OPTIONAL_SECONDS = ([None, *SECONDS[0]], [each for each in SECONDS[1] if each is not None])
SECTION: tuple[list[Any], list[Any]] = (
    [{}, {"a": [1, None, True, 0.5, {"b": "c"}]}],
    [None, [], "a", {1: 2}, {"a": math.nan}, {"a": object()}, {"a": {"b": {1}}}, {"a": "\0"}, {"\ud800": 1}],
)
VALUES: dict[str, tuple[list[Any], list[Any]]] = {
    "image": OPTIONAL_TEXT,
    "user": OPTIONAL_TEXT,
    "setup": TEXTS,
    "workspace_base": (
        ["/workspace", "/a/b/", "/a/..b/.c"],
        ["", "/", "//", "a", "a/b", "/a/..", "/a/./b", "/../a", "/a//b", "/a\0", None, 1],
    ),
    "workspace_source": (
        [None, "data", "/testbed", "a/b", "..a/b..", "./a"],
        ["", "..", "../a", "a/../../b", "a/..", "/..", "a\n/../b", "a\0", 1, ["a"]],
    ),
    "env_vars": (
        [{}, {"A": "1", "b.c": ""}],
        [None, [], "A=1", {"A": 1}, {"A": None}, {"A": True}, {"": "a"}, {"A=B": "a"}, {1: "a"}, {"A": "\0"}],
    ),
    "secrets": TEXTS,
    "app_name": OPTIONAL_TEXT,
    "gpu": (
        [None, "A100", "A100:2", "A100-80GB:8", "any:4", "H100!"],
        ["", "A100:", "A100:0", "A100:two", "A100:-1", ":2", "A 100", "A100,H100", "ü", 1, True, ["A100"]],
    ),
    "cpu": ([None, 1, 0.25], [0, -1, "1", True, math.inf, math.nan, 10**400]),
    "memory": OPTIONAL_POSITIVE,
    "disk": OPTIONAL_POSITIVE,
    "pids": OPTIONAL_POSITIVE,
    "network": (["none", "outbound"], [None, False, "off", "None", "", ["none"], 1]),
    "isolation": (["slot", "sandbox", "none"], [None, False, "slots", "", 1]),
    "output_limit": POSITIVE,
    "acquire_timeout_s": SECONDS,
    "execution_timeout_s": OPTIONAL_SECONDS,
    "slots_per_sandbox": POSITIVE,
    "target_slots_per_sandbox": OPTIONAL_POSITIVE,
    "min_sandboxes": ([0, 3], [-1, "2", 2.0, True, None, 10**30]),
    "max_sandboxes": POSITIVE,
    "buffer_sandboxes": ([0, 3], [-1, "2", 2.0, True, None, 10**30]),
    "scaledown_window": OPTIONAL_SECONDS,
    "idle_timeout": OPTIONAL_SECONDS,
    "max_lifetime": OPTIONAL_SECONDS,
    "max_uses": OPTIONAL_POSITIVE,
    "local": SECTION,
    "docker": SECTION,
    "modal": SECTION,
    "gcp": SECTION,
}
# Large enough that no value above contradicts a pool size.
ROOMY = Profile().override({"max_sandboxes": 4096, "slots_per_sandbox": 4096}, "room")


def test_every_field_is_tested() -> None:
    assert list(VALUES) == list(FIELDS)


def test_every_field_says_what_it_means() -> None:
    lines = inspect.getsource(Profile).splitlines()
    for field in FIELDS:
        (number,) = [number for number, line in enumerate(lines) if line.startswith(f"    {field}: ")]
        assert lines[number + 1].startswith('    """'), field


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, (right, _) in VALUES.items() for value in right]
)
def test_right_values(field: str, value: object) -> None:
    changed = ROOMY.override({field: value}, "here")

    held = getattr(changed, field)
    assert held == (tuple(value) if isinstance(value, list) else value)
    assert changed.source(field) == "here"
    assert hash(changed) == hash(ROOMY.override({field: value}, "elsewhere"))


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, (_, wrong) in VALUES.items() for value in wrong]
)
def test_wrong_values(field: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Profile().override({field: value}, "conf.yaml:3")

    message = str(caught.value)
    assert message.startswith("conf.yaml:3, profile 'default': ")
    assert field in message
    assert " but must be " in message
    assert message == one_line(message, 1000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": "2"}, "memory is '2' (str), but must be " + MB + "; write 2 without quotes"),
        ({"memory": "2 GB"}, "memory is '2 GB' (str), but must be " + MB),
        ({"memory": "1e3"}, "memory is '1e3' (str), but must be " + MB + "; write 1000 without quotes"),
        (
            {"cpu": "0.5"},
            "cpu is '0.5' (str), but must be a number of cores above 0 or null; write 0.5 without quotes",
        ),
        (
            {"workspace_source": "../a"},
            (
                "workspace_source is '../a' (str), but must be the path of a directory without '..' in it, absolute for "
                "one of the image, or else relative to the rootdir or null"
            ),
        ),
        (
            {"gpu": "A100:two"},
            (
                "gpu is 'A100:two' (str), but must be a kind of GPU, with ':' and a number for several, such as A100:2 "
                "or null"
            ),
        ),
        ({"cpu": True}, "cpu is True (bool), but must be a number of cores above 0 or null"),
        ({"image": 3.11}, "image is 3.11 (float), but must be non-empty text or null; put it in quotes"),
        ({"network": "non"}, "network is 'non' (str), but must be none or outbound; did you mean 'none'?"),
        ({"env_vars": {"DEBUG": 1}}, "env_vars.DEBUG is 1 (int), but must be text; put it in quotes"),
        ({"secrets": ["a", None]}, "secrets[1] is null, but must be non-empty text"),
        ({"memroy": 2}, "unknown profile field 'memroy'; did you mean 'memory'?"),
        ({"xyzzy": 2}, "unknown profile field 'xyzzy'"),
        ({"name": "x"}, "unknown profile field 'name'; did you mean 'app_name'?"),
    ],
)
def test_messages(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Profile().override(changes, "here")

    assert str(caught.value) == f"here, profile 'default': {message}"


def test_a_section_may_be_deep_but_not_endless() -> None:
    endless: dict[str, object] = {}
    endless["again"] = endless

    with pytest.raises(ConfigurationError, match="nested deeper than 20 levels"):
        Profile().override({"docker": endless}, "here")


@pytest.mark.parametrize(
    ("changes", "low", "high"),
    [
        ({"min_sandboxes": 9}, "min_sandboxes is 9 (here)", "max_sandboxes, 8 (default)"),
        ({"max_sandboxes": 2, "min_sandboxes": 3}, "min_sandboxes is 3 (here)", "max_sandboxes, 2 (here)"),
        ({"buffer_sandboxes": 9}, "buffer_sandboxes is 9 (here)", "max_sandboxes, 8 (default)"),
        (
            {"target_slots_per_sandbox": 2},
            "target_slots_per_sandbox is 2 (here)",
            "slots_per_sandbox, 1 (default)",
        ),
    ],
)
def test_contradictions(changes: dict[str, object], low: str, high: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Profile().override(changes, "here")

    assert f"profile 'default': {low}, which is more than {high}" in str(caught.value)


def test_a_contradiction_between_layers_names_both() -> None:
    profile = Profile().override({"min_sandboxes": 4}, "sandboxes.yaml:3")

    with pytest.raises(ConfigurationError, match=r"4 \(sandboxes.yaml:3\), .* max_sandboxes, 2 \(marker\)"):
        profile.override({"max_sandboxes": 2}, "marker")


def test_equal_limits_are_no_contradiction() -> None:
    changes = {"min_sandboxes": 1, "max_sandboxes": 1, "target_slots_per_sandbox": 1}

    assert Profile().override(changes, "here").max_sandboxes == 1


def test_a_default_contradicts_nothing() -> None:
    assert Profile().override({"max_sandboxes": 1}, "here").max_sandboxes == 1


def test_override_replaces_whole_fields_and_leaves_the_original() -> None:
    first = Profile().override({"env_vars": {"A": "1"}, "memory": 64}, "file")

    second = first.override({"env_vars": {"B": "2"}}, "marker")

    assert (first.env_vars, second.env_vars, second.memory) == ({"A": "1"}, {"B": "2"}, 64)
    assert [second.source(field) for field in ("env_vars", "memory", "cpu")] == ["marker", "file", "default"]


class TestSections:
    """The fields that belong to one backend each are laid over each other key by key."""

    def test_there_is_one_for_each_backend(self) -> None:
        assert {"local", "docker", "modal", "gcp"} == SECTIONS

    @pytest.mark.parametrize("section", sorted(SECTIONS))
    def test_keys_are_replaced_as_a_whole_and_the_others_stay(self, section: str) -> None:
        first = Profile().override({section: {"a": {"x": 1}, "b": 2}}, "file")

        second = first.override({section: {"a": {"y": 3}, "c": 4}}, "marker")

        assert getattr(second, section) == {"a": {"y": 3}, "b": 2, "c": 4}
        assert getattr(first, section) == {"a": {"x": 1}, "b": 2}
        sources = [second.source(f"{section}{key}") for key in ("", ".a", ".b", ".c")]
        assert sources == ["marker", "marker", "file", "marker"]

    def test_null_takes_a_key_away(self) -> None:
        first = Profile().override({"docker": {"a": 1, "b": {"c": None}}}, "file")

        second = first.override({"docker": {"a": None}}, "marker")

        assert second.docker == {"b": {"c": None}}
        assert second.digest == Profile().override({"docker": {"b": {"c": None}}}, "here").digest

    def test_each_key_can_have_a_source(self) -> None:
        changed = Profile().override({"gcp": {"a": 1, "b": 2}}, {"gcp": "file:2", "gcp.b": "file:4"})

        assert changed.sources == {"gcp": "file:2", "gcp.a": "file:2", "gcp.b": "file:4"}


def test_layers_may_contradict_each_other_until_all_are_there() -> None:
    unsettled = Profile().lay({"min_sandboxes": 9}, "below")

    with pytest.raises(ConfigurationError, match=r"min_sandboxes is 9 \(below\), which is more than"):
        unsettled.settled()
    assert unsettled.lay({"max_sandboxes": 9}, "above").settled().min_sandboxes == 9


def test_override_takes_a_source_for_each_field() -> None:
    changed = Profile().override({"cpu": 1, "memory": 2}, {"cpu": "a", "memory": "b", "disk": "c"})

    assert changed.sources == {"cpu": "a", "memory": "b"}


def test_later_changes_to_what_was_given_do_not_show() -> None:
    section: dict[str, Any] = {"list": [1]}
    profile = Profile().override({"docker": section}, "here")
    digest = profile.digest

    section["list"].append(2)

    assert profile.docker == {"list": [1]}
    assert Profile().override({"docker": {"list": [1]}}, "here").digest == digest


def test_frozen() -> None:
    with pytest.raises(AttributeError):
        Profile().memory = 3  # type: ignore[misc]


class TestIdentity:
    @pytest.mark.parametrize("field", sorted(FIELDS.keys() - LEASE_FIELDS))
    def test_a_field_of_the_sandbox_tells_pools_apart(self, field: str) -> None:
        digests = {ROOMY.override({field: value}, "here").digest for value in VALUES[field][0]}

        assert len(digests) == len(VALUES[field][0])

    @pytest.mark.parametrize("field", sorted(LEASE_FIELDS))
    def test_a_field_of_the_lease_does_not(self, field: str) -> None:
        changed = [ROOMY.override({field: value}, "here") for value in VALUES[field][0]]

        assert {each.digest for each in changed} == {ROOMY.digest}
        assert len(set(changed)) == len(VALUES[field][0])

    def test_name_and_sources_do_not_either(self) -> None:
        one = Profile(name="one").override({"memory": 1}, "here")
        two = Profile(name="two").override({"memory": 1}, "there")

        assert one.digest == two.digest
        assert one != two

    def test_an_app_name_that_nobody_has_set_does_not_either(self) -> None:
        made_up = msgspec.structs.replace(Profile(), app_name="pytest-sandboxes-default")

        assert made_up.digest == Profile().digest
        assert Profile().override({"app_name": "pytest-sandboxes-default"}, "here").digest != made_up.digest

    def test_equal_whatever_the_sources_and_the_spelling(self) -> None:
        one = Profile().override({"cpu": 1, "secrets": ["a"], "env_vars": {"A": "", "B": ""}}, "here")
        two = Profile().override({"cpu": 1.0, "secrets": ("a",), "env_vars": {"B": "", "A": ""}}, "there")

        assert one == two
        assert len({one, two}) == 1
        assert one != "default"

    def test_true_and_one_in_a_section_are_different(self) -> None:
        assert Profile().override({"gcp": {"a": 1}}, "") != Profile().override({"gcp": {"a": True}}, "")

    def test_the_digest_is_the_same_in_every_process(self) -> None:
        program = (
            "from pytest_sandboxes.profiles.profile import Profile;"
            "print(Profile().override({'env_vars': {'B': '1', 'A': '2'}, 'memory': 3}, '').digest)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

        here = Profile().override({"env_vars": {"A": "2", "B": "1"}, "memory": 3}, "").digest
        assert done.stdout.strip() == here
        assert len(here) == 16
        assert int(here, 16) >= 0

    @given(st.data())
    def test_the_order_of_overrides_of_different_fields_does_not_matter(self, data: st.DataObject) -> None:
        fields = data.draw(st.lists(st.sampled_from(list(VALUES)), unique=True, max_size=6))
        changes = {field: data.draw(st.sampled_from(VALUES[field][0])) for field in fields}
        try:
            at_once = ROOMY.override(changes, "here")
            one_by_one = ROOMY
            for field in data.draw(st.permutations(fields)):
                one_by_one = one_by_one.override({field: changes[field]}, "here")
        except ConfigurationError as error:
            assert "which is more than" in str(error)
            return

        assert at_once == one_by_one
        assert at_once.digest == one_by_one.digest
        assert msgspec.convert(msgspec.to_builtins(at_once), Profile) == at_once


@given(
    st.sampled_from(list(FIELDS)),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
        max_leaves=5,
    ),
)
def test_any_value_is_taken_or_refused(field: str, value: object) -> None:
    try:
        changed = Profile().override({field: value}, "here")
    except ConfigurationError as error:
        assert str(error) == one_line(str(error), 1000)
    else:
        assert changed.digest
        assert msgspec.json.decode(msgspec.json.encode(changed), type=Profile) == changed


@pytest.mark.parametrize(
    ("changes", "capacity"),
    [
        ({}, 8),
        ({"max_sandboxes": 3, "slots_per_sandbox": 4}, 12),
        ({"max_sandboxes": 3, "slots_per_sandbox": 4, "isolation": "sandbox"}, 3),
    ],
)
def test_capacity(changes: dict[str, object], capacity: int) -> None:
    assert Profile().override(changes, "here").capacity == capacity


def test_importing_needs_no_yaml() -> None:
    program = (
        "import sys, pytest_sandboxes.profiles.profile; print('yaml' in sys.modules, 'pytest' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split()[0] == "False"

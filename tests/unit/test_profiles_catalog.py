from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.catalog import Profiles, load_profiles
from pytest_sandboxes.profiles.profile import FIELDS, SECTIONS, Profile, overlay
from pytest_sandboxes.settings.settings import Settings

LoadText = Callable[[str], Profiles]
ONE, ALL = "PYTEST_SANDBOXES_PROFILE_", "PYTEST_SANDBOXES_DEFAULT_"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "conf.yaml"


@pytest.fixture(scope="module")
def written_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files") / "conf.yaml"


def load(path: Path | None = None, variables: dict[str, str] | None = None, **settings: Any) -> Profiles:
    return load_profiles(Settings(profiles_file=path, profile_variables=variables or {}, **settings))


@pytest.fixture
def load_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadText:
    """Loads a text as `sandboxes.yaml` of the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sandboxes.yaml"
    return lambda text: (path.write_text(text), load(path))[1]


class TestNames:
    def test_without_a_file_there_is_default(self) -> None:
        profiles = load()

        assert profiles.names == ("default",)
        assert list(profiles) == [profiles.get("default", "here")]
        assert profiles.get("default", "here").digest == Profile().digest

    def test_default_is_there_beside_those_of_a_file(self, path: Path) -> None:
        path.write_text("profiles:\n  gpu:\n    gpu: A100\n")

        profiles = load(path)

        assert profiles.names == ("default", "gpu")
        assert (profiles.get("gpu", "here").gpu, profiles.get("default", "here").gpu) == ("A100", None)

    def test_a_file_can_say_what_default_is(self, path: Path) -> None:
        path.write_text("profiles:\n  other:\n  default:\n    memory: 64\n")

        profiles = load(path)

        assert profiles.names == ("default", "other")
        assert profiles.get("default", "here").memory == 64

    def test_an_unknown_name(self, path: Path) -> None:
        path.write_text("profiles: {pytorch-gpu: {}, high-memory: {}}")

        with pytest.raises(ConfigurationError) as caught:
            load(path).get("pytorch_gpu", "--sandbox-profile")

        assert str(caught.value) == (
            "--sandbox-profile: unknown profile 'pytorch_gpu', there are default, pytorch-gpu and "
            "high-memory (conf.yaml); did you mean 'pytorch-gpu'?"
        )

    def test_an_unknown_name_without_a_file(self) -> None:
        with pytest.raises(ConfigurationError, match="^here: unknown profile 'gpu'") as caught:
            Profiles().get("gpu", "here")
        assert str(caught.value).endswith(
            "there is default (others would be defined in sandboxes.yaml in the rootdir)"
        )

    def test_an_unknown_name_beside_those_of_the_environment(self, path: Path) -> None:
        path.write_text("profiles: {small: {}}")

        with pytest.raises(ConfigurationError, match="there are default, small and big") as caught:
            load(path, {"PYTEST_SANDBOXES_PROFILES": "big"}).activate("bug", "here")
        assert str(caught.value).endswith("(conf.yaml and PYTEST_SANDBOXES_PROFILES); did you mean 'big'?")


class TestAppNames:
    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("gpu: {}", ["pytest-sandboxes-default", "pytest-sandboxes-gpu"]),
            ("{default: {app_name: mine}, gpu: {}}", ["mine", "mine-gpu"]),
            ("{default: {app_name: mine}, gpu: {app_name: own}}", ["mine", "own"]),
            ("{default: {app_name: mine}, gpu: {extends: default}}", ["mine", "mine"]),
            ("{gpu: {app_name: own}}", ["pytest-sandboxes-default", "own"]),
        ],
    )
    def test_what_nobody_names_has_a_name_of_base_and_profile(
        self, path: Path, text: str, names: list[str]
    ) -> None:
        path.write_text("profiles:\n  " + text)

        assert [each.app_name for each in load(path)] == names

    def test_it_is_a_default_and_tells_no_pools_apart(self) -> None:
        one, two = load(variables={"PYTEST_SANDBOXES_PROFILES": "other"})

        assert one.source("app_name") == "default"
        assert one.digest == two.digest


class TestExtends:
    TEXT = """\
profiles:
  large:
    extends: small
    memory: 512
    docker:
      target: b
      context: null
  tiny: {extends: default, cpu: 1}
  small:
    extends: base
    memory: 128
    min_sandboxes: 3
    max_sandboxes: 4
  base:
    cpu: 2
    env_vars: {A: "1"}
    app_name: own
    docker:
      context: c
      target: a
  default: {pids: 9}
"""

    def test_several_levels_in_any_order(self, load_text: LoadText) -> None:
        profiles = load_text(self.TEXT)

        assert profiles.names == ("default", "large", "tiny", "small", "base")
        large, small, base = (profiles.get(name, "here") for name in ("large", "small", "base"))
        assert [each.memory for each in (large, small, base)] == [512, 128, None]
        assert [each.cpu for each in (large, small, base)] == [2, 2, 2]
        assert [each.max_sandboxes for each in (large, small, base)] == [4, 4, 8]
        assert (large.name, large.env_vars, large.app_name, large.pids) == ("large", {"A": "1"}, "own", None)
        assert profiles.get("tiny", "here").pids == 9

    def test_sources_are_the_lines_that_say_so(self, load_text: LoadText) -> None:
        large = load_text(self.TEXT).get("large", "here")

        lines = {field: f"sandboxes.yaml:{line}" for field, line in [("memory", 4), ("cpu", 15)]}
        assert {field: large.source(field) for field in lines} == lines
        assert large.docker == {"target": "b"}
        assert large.source("docker.target") == "sandboxes.yaml:6"
        assert load_text(self.TEXT).get("small", "here").source("docker.target") == "sandboxes.yaml:20"

    def test_default_need_not_be_in_the_file(self, load_text: LoadText) -> None:
        assert load_text("profiles: {a: {extends: default, cpu: 1}}").get("a", "here").cpu == 1

    def test_contradictions_between_levels_name_both_lines(self, load_text: LoadText) -> None:
        text = "profiles:\n  a: {min_sandboxes: 3}\n  b: {extends: a, max_sandboxes: 2}\n"

        with pytest.raises(ConfigurationError) as caught:
            load_text(text)

        assert str(caught.value) == (
            "profile 'b': min_sandboxes is 3 (sandboxes.yaml:2), which is more than max_sandboxes, 2 "
            "(sandboxes.yaml:3); lower the one or raise the other"
        )

    def test_a_long_chain_takes_no_long_time_and_no_deep_stack(self, load_text: LoadText) -> None:
        links = "".join(f"  p{number}: {{extends: p{number + 1}}}\n" for number in range(5000))

        assert load_text(f"profiles:\n{links}  p5000: {{cpu: 3}}\n").get("p0", "here").cpu == 3

    def test_a_long_cycle_is_one_short_sentence(self, load_text: LoadText) -> None:
        links = "".join(f"  p{number}: {{extends: p{(number + 1) % 5000}}}\n" for number in range(5000))

        with pytest.raises(
            ConfigurationError, match=r"^sandboxes.yaml:\d+: profile 'p\d+' extends "
        ) as caught:
            load_text(f"profiles:\n{links}")
        assert len(str(caught.value)) < 500


class TestOrder:
    def test_file_then_all_then_one_then_option_then_marker(self, path: Path) -> None:
        path.write_text("profiles: {a: {extends: b}, b: {memory: 1, pids: 2, isolation: sandbox}}")
        file = load(path).get("a", "here")
        everyone = load(path, {f"{ALL}MEMORY": "3"}).get("a", "here")
        single = load(path, {f"{ONE}A_MEMORY": "4", f"{ALL}MEMORY": "3"}).get("a", "here")
        option = load(path, isolation="none", sources={"isolation": "--sandbox-isolation"}).get("a", "here")
        marked = single.override({"memory": 5}, "marker")

        assert [each.memory for each in (file, everyone, single, marked)] == [1, 3, 4, 5]
        assert [each.source("memory") for each in (everyone, single, marked)] == [
            f"environment variable {ALL}MEMORY",
            f"environment variable {ONE}A_MEMORY",
            "marker",
        ]
        assert (marked.pids, marked.isolation, option.isolation) == (2, "sandbox", "none")
        assert option.source("isolation") == "--sandbox-isolation"

    def test_what_is_said_of_one_is_not_said_of_those_that_extend_it(self, path: Path) -> None:
        path.write_text("profiles: {a: {extends: b}, b: {memory: 1}}")

        assert [each.memory for each in load(path, {f"{ONE}B_MEMORY": "4"})] == [None, 1, 4]

    def test_layers_contradict_each_other_only_once_all_are_there(self, path: Path) -> None:
        path.write_text("profiles: {a: {max_sandboxes: 2}}")
        variables = {f"{ALL}MIN_SANDBOXES": "3"}

        assert (
            load(path, {**variables, f"{ONE}A_MAX_SANDBOXES": "4"}).get("a", "here").settled().min_sandboxes
            == 3
        )
        with pytest.raises(ConfigurationError) as caught:
            load(path, variables)
        assert str(caught.value).startswith(
            f"profile 'a': min_sandboxes is 3 (environment variable {ALL}MIN_SANDBOXES), which is more than "
            f"max_sandboxes, 2 ({path}:1)"
        )

    @given(data=st.data())
    def test_the_last_layer_that_says_something_of_a_field_has_its_say(
        self, written_file: Path, data: st.DataObject
    ) -> None:
        numbers = st.dictionaries(
            st.sampled_from(["memory", "disk", "pids", "max_uses"]), st.integers(1, 99) | st.none()
        )
        keys = st.dictionaries(st.sampled_from("abc"), st.integers(0, 9).map(str), max_size=3)
        layers: list[dict[str, Any]] = [
            {**data.draw(numbers), **data.draw(st.dictionaries(st.sampled_from(sorted(SECTIONS)), keys))}
            for _ in range(5)
        ]
        base, own, everyone, single, marker = layers
        variables = {
            f"{prefix}{field.upper()}": written(value)
            for prefix, layer in ((ALL, everyone), (f"{ONE}MY_OWN_", single))
            for field, value in layer.items()
            if value != {}  # which a variable cannot say
        }
        text = yaml.safe_dump({"profiles": {"my.own": {"extends": "base", **own}, "base": base}})
        written_file.write_text(text)
        shuffled = dict(data.draw(st.permutations(list(variables.items()))))
        profile = load(written_file, shuffled).get("my.own", "here")
        profile = profile.override(marker, "marker")

        for field in FIELDS.keys() - SECTIONS - {"app_name"}:
            said = [layer[field] for layer in layers if field in layer]
            assert getattr(profile, field) == (said[-1] if said else getattr(Profile(), field))
            assert (profile.source(field) == "default") == (not said)
            assert (profile.source(field) == "marker") == (field in marker)
        for field in SECTIONS:
            expected: dict[str, object] = {}
            for layer in layers:
                expected |= layer.get(field, {})
            assert getattr(profile, field) == expected
            for key in expected:
                assert (profile.source(f"{field}.{key}") == "marker") == (key in marker.get(field, {}))

    @given(st.lists(st.dictionaries(st.sampled_from(["memory", "docker"]), st.integers()), max_size=4))
    def test_overlay_of_what_has_not_been_checked(self, layers: list[dict[str, object]]) -> None:
        expected: dict[str, object] = {}
        laid: dict[str, object] = {}
        for layer in layers:
            expected, laid = {**expected, **layer}, overlay(laid, layer)
        assert laid == expected


def written(value: object) -> str:
    if isinstance(value, dict):
        return ";".join(f"{key}={item}" for key, item in value.items())
    return "null" if value is None else str(value)


def test_what_is_not_used_is_not_imported() -> None:
    program = (
        "import sys; from pytest_sandboxes.profiles.catalog import load_profiles;"
        "from pytest_sandboxes.settings.settings import Settings; load_profiles(Settings());"
        "print('yaml' in sys.modules, 'pytest_sandboxes.profiles.environment' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "False"]

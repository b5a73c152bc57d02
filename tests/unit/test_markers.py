from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.markers import MarkerArguments, Requirement, Requirements, merge_markers, read_marker
from pytest_sandboxes.profiles.catalog import Profiles
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.settings.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = "marker on test_x.py::test_y"
MB = "a whole number of MB above 0, up to 1073741824 or null"
SECONDS = "a number of seconds above 0, up to a year or null"


def here(_: pytest.Mark) -> str:
    return HERE


def mark(*args: object, **kwargs: object) -> pytest.Mark:
    # Of another name, because that of ours is only known where the plugin is installed.
    return pytest.mark.usefixtures.with_args(*args, **kwargs).mark


class TestRead:
    def test_nothing(self) -> None:
        assert read_marker({}, (), HERE) == MarkerArguments()
        assert (MarkerArguments().profile, MarkerArguments().slots, MarkerArguments().retry_safe) == (
            None,
            1,
            None,
        )

    def test_everything(self) -> None:
        kwargs = {"profile": "gpu", "slots": 2, "exec_timeout": 30, "retry_safe": True, "memory": 64}

        assert read_marker(kwargs, (), HERE) == MarkerArguments(
            profile="gpu",
            slots=2,
            retry_safe=True,
            overrides={"execution_timeout_s": 30.0, "memory": 64},
            sources=dict.fromkeys(["profile", "slots", "retry_safe", "execution_timeout_s", "memory"], HERE),
        )

    def test_no_deadline_at_all(self) -> None:
        assert read_marker({"exec_timeout": None}, (), HERE).overrides == {"execution_timeout_s": None}

    @pytest.mark.parametrize(
        ("args", "kwargs", "message"),
        [
            (("gpu",), {}, "all arguments are keywords, but 'gpu' has no name; write profile='gpu'"),
            ((2, "a"), {"slots": 2}, "all arguments are keywords, but 2 has no name"),
            ((), {"profil": "gpu"}, "unknown argument 'profil'; did you mean 'profile'?"),
            ((), {"exec_timout": 3}, "unknown argument 'exec_timout'; did you mean 'exec_timeout'?"),
            ((), {"memroy": 3}, "unknown argument 'memroy'; did you mean 'memory'?"),
            ((), {"xyzzy": 3}, "unknown argument 'xyzzy'"),
            (
                (),
                {"exec_timeout": 3, "execution_timeout_s": 3},
                "exec_timeout and execution_timeout_s are the same setting; give only one of them",
            ),
            ((), {"profile": None}, "profile is null, but must be non-empty text"),
            ((), {"profile": ["a"]}, "profile is ['a'] (list), but must be non-empty text"),
            ((), {"slots": 0}, "slots is 0 (int), but must be a whole number above 0"),
            ((), {"slots": True}, "slots is True (bool), but must be a whole number above 0"),
            ((), {"slots": 1.0}, "slots is 1.0 (float), but must be a whole number above 0"),
            ((), {"retry_safe": 1}, "retry_safe is 1 (int), but must be true or false"),
            ((), {"exec_timeout": -1}, "exec_timeout is -1 (int), but must be " + SECONDS),
            (
                (),
                {"exec_timeout": "60"},
                "exec_timeout is '60' (str), but must be " + SECONDS + "; write 60 without quotes",
            ),
        ],
    )
    def test_mistakes(self, args: tuple[object, ...], kwargs: Mapping[str, object], message: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            read_marker(kwargs, args, HERE)

        assert str(caught.value) == f"{HERE}: {message}"


class TestMerge:
    def test_no_marks(self) -> None:
        assert merge_markers([]) == MarkerArguments()

    def test_the_closest_wins_per_argument(self) -> None:
        function = read_marker({"slots": 1, "memory": 2, "exec_timeout": 5}, (), "function")
        class_ = read_marker({"slots": 3, "profile": "gpu", "execution_timeout_s": 9, "cpu": 1}, (), "class")

        merged = merge_markers([function, class_])

        assert (merged.profile, merged.slots, merged.retry_safe) == ("gpu", 1, None)
        assert merged.overrides == {"execution_timeout_s": 5.0, "memory": 2, "cpu": 1}
        assert (merged.sources["slots"], merged.sources["cpu"]) == ("function", "class")
        assert merged.sources["execution_timeout_s"] == "function"


@pytest.fixture
def profiles() -> Profiles:
    gpu = Profile(name="gpu").override({"gpu": "A100", "min_sandboxes": 2, "max_sandboxes": 3}, "conf.yaml:3")
    return Profiles([gpu], origin="conf.yaml")


@pytest.fixture
def requirements(profiles: Profiles) -> Requirements:
    return Requirements(profiles, Settings())


class TestRequirements:
    def test_without_marks_the_run_decides(self, profiles: Profiles) -> None:
        assert Requirements(profiles, Settings()).of_test([], here) == Requirement(
            profile=Profile(), slots=1, retry_safe=None
        )
        assert Requirements(profiles, Settings(profile="gpu")).of_test([], here).profile.name == "gpu"

    def test_a_mark_decides(self, requirements: Requirements) -> None:
        needed = requirements.of_test([mark(profile="gpu", slots=3, retry_safe=False, memory=64)], here)

        assert (needed.profile.name, needed.profile.gpu, needed.profile.memory) == ("gpu", "A100", 64)
        assert (needed.slots, needed.retry_safe) == (3, False)
        assert needed.profile.source("memory") == HERE
        assert needed.profile.source("gpu") == "conf.yaml:3"

    def test_marks_are_merged(self, requirements: Requirements) -> None:
        needed = requirements.of_test([mark(memory=1), mark(memory=2, cpu=2)], here)

        assert (needed.profile.memory, needed.profile.cpu) == (1, 2.0)

    def test_a_deadline_of_its_own_makes_no_pool_of_its_own(self, requirements: Requirements) -> None:
        profile = requirements.of_test([mark(exec_timeout=5)], here).profile

        assert profile.execution_timeout_s == 5
        assert profile.digest == Profile().digest

    def test_sections_are_merged_by_key(self, requirements: Requirements) -> None:
        marks = [mark(docker={"a": 1, "c": None}), mark(docker={"a": 2, "b": 3, "c": 4}), mark(gcp={"d": 5})]

        profile = requirements.of_test(marks, here).profile

        assert (profile.docker, profile.gcp) == ({"a": 1, "b": 3}, {"d": 5})

    def test_a_section_that_is_none_is_refused_whatever_is_below(self, requirements: Requirements) -> None:
        with pytest.raises(ConfigurationError, match="docker is 3 "):
            requirements.of_test([mark(docker=3), mark(docker={"a": 2})], here)

    def test_profiles_are_active_once_asked_for(self, profiles: Profiles, requirements: Requirements) -> None:
        assert [each.active for each in profiles.listed()] == [False, False]
        requirements.of_test([mark(profile="gpu", memory=64)], here)

        assert [(each.profile.name, each.active) for each in profiles.listed()] == [
            ("default", False),
            ("gpu", True),
        ]
        assert profiles.listed()[1].profile.memory is None

    def test_isolation_from_the_settings_outranks_profiles_and_marks(self, profiles: Profiles) -> None:
        settings = Settings(isolation="none", sources={"isolation": "--sandbox-isolation"})
        requirements = Requirements(profiles, settings)

        for marks in ([], [mark(isolation="sandbox")]):
            profile = requirements.of_test(marks, here).profile
            assert (profile.isolation, profile.source("isolation")) == ("none", "--sandbox-isolation")

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            (
                {"profile": "gpuu"},
                f"{HERE}: unknown profile 'gpuu', there are default and gpu (conf.yaml); did you mean 'gpu'?",
            ),
            (
                {"memory": "2"},
                f"{HERE}, profile 'default': memory is '2' (str), but must be {MB}; write 2 without quotes",
            ),
            ({"memory": {1}}, f"{HERE}, profile 'default': memory is {{1}} (set), but must be " + MB),
        ],
    )
    def test_mistakes(self, requirements: Requirements, kwargs: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            requirements.of_test([mark(**kwargs)], here)

        assert str(caught.value) == message

    def test_a_contradiction_with_the_file(self, requirements: Requirements) -> None:
        with pytest.raises(ConfigurationError) as caught:
            requirements.of_test([mark(profile="gpu", max_sandboxes=1)], here)

        assert str(caught.value) == (
            "profile 'gpu': min_sandboxes is 2 (conf.yaml:3), which is more than max_sandboxes, 1 "
            f"({HERE}); lower the one or raise the other"
        )

    def test_more_slots_than_there_can_be(self, requirements: Requirements) -> None:
        with pytest.raises(ConfigurationError) as caught:
            requirements.of_test([mark(profile="gpu", slots=4)], here)

        assert str(caught.value) == (
            f"{HERE}: slots is 4, but the pool of profile 'gpu' never has more than 3; "
            "raise max_sandboxes (3, conf.yaml:3) or slots_per_sandbox (1, default)"
        )

    def test_an_unknown_default_names_its_source(self, profiles: Profiles) -> None:
        settings = Settings(profile="gpuu", sources={"profile": "--sandbox-profile"})

        with pytest.raises(ConfigurationError, match=r"^--sandbox-profile: unknown profile 'gpuu'"):
            Requirements(profiles, settings).of_test([], here)


class TestSharing:
    KWARGS: dict[str, Any] = {"profile": "gpu", "setup": ["a"], "env_vars": {"A": "1"}, "exec_timeout": 5}  # noqa: RUF012

    def test_marks_that_say_the_same_share_one_answer(self, requirements: Requirements) -> None:
        first = requirements.of_test([mark(**self.KWARGS)], lambda _: "first")
        second = requirements.of_test([mark(**self.KWARGS)], lambda _: "second")

        assert second is first

    @pytest.mark.parametrize(("right", "wrong"), [(1, True), (1, 1.0), (2, 2.0)])
    def test_equal_values_of_another_type_are_still_checked(
        self, requirements: Requirements, right: int, wrong: object
    ) -> None:
        requirements.of_test([mark(memory=right)], here)

        with pytest.raises(ConfigurationError, match="memory is"):
            requirements.of_test([mark(memory=wrong)], here)

    def test_a_mistake_is_never_remembered(self, requirements: Requirements) -> None:
        for test in ("first", "second"):
            with pytest.raises(ConfigurationError, match=f"^{test}: unknown argument"):
                requirements.of_test([mark(memroy=1)], lambda _, test=test: test)  # type: ignore[misc]

    def test_arguments_that_cannot_be_compared_are_refused_all_the_same(
        self, requirements: Requirements
    ) -> None:
        endless: list[object] = []
        endless.append(endless)

        for value in (endless, {"a": endless}, {1}, bytearray()):
            with pytest.raises(ConfigurationError, match="docker"):
                requirements.of_test([mark(docker=value)], here)

    def test_changing_a_list_after_it_was_read_is_seen(self, requirements: Requirements) -> None:
        setup = ["a"]
        requirements.of_test([mark(setup=setup)], here)
        setup.append("b")

        assert requirements.of_test([mark(setup=setup)], here).profile.setup == ("a", "b")

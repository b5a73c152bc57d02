from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_sandboxes.backends.docker import recipe
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.profile import Profile


def read(section: dict[str, Any], directory: Path = Path("/project"), **fields: Any) -> recipe.Recipe | None:
    profile = Profile().override(fields, "file:1").override({"docker": section}, "file:2")
    return recipe.read(profile, directory)


@pytest.mark.parametrize(
    ("section", "dockerfile", "context"),
    [
        ({"dockerfile": "d/Dockerfile"}, "/project/d/Dockerfile", "/project/d"),
        ({"context": "d"}, "/project/d/Dockerfile", "/project/d"),
        ({"context": "."}, "/project/Dockerfile", "/project"),
        ({"dockerfile": "a/x", "context": "b"}, "/project/a/x", "/project/b"),
        ({"dockerfile": "/a/x", "context": "/b"}, "/a/x", "/b"),
    ],
)
def test_paths_count_from_the_profiles_file(section: dict[str, Any], dockerfile: str, context: str) -> None:
    found = read(section)
    assert found is not None
    assert (str(found.dockerfile), str(found.context)) == (dockerfile, context)


def test_nothing_is_no_recipe() -> None:
    assert read({}) is None


def test_equal_recipes_are_one_image() -> None:
    one = {"context": ".", "build_args": {"a": "1", "b": "2"}, "target": "t"}
    other = {"target": "t", "build_args": {"b": "2", "a": "1"}, "context": "."}
    assert read(one) == read(other) != read({**one, "build_args": {"a": "1"}})
    assert hash(read(one)) == hash(read(other))


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({"dockrfile": "x"}, "unknown field of docker 'dockrfile'; did you mean 'dockerfile'?"),
        ({"buildargs": {}}, "unknown field of docker 'buildargs'; did you mean 'build_args'?"),
        ({"dockerfile": 7}, "docker.dockerfile is 7 (int), but must be non-empty text; put it in quotes"),
        ({"dockerfile": ""}, "docker.dockerfile is '' (str), but must be non-empty text"),
        (
            {"context": ".", "dockerfile": None, "target": "a", "build_args": 1},
            "docker.build_args is 1 (int), but",
        ),
        ({"context": ["a"]}, "docker.context is ['a'] (list), but must be non-empty text"),
        ({"context": ".", "target": True}, "docker.target is True (bool)"),
        (
            {"context": ".", "build_args": ["A=1"]},
            "docker.build_args is ['A=1'] (list), but must be a mapping",
        ),
        ({"context": ".", "build_args": {"A": 1}}, "docker.build_args.A is 1 (int), but must be text"),
        ({"context": ".", "build_args": {"A=B": "1"}}, "a name in docker.build_args is 'A=B'"),
        ({"target": "t"}, "docker has neither dockerfile nor context"),
    ],
)
def test_what_a_section_may_not_say(section: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(section)
    assert str(caught.value).startswith(f"file:2, profile 'default': {complaint}")


def test_an_image_beside_it_names_both_sources() -> None:
    with pytest.raises(
        ConfigurationError, match=r"an image \(file:1\), and a docker section .*\(file:2\); remove one"
    ):
        read({"context": "."}, image="x")
    assert read({"context": "."}, image=None)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").mkdir()
    for section, complaint in (
        (
            {"context": "none"},
            f"there is no directory {tmp_path}/none to build from; correct docker.context",
        ),
        ({"dockerfile": "none/x"}, f"there is no directory {tmp_path}/none to build from"),
        (
            {"dockerfile": "none"},
            f"there is no file {tmp_path}/none to build from; correct docker.dockerfile",
        ),
        ({"context": "."}, f"there is no file {tmp_path}/Dockerfile to build from"),
    ):
        found = read(section, tmp_path)
        assert found is not None
        with pytest.raises(ConfigurationError) as caught:
            found.check()
        assert str(caught.value).startswith(f"file:2, profile 'default': {complaint}")

"""`--sandbox-max-sandboxes` on a real Engine: as many images as there are profiles, and few containers at once."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("docker", reason="the docker SDK is not installed")

from tests.chaos import many_images


@pytest.mark.usefixtures("engine")
def test_no_more_containers_than_allowed_ever_exist_at_once() -> None:
    said = many_images.run(tests=24, count=8, cap=3)
    assert "24 tests on 8 images" in said


def test_the_census_sees_what_is_there(engine: Any, python_image: str) -> None:
    label = "pytest-sandboxes-tests.census=1"
    with many_images.Census(label) as census:
        for _ in range(3):
            made = engine.api.create_container(python_image, ["true"], labels=dict([label.split("=")]))["Id"]
            engine.api.remove_container(made)
        first, second = (
            engine.api.create_container(python_image, ["true"], labels=dict([label.split("=")]))["Id"]
            for _ in range(2)
        )
        engine.api.remove_container(first)
        engine.api.remove_container(second)
        many_images.wait_for(lambda: census.made == 5 and not census.left)
    assert (census.made, census.most) == (5, 2)

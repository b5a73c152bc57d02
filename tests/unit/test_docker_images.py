from __future__ import annotations

import re
from typing import Any

import pytest

from pytest_sandboxes.backends.docker.pulling import Layers, _split


@pytest.mark.parametrize(
    ("name", "repository", "tag"),
    [
        ("python", "python", "latest"),
        ("python:3.13", "python", "3.13"),
        ("host:5000/a/b", "host:5000/a/b", "latest"),
        ("host:5000/a/b:c", "host:5000/a/b", "c"),
        ("a@sha256:00", "a", "sha256:00"),
        ("host:5000/a@sha256:00", "host:5000/a", "sha256:00"),
    ],
)
def test_one_tag_is_pulled(name: str, repository: str, tag: str) -> None:
    assert _split(name) == (repository, tag)


def downloading(layer: str, current: int, total: int) -> dict[str, Any]:
    return {"id": layer, "status": "Downloading", "progressDetail": {"current": current, "total": total}}


def test_how_far_a_pull_is() -> None:
    layers = Layers()
    states = []
    for event in (
        {"id": "latest", "status": "Pulling from library/python"},
        {"id": "a", "status": "Already exists"},
        {"id": "b", "status": "Pulling fs layer"},
        downloading("b", 1_000_000, 3_000_000),
        {"id": "b", "status": "Download complete"},
        {"id": "b", "status": "Pull complete"},
        {"status": "Digest: sha256:00"},
    ):
        layers.take(event)
        states.append(str(layers))
    assert list(dict.fromkeys(states)) == [
        "",
        "1 of 1 layers, 0.0 MB",
        "1 of 2 layers, 0.0 MB",
        "1 of 2 layers, 1.0 MB",
        "1 of 2 layers, 3.0 MB",
        "2 of 2 layers, 3.0 MB",
    ]


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"id": 7, "status": "Downloading"},
        {"id": "x", "status": None},
        {"id": "x", "status": "Downloading", "progressDetail": []},
        {"id": "x", "status": "Downloading", "progressDetail": {"current": "\x1b[2J", "total": 1}},
        {"id": "x", "status": "Downloading", "progressDetail": {"current": 1, "total": None}},
        {"id": "x", "status": "Downloading", "progressDetail": {"current": 10**400, "total": 10**400}},
        {"id": "x", "status": "Downloading", "progressDetail": {"current": -(10**9), "total": 1}},
        {"id": "\x1b[2J", "status": "Pull complete\x1b[2J"},
    ],
)
def test_nothing_in_what_is_said_is_relied_on(event: dict[str, Any]) -> None:
    layers = Layers()
    layers.take(event)
    assert re.fullmatch(r"|\d of \d layers, 0\.0 MB", str(layers))

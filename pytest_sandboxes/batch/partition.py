"""Which tests run together: shards of even length, in which nothing is apart that shares a fixture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import pytest

UNKNOWN_SECONDS = 1.0
"""What a test is taken for where nothing has been recorded of any."""
_LEAST_SECONDS = 0.001  # nothing weighs nothing, or thousands of such tests would end up together
_SHARING = ("class", "module", "package")


def partition(
    items: Sequence[pytest.Item],
    durations: Mapping[str, float],
    shards: int,
    image_of: Callable[[pytest.Item], str | None] = lambda _: None,
) -> list[list[pytest.Item]]:
    """At most so many lists of tests, each in the order of collection, none of them empty.

    Tests stay together that use the same fixture of scope class, module or package. All else may be cut anywhere.
    The tests of one image come one after the other, images and tests in the order of collection, and each list ends
    where its share of the recorded time is full: so few lists have more than one image, and the same tests and
    durations always give the same lists. `durations` has seconds by node id; a test that it lacks counts as their
    median.
    """
    seconds = estimates(items, durations)
    groups = _by_image(_groups(items), image_of)
    weights = [sum(seconds[item.nodeid] for item in group) for group in groups]
    total, begin = sum(weights), 0.0
    parts: list[list[int]] = [[] for _ in range(shards)]
    order = {item: position for position, item in enumerate(items)}
    for group, weight in zip(groups, weights, strict=True):
        middle = begin + weight / 2
        parts[min(int(middle * shards / total), shards - 1)] += [order[item] for item in group]
        begin += weight
    return [[items[position] for position in sorted(part)] for part in parts if part]


def count_shards(
    items: Sequence[pytest.Item], durations: Mapping[str, float], width: int, worthwhile: float
) -> int:
    """How many shards `auto` stands for: one for each `worthwhile` seconds of tests, from 1 to `width`."""
    total = sum(estimates(items, durations).values())
    return max(1, min(width, len(items), math.ceil(total / worthwhile)))


def estimates(items: Iterable[pytest.Item], durations: Mapping[str, float]) -> dict[str, float]:
    """Seconds that each test is likely to take, by node id."""
    known = {item.nodeid: durations.get(item.nodeid) for item in items}
    recorded = [each for each in known.values() if each is not None]
    usual = median(recorded) if recorded else UNKNOWN_SECONDS
    return {nodeid: max(usual if each is None else each, _LEAST_SECONDS) for nodeid, each in known.items()}


def _groups(items: Sequence[pytest.Item]) -> list[list[pytest.Item]]:
    """Tests that have to stay together, in the order in which the first of each comes."""
    found: dict[object, list[pytest.Item]] = {}
    # where a test of a class needs its module, the others of that class go with it, lest the class is set up twice
    holders = {item: _holders(item) for item in items}
    homes = {inner: outer for nodes in holders.values() for inner, outer in pairwise(nodes)}
    for item in items:
        nodes = holders[item]
        key: object = nodes[0] if nodes else item
        while key in homes:
            key = homes[key]
        found.setdefault(key, []).append(item)
    return list(found.values())


def _by_image(
    groups: list[list[pytest.Item]], image_of: Callable[[pytest.Item], str | None]
) -> list[list[pytest.Item]]:
    found: dict[str | None, list[list[pytest.Item]]] = {}
    for group in groups:
        images = (image_of(item) for item in group)
        found.setdefault(next(filter(None, images), None), []).append(group)
    return [group for each in found.values() for group in each]


def _holders(item: pytest.Item) -> list[object]:
    """The nodes whose fixtures a test shares with others, from the inside out."""
    info: Any = getattr(
        item, "_fixtureinfo", None
    )  # pytest has no public way to know the scopes of a test's fixtures
    if info is None:
        return []
    scopes = {str(definitions[-1].scope) for definitions in info.name2fixturedefs.values() if definitions}
    # of a module the path, because its tests and its doctests have different nodes
    nodes = {
        "class": item.getparent(pytest.Class),
        "module": item.path,
        "package": item.getparent(pytest.Package),
    }
    return [nodes[scope] for scope in _SHARING if scope in scopes and nodes[scope] is not None]

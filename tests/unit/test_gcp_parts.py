"""The order in which parts of a shard are read, whatever is listed when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes.batch.runners.gcp.parts import Order, Part, parse


def part(attempt: int, number: int) -> Part:
    return Part(attempt, number, 0, is_end=False, name=f"{attempt}-{number}")


def test_a_name_is_parsed() -> None:
    name = "1700000000000-12-1-34.end"
    assert parse(name) == Part(1, 34, 12, is_end=True, name=name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1700000000000-12-1-34.end\n",
        "../1700000000000-12-1-34.end",
        "170000000000-1-1-1.part",
        "1700000000000--1-1-1.part",
        "1700000000000-1-1-1.exe",
        "1700000000000-99999999-1-1.part",
        "1700000000000-\u0661-1-1.part",
    ],
)
def test_what_is_no_name_of_a_part(name: str) -> None:
    assert parse(name) is None


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_however_they_are_listed_each_part_is_read_once_and_in_order(
    attempts: list[int], data: st.DataObject
) -> None:
    everything = [part(attempt, number) for attempt, count in enumerate(attempts) for number in range(count)]
    order, read = Order(), []
    for each in data.draw(st.permutations([*everything, *everything])):
        order.add(each)
        read += list(order.ready())
    keys = [(each.attempt, each.number) for each, _ in read]
    assert keys == sorted(set(keys))
    assert [each.number == 0 for each, _ in read] == [begins for _, begins in read]
    last = len(attempts) - 1
    assert [number for attempt, number in keys if attempt == last] == list(range(attempts[last]))


def test_a_part_is_waited_for_until_a_later_attempt_begins() -> None:
    order = Order()
    for number in (0, 2):
        order.add(part(0, number))
    assert [each.number for each, _ in order.ready()] == [0]
    order.add(part(1, 0))
    assert [(each.attempt, begins) for each, begins in order.ready()] == [(1, True)]
    assert not order.add(part(0, 1))
    assert list(order.ready()) == []

"""Which tests run together."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from pytest_sandboxes.batch.partition import count_shards, partition

Names = list[list[str]]
Cut = Callable[..., Names]

pytest_plugins = ["pytester"]


@pytest.fixture
def cut(pytester: pytest.Pytester) -> Cut:
    """Partitions the tests of a module; the names of the tests of each shard."""

    def cut(text: str, shards: int, durations: Mapping[str, float] | None = None, **others: str) -> Names:
        pytester.makepyfile(test_it=f"import pytest, unittest\n{text}", **others)
        items, _ = pytester.inline_genitems("-p", "no:sandboxes", "--doctest-modules", "-p", "no:asyncio")
        found = partition(items, durations or {}, shards)
        assert [item for part in found for item in sorted(part, key=items.index)] == [
            item for part in found for item in part
        ]
        assert sorted(item.nodeid for part in found for item in part) == sorted(item.nodeid for item in items)
        return [[item.name for item in part] for part in found]

    return cut


MANY = '@pytest.mark.parametrize("n", range({count}))\ndef test_n(n): pass\n'


def test_one_parametrized_file_becomes_shards_of_even_length(cut: Cut) -> None:
    assert [len(part) for part in cut(MANY.format(count=2000), 50)] == [40] * 50


@pytest.mark.parametrize(("count", "shards", "lengths"), [(10, 4, {2, 3}), (3, 8, {1}), (7, 1, {7})])
def test_lengths_differ_by_one_and_none_is_empty(
    cut: Cut, count: int, shards: int, lengths: set[int]
) -> None:
    found = cut(MANY.format(count=count), shards)
    assert {len(part) for part in found} == lengths
    assert len(found) == min(shards, count)


def test_recorded_durations_count_and_unknown_ones_are_their_median(cut: Cut) -> None:
    durations = {"test_it.py::test_n[0]": 8.0, "test_it.py::test_n[1]": 2.0, "test_it.py::test_n[2]": 2.0}
    found = cut(MANY.format(count=5), 2, durations)  # 8 + 2 + 2 + 2 + 2
    assert found == [["test_n[0]"], ["test_n[1]", "test_n[2]", "test_n[3]", "test_n[4]"]]
    assert cut(MANY.format(count=5), 2, durations) == found


@pytest.mark.parametrize(
    ("text", "together"),
    [
        (
            (
                '@pytest.fixture(scope="module")\ndef shared(): pass\n'
                "def test_a(shared): pass\ndef test_b(): pass\ndef test_c(): pass\ndef test_d(shared): pass\n"
            ),
            ["test_a", "test_d"],
        ),
        (
            (
                '@pytest.fixture(scope="class")\ndef shared(): pass\n'
                "class TestIt:\n  def test_a(self, shared): pass\n  def test_b(self): pass\n"
                "  def test_d(self, shared): pass\n"
            ),
            ["test_a", "test_d"],
        ),
        (
            (
                '@pytest.fixture(scope="class")\ndef inner(): pass\n@pytest.fixture(scope="module")\ndef outer(): pass\n'
                "class TestIt:\n  def test_a(self, inner): pass\n  def test_b(self, inner, outer): pass\n"
                "def test_c(): pass\ndef test_d(outer): pass\n"
            ),
            ["test_a", "test_b", "test_d"],
        ),
        (
            "def setup_module(): pass\ndef test_a(): pass\ndef test_b(): pass\n",
            ["test_a", "test_b"],
        ),
        (
            (
                "class TestIt(unittest.TestCase):\n  @classmethod\n  def setUpClass(cls): pass\n"
                "  def test_a(self): pass\n  def test_b(self): pass\n"
            ),
            ["test_a", "test_b"],
        ),
        (
            (
                '@pytest.fixture(scope="module", autouse=True)\ndef shared(): pass\n'
                'def test_a():\n  """\n  >>> 1\n  1\n  """\n'
            ),
            ["test_it.test_a", "test_a"],
        ),
    ],
    ids=["module", "class", "class in module", "setup_module", "setUpClass", "doctest"],
)
def test_what_shares_a_fixture_stays_together(cut: Cut, text: str, together: list[str]) -> None:
    found = cut(text, 8)
    assert [part for part in found if set(together) & set(part)] == [together]


def test_a_fixture_of_the_session_keeps_nothing_together(cut: Cut) -> None:
    text = '@pytest.fixture(scope="session", autouse=True)\ndef shared(): pass\n'
    assert len(cut(text + MANY.format(count=4), 4)) == 4


@pytest.mark.parametrize(
    ("images", "shards", "pulls"),
    [("ab", 4, 4), ("abc", 4, 6), ("abcd", 2, 4), ("abcdefgh", 4, 8), ("a", 3, 3)],
)
def test_few_shards_have_more_than_one_image_and_all_are_of_even_length(
    pytester: pytest.Pytester, images: str, shards: int, pulls: int
) -> None:
    pytester.makepyfile(test_it=f"import pytest\n{MANY.format(count=24)}")
    items, _ = pytester.inline_genitems("-p", "no:sandboxes")
    image = {item: images[number % len(images)] for number, item in enumerate(items)}
    found = partition(items, {}, shards, image.get)
    assert [len(part) for part in found] == [24 // shards] * shards
    assert sum(len({image[item] for item in part}) for part in found) == pulls
    assert all(part == sorted(part, key=items.index) for part in found)


def test_what_shares_a_fixture_stays_together_whatever_its_images(pytester: pytest.Pytester) -> None:
    shared = '@pytest.fixture(scope="module")\ndef shared(): pass\n'
    pytester.makepyfile(
        test_it=f'import pytest\n{shared}@pytest.mark.parametrize("n", range(6))\ndef test_n(shared, n): pass\n'
    )
    items, _ = pytester.inline_genitems("-p", "no:sandboxes")
    assert partition(items, {}, 3, lambda item: item.name) == [items]


def test_auto_is_a_shard_for_so_many_seconds_of_tests(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=f"import pytest\n{MANY.format(count=30)}")
    items, _ = pytester.inline_genitems("-p", "no:sandboxes")
    assert count_shards(items, {}, 8, 10.0) == 3
    assert count_shards(items, {}, 2, 10.0) == 2
    assert count_shards(items, {item.nodeid: 0.01 for item in items}, 8, 10.0) == 1
    assert count_shards(items, {item.nodeid: 100.0 for item in items}, 64, 10.0) == 30

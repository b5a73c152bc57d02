"""Tests that pytest-rerunfailures repeats, in every phase in which they may fail."""

from collections import Counter
from collections.abc import Iterator

import pytest

from pytest_sandboxes import Slot

attempts = Counter[str]()


def fails_once(name: str) -> None:
    attempts[name] += 1
    assert attempts[name] > 1, f"{name} fails once"


@pytest.fixture
def fails_in_setup() -> None:
    fails_once("setup")


@pytest.fixture
def fails_in_teardown() -> Iterator[None]:
    yield
    fails_once("teardown")


@pytest.mark.flaky(reruns=2)
def test_fails_once() -> None:
    fails_once("call")


@pytest.mark.flaky(reruns=2)
def test_fails_each_time() -> None:
    raise AssertionError("each time")


@pytest.mark.flaky(reruns=1)
def test_fails_once_in_setup(fails_in_setup: None) -> None:
    pass


@pytest.mark.flaky(reruns=1)
def test_fails_once_in_teardown(fails_in_teardown: None) -> None:
    pass


@pytest.mark.flaky(reruns=1)
def test_fails_once_in_a_sandbox(sandbox: Slot) -> None:
    assert sandbox.exec("true").returncode == 0
    fails_once("sandbox")


@pytest.mark.flaky(reruns=1)
@pytest.mark.sandbox(profile="broken")
def test_has_no_sandbox_either_time(sandbox: Slot) -> None:
    pass


if pytest.version_tuple >= (9,):

    @pytest.mark.flaky(reruns=1)
    def test_fails_once_in_subtests(subtests: pytest.Subtests) -> None:
        for number in range(3):
            with subtests.test(number=number):
                assert number != 1 or attempts["subtests"]
        attempts["subtests"] += 1

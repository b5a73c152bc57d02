"""What several threads want and one obtains."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_sandboxes.backends.once import Once
from pytest_sandboxes.errors import ConfigurationError, SandboxStartError
from tests.waiting import DEADLINE, wait_until


def fail() -> int:
    raise SandboxStartError("not now")


def test_one_obtains_for_all() -> None:
    once: Once[str, int] = Once()
    assert [once.get("a", lambda: 1, 1), once.get("a", lambda: 2, 1), once.get("b", lambda: 3, 1)] == [
        1,
        1,
        3,
    ]


def test_all_who_wait_learn_of_a_failure() -> None:
    once: Once[str, int] = Once()
    asked, go = threading.Event(), threading.Event()

    def obtain() -> int:
        asked.set()
        assert go.wait(DEADLINE)
        raise ConfigurationError("never")

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(once.get, "a", obtain, DEADLINE)
        assert asked.wait(DEADLINE)
        second = threads.submit(once.get, "a", fail, DEADLINE)
        wait_until(lambda: once._known["a"]._condition._waiters)  # type: ignore[attr-defined]
        go.set()
        assert [str(each.exception(DEADLINE)) for each in (first, second)] == ["never", "never"]


def test_what_fails_is_tried_again() -> None:
    once: Once[str, int] = Once()
    with pytest.raises(SandboxStartError, match="not now"):
        once.get("a", fail, 1)
    assert once.known("a") is None
    assert once.get("a", lambda: 4, 1) == 4
    assert once.known("a") == 4


def test_nobody_waits_longer_than_they_would() -> None:
    once: Once[str, int] = Once()
    asked, go = threading.Event(), threading.Event()

    def obtain() -> int:
        asked.set()
        assert go.wait(DEADLINE)
        return 5

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(once.get, "a", obtain, DEADLINE)
        assert asked.wait(DEADLINE)
        assert once.known("a") is None
        with pytest.raises(SandboxStartError, match=r"was not there after 0\.01 s"):
            once.get("a", fail, 0.01)
        go.set()
        assert first.result(DEADLINE) == 5


def test_a_timeout_of_who_obtains_is_not_ours() -> None:
    once: Once[str, int] = Once()

    def obtain() -> int:
        raise TimeoutError("theirs")

    with pytest.raises(TimeoutError, match="theirs"):
        once.get("a", obtain, 1)


def test_what_is_of_no_use_is_obtained_anew() -> None:
    once: Once[str, list[int]] = Once()
    old = once.get("a", list, 1)
    once.forget("a", [])  # equal, and another
    assert once.get("a", list, 1) is old
    once.forget("a", old)
    assert once.known("a") is None
    new = once.get("a", list, 1)
    once.forget("a", old)
    assert once.get("a", list, 1) is new

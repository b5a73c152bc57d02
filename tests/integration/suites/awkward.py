"""Tests whose reports are hard to carry elsewhere.

>>> 1 + 1
3
"""

import logging
import os
import sys
import unittest
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from pytest_sandboxes import Slot


@pytest.fixture
def broken_setup() -> None:
    print("about to break")
    raise RuntimeError("setup broke")


@pytest.fixture
def broken_teardown() -> Iterator[None]:
    yield
    print("about to break")
    raise RuntimeError("teardown broke")


@pytest.fixture(scope="module")
def shared() -> Iterator[list[int]]:
    print("module up")
    yield []
    print("module down")


@pytest.fixture(scope="class")
def shared_by_class() -> list[int]:
    return []


def test_passes() -> None:
    pass


def test_prints(shared: list[int]) -> None:
    print("out é ☃ \x1b[31mred")
    print("err", file=sys.stderr)
    logging.getLogger("own").warning("logged")


def test_prints_what_is_no_text() -> None:
    print("\udcff raw \x00 nul")
    raise AssertionError("with output")


def test_compares() -> None:
    assert {"k": list(range(30))} == {"k": [*range(29), 99]}, "message"


def test_names_words_of_pytest() -> None:
    pytest.fail("reprcrash reprtraceback", pytrace=False)


def test_setup_breaks(broken_setup: None) -> None:
    pass


def test_teardown_breaks(broken_teardown: None) -> None:
    pass


def test_breaks_everywhere(broken_teardown: None) -> None:
    print("both")
    raise AssertionError


def test_asks_for_nothing_there_is(nothing_there_is: None) -> None:
    pass


@pytest.mark.skip(reason="marked")
def test_skipped() -> None:
    pass


@pytest.mark.skipif(sys.platform != "nowhere", reason="condition")
def test_skipped_if() -> None:
    pass


def test_skips() -> None:
    print("skipping")
    pytest.skip("inside")


def test_imports_or_skips() -> None:
    pytest.importorskip("a_module_that_is_nowhere")


@pytest.mark.xfail(reason="known")
def test_fails_as_expected() -> None:
    raise AssertionError


@pytest.mark.xfail(reason="known")
def test_passes_unexpectedly() -> None:
    pass


@pytest.mark.xfail(strict=True, reason="must")
def test_passes_and_must_not() -> None:
    pass


@pytest.mark.xfail(raises=KeyError, reason="another")
def test_fails_otherwise() -> None:
    raise ValueError("not that")


def test_xfails() -> None:
    pytest.xfail("imperative")


@pytest.mark.parametrize(
    "text",
    ["a b", "é", "x::y", "[z]", "with/slash", "new\nline", "", "日本", "a@b", "\x1b[0m", "<&>", "\u202e"],
)
def test_many_names(text: str) -> None:
    assert text != "é"


class TestClass:
    def test_method(self) -> None:
        pass

    class TestNested:
        def test_deep(self, shared_by_class: list[int]) -> None:
            raise AssertionError

        def test_deep_too(self, shared_by_class: list[int]) -> None:
            shared_by_class.append(1)


def test_records(record_property: Callable[[str, object], None]) -> None:
    record_property("path", Path("/x"))
    record_property("n", 3)
    record_property("huge", 1 << 80)
    record_property("decimal", Decimal("1.5"))
    record_property("tuple", (1, 2))
    record_property("true", True)
    record_property("nan", float("nan"))
    record_property("none", None)


class TestUnit(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        print("class up")

    def test_sub(self) -> None:
        for number in range(3):
            with self.subTest(number=number):
                self.assertNotEqual(number, 1)

    def test_fails(self) -> None:
        self.assertEqual([1], [2])

    @unittest.skip("as unittest skips")
    def test_skipped(self) -> None:
        pass

    @unittest.expectedFailure
    def test_expected(self) -> None:
        self.fail("expected")


def test_chain() -> None:
    try:
        raise KeyError("first")
    except KeyError as error:
        raise ValueError("then") from error


def test_group() -> None:
    raise ExceptionGroup("several", [ValueError(1), TypeError(2)])


class Careful(UserWarning):
    pass


def test_warns() -> None:
    warnings.warn("careful", Careful, stacklevel=1)


def test_exits() -> None:
    raise SystemExit(3)


def test_is_far_away() -> None:
    pytest.fail(f"in {os.getcwd()}")


def test_returns(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")


def test_sandbox(sandbox: Slot) -> None:
    assert sandbox.exec("echo", "hello").stdout == "hello\n"


def test_sandbox_fails(sandbox: Slot) -> None:
    result = sandbox.exec("sh", "-c", "printf '\\033[31m'; echo '::add-mask::x'; exit 3")
    assert result.stdout == "", result.stdout


@pytest.mark.sandbox(profile="broken")
def test_no_sandbox_to_be_had(sandbox: Slot) -> None:
    pass


def test_last(shared: list[int]) -> None:
    pass

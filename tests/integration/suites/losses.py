"""Every way in which a test can meet the loss of its sandbox, and what it may make of that.

Without a loss, each passes, or fails as expected. `fault` loses the sandbox when the run's options say so.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from pytest_sandboxes import Slot
from tests.integration.faults import Fault

Factory = Callable[..., AbstractContextManager[Slot]]


def test_call(sandbox: Slot, fault: Fault) -> None:
    fault(sandbox)
    sandbox.list_files()


def test_unnoticed(sandbox: Slot, fault: Fault) -> None:
    fault(sandbox)


def test_swallowed(sandbox: Slot, fault: Fault) -> None:
    try:
        fault(sandbox)
        sandbox.list_files()
    except Exception:
        pass


def test_raises(sandbox: Slot, fault: Fault) -> None:
    with pytest.raises(Exception):
        fault(sandbox)
        sandbox.list_files()
        raise ValueError("the test's own")


def test_group(sandbox: Slot, fault: Fault) -> None:
    errors = []
    try:
        fault(sandbox)
        sandbox.list_files()
    except Exception as error:
        errors.append(error)
    if errors:
        raise ExceptionGroup("all of them", errors)


def test_assertion(sandbox: Slot, fault: Fault) -> None:
    try:
        fault(sandbox)
        answer = sandbox.sh("echo 42").stdout
    except Exception:
        answer = ""
    assert answer == "42\n"


def test_skip(sandbox: Slot, fault: Fault) -> None:
    try:
        fault(sandbox)
        sandbox.list_files()
    except Exception:
        pytest.skip("no sandbox, no test")


@pytest.mark.xfail
def test_xfail(sandbox: Slot, fault: Fault) -> None:
    fault(sandbox)
    sandbox.list_files()
    raise ValueError("as expected")


@pytest.mark.xfail(strict=True)
def test_xfail_strict(sandbox: Slot, fault: Fault) -> None:
    fault(sandbox)
    sandbox.list_files()
    raise ValueError("as expected")


def test_imperative_xfail(sandbox: Slot, fault: Fault) -> None:
    fault(sandbox)
    pytest.xfail("as expected")


@pytest.fixture
def prepared(sandbox: Slot, fault: Fault) -> Slot:
    fault(sandbox)
    sandbox.write_text("prepared", "yes")
    return sandbox


def test_setup(prepared: Slot) -> None:
    assert prepared.read_text("prepared") == "yes"


@pytest.fixture
def collected(sandbox: Slot, fault: Fault) -> Iterator[Slot]:
    yield sandbox
    fault(sandbox)
    sandbox.list_files()


def test_teardown(collected: Slot) -> None:
    pass


def test_teardown_of_a_failure(collected: Slot, attempt: int) -> None:
    assert attempt > 1


@pytest.mark.sandbox(slots=2)
def test_one_of_two(sandbox: tuple[Slot, Slot], fault: Fault) -> None:
    fault(sandbox[0])
    sandbox[1].list_files()


def test_factory(sandbox_factory: Factory, fault: Fault) -> None:
    with sandbox_factory() as slot:
        fault(slot)
        slot.list_files()


@pytest.fixture(scope="class")
def shared(sandbox_factory: Factory) -> Iterator[Slot]:
    with sandbox_factory() as slot:
        yield slot


class TestOnlyOneOfItsClass:
    def test_alone_in_wider_scope(self, shared: Slot, fault: Fault) -> None:
        fault(shared)
        shared.list_files()


def test_process(sandbox: Slot, fault: Fault) -> None:
    process = sandbox.popen("cat")
    fault(sandbox)
    process.close_stdin()
    assert process.wait() == 0


@pytest.mark.asyncio
async def test_async(sandbox: Slot, fault: Fault) -> None:
    fault(sandbox)
    assert (await sandbox.aio.sh("echo 42")).stdout == "42\n"


class TestUnittest(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def take(self, sandbox: Slot, fault: Fault) -> None:
        self.sandbox, self.fault = sandbox, fault

    def test_unittest(self) -> None:
        self.fault(self.sandbox)
        self.sandbox.list_files()

    def test_unittest_with_more_errors_than_phases(self) -> None:
        for _ in range(3):
            self.addCleanup(self.sandbox.list_files)
        self.fault(self.sandbox)
        self.sandbox.list_files()


@pytest.mark.usefixtures("prepared", "collected")
class TestUsefixtures(unittest.TestCase):
    def test_usefixtures(self) -> None:
        pass


def test_untouched(sandbox: Slot) -> None:
    pass

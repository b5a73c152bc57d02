"""Losses within subtests; see `losses`."""

from __future__ import annotations

import unittest

import pytest

from pytest_sandboxes import Slot
from tests.integration.faults import Fault


def test_subtests(sandbox: Slot, subtests: pytest.Subtests, fault: Fault) -> None:
    for number in range(3):
        with subtests.test(number=number):
            if number == 1:
                fault(sandbox)
            sandbox.list_files()


class TestUnittest(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def take(self, sandbox: Slot, fault: Fault) -> None:
        self.sandbox, self.fault = sandbox, fault

    def test_unittest_subtests(self) -> None:
        for number in range(3):
            with self.subTest(number=number):
                if number == 1:
                    self.fault(self.sandbox)
                self.sandbox.list_files()

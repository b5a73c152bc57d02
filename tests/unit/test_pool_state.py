"""The pool's decisions, all of them, in any order."""

from __future__ import annotations

from hypothesis import settings

from tests.unit.stock_machine import StockMachine

TestStock = StockMachine.TestCase
TestStock.settings = settings(max_examples=200, stateful_step_count=40)

"""Counting processes from outside their sandbox, through /proc and without a word from the code under test."""

from __future__ import annotations

import uuid

from tests.conformance.helpers import eventually
from tests.processes import carrying


class Leftovers:
    """Sees every process, in any PID namespace, that carries a mark of this test's own.

    The mark travels in the environment, which each child inherits, or in a command line.
    """

    def __init__(self) -> None:
        self.mark = f"marked-{uuid.uuid4().hex}"
        self.env = {"CONFORMANCE_MARK": self.mark}

    def count(self) -> int:
        """How many marked processes are alive now."""
        return len(carrying(self.mark, "cmdline", "environ"))

    def appear(self, number: int = 1) -> None:
        """Wait until there are at least `number`: the proof that the counter sees."""
        eventually(lambda: self.count() >= number, f"{number} marked processes")

    def vanish(self) -> None:
        """Wait until there are none."""
        eventually(lambda: self.count() == 0, "the end of all marked processes")

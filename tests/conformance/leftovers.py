"""Counting processes from outside their sandbox, through /proc and without a word from the code under test."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

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
        """How many marked processes are alive now, and have not been killed."""
        return len(self._alive())

    def commands(self) -> list[str]:
        """Their command lines, in alphabetical order."""
        return sorted(filter(None, map(_command, self._alive())))

    def appear(self, number: int = 1) -> None:
        """Wait until there are at least `number`: the proof that the counter sees."""
        eventually(lambda: self.count() >= number, f"{number} marked processes")

    def settle(self, *programs: str) -> None:
        """Wait until they run these programs, and nothing else: what has just been forked may not run its own yet.

        From then on a count is exact.
        """
        eventually(
            lambda: sorted(os.path.basename(each.split()[0]) for each in self.commands()) == sorted(programs),
            f"nothing but {programs}",
        )

    def vanish(self) -> None:
        """Wait until there are none."""
        eventually(lambda: self.count() == 0, "the end of all marked processes")

    def _alive(self) -> set[int]:
        return carrying(self.mark, "cmdline", "environ")


def _command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()
    except OSError:  # gone meanwhile
        return ""

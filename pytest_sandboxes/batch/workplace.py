"""The directory of a run in batch mode: for as long as this process, or any shard of it on this machine, needs it."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from pytest_sandboxes.backends.ownership import new_scratch, sweep_scratch
from pytest_sandboxes.batch import bootstrap

_PREFIX = "pytest-sandboxes-batch-"


class Workplace:
    """A new directory in the system's temporary one, from `with` on.

    It is claimed by a lock of the kernel, which shards take as well. Whoever gives up the last claim removes it:
    it goes when this process is killed, too, and what nobody could remove goes with the next run.
    """

    def __enter__(self) -> Self:
        sweep_scratch(_PREFIX)
        self._claim = new_scratch(_PREFIX, is_shared=True)
        self.path = self._claim.path
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._claim.release()
        bootstrap.remove_unclaimed(self.path)

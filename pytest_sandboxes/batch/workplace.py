"""The directory of a run in batch mode: for as long as this process, or any shard of it on this machine, needs it."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from pytest_sandboxes.backends.ownership import remove_tree, sweep
from pytest_sandboxes.batch import bootstrap

_PREFIX = "pytest-sandboxes-batch-"


class Workplace:
    """A new directory in the system's temporary one, from `with` on.

    It is claimed by a lock of the kernel, which shards take as well. Whoever gives up the last claim removes it:
    it goes when this process is killed, too, and what nobody could remove goes with the next run.
    """

    def __enter__(self) -> Self:
        sweep(Path(tempfile.gettempdir()), _PREFIX, remove_tree)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._claim = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._claim, fcntl.LOCK_SH)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        bootstrap.leave(self.path, self._claim)

"""One at a time among processes of this machine, under a deadline."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def state_directory() -> Path:
    """Where images are cached, and what was started is on record; made if it is not there."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(base, "pytest-sandboxes-tests")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextmanager
def locked(path: Path, timeout: float) -> Iterator[None]:
    """Hold the lock `path`, which ends with its holder; TimeoutError if others hold it for `timeout` seconds."""
    deadline = time.monotonic() + timeout
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another process has held {path} for {timeout:.0f} s") from None
                time.sleep(0.1)
        yield

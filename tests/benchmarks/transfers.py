"""Files into a slot and out of it, next to a plain copy into and out of a file in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.benchmarks.local_slots import slots
from tests.benchmarks.measuring import Row, compared, taking_turns

_MEMORY = Path("/dev/shm")
_SIZES = (("1 KB", 1 << 10, 200), ("1 MB", 1 << 20, 40), ("100 MB", 100 << 20, 3))


def files(*, quick: bool) -> Iterator[Row]:
    """One file written and read again."""
    with slots(1) as (slot,), tempfile.TemporaryDirectory(dir=_folder()) as folder:
        plain = Path(folder) / "file"
        for name, size, samples in _SIZES:
            count = max(1, samples // 10) if quick else samples
            content = os.urandom(size)
            wrote, copied = taking_turns(
                count,
                partial(slot.write_bytes, "file", content),
                partial(plain.write_bytes, content),
                warm_up=1,
            )
            yield compared(f"write {name}", wrote, copied, samples=count, name="`write_bytes`")
            read, copied = taking_turns(count, partial(slot.read_bytes, "file"), plain.read_bytes, warm_up=1)
            assert slot.read_bytes("file") == content
            yield compared(f"read {name}", read, copied, samples=count, name="`read_bytes`")


def _folder() -> Path:
    """In memory, as the workspace is, where there is room for it."""
    largest = max(size for _, size, _ in _SIZES)
    if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > 2 * largest:
        return _MEMORY
    return Path(tempfile.gettempdir())

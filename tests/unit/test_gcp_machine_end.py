"""What the program that a task runs takes of a shard that has ended."""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import Any

import pytest

from pytest_sandboxes.batch.runners.gcp.machine import main
from tests.waiting import DEADLINE

_FLOODED_BY_A_CHILD = """
import json, os, sys
events = json.loads(sys.stdin.readline())["events"]
ready, begun = os.pipe()
if os.fork() == 0:
    os.close(1), os.close(2)
    while True:
        os.write(events, b"x" * 65_536)
        begun = begun and os.close(begun)
os.close(begun)
os.read(ready, 1)
"""


class Parts:
    """Takes its time with what a shard says: meanwhile there is more."""

    reported: tuple[int, ...] = ()

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self.size = 0

    def take(self, data: bytes) -> None:
        self.size += len(data)
        assert self.size < 100 << 20, "there is no end to it"
        assert select.select([self._pipe], [], [], DEADLINE)[0]

    def flush(self) -> None:
        pass


class Lease:
    """A controller that lives."""

    is_over = False

    def look(self) -> bool:
        return False


def test_who_outlives_a_shard_and_goes_on_telling_is_not_listened_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [os.pipe()]
    parts: Any = Parts(first[0][0])
    new_pipe = os.pipe
    monkeypatch.setattr("os.pipe", lambda: first.pop() if first else new_pipe())
    lease: Any = Lease()
    job: dict[str, Any] = {"spec": {}, "variables": {}}
    assert main._run({"bootstrap": _FLOODED_BY_A_CHILD}, job, tmp_path, parts, lease) == (0, b"")
    assert parts.size

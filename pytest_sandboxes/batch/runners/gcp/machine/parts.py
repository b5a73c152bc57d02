"""What shards say, as objects."""

from __future__ import annotations

import json
import re
import time

from pytest_sandboxes.batch.runners.gcp.machine.bucket import Bucket
from pytest_sandboxes.batch.runners.gcp.machine.removal import remove

_FLUSH = 1.1  # seconds between parts: the state is one object, which takes one write a second
_LARGEST = 9 << 20
_RECORD = re.compile(rb'\{"event": "record", "test": (\d{1,8}),')


class Parts:
    """What the shard says, in objects whose names sort by time; and which tests it has reported."""

    def __init__(self, bucket: Bucket, shard: int, attempt: int) -> None:
        self._bucket = bucket
        self._about = f"{shard}-{attempt}"
        self._state = f"state/{shard}.json"
        found = bucket.get(self._state) if attempt else None
        before = {"reported": [], "names": []} if found is None else json.loads(found[0])
        self.reported: list[int] = before["reported"]
        self._names: list[str] = before["names"]
        self._number = 0
        self._rest = bytearray()
        self._written = float("-inf")
        self._write(b"", "part")  # an attempt has begun
        self._save()

    def take(self, data: bytes) -> None:
        """Take what the shard has said."""
        self._rest += data

    def flush(self) -> None:
        """Write whole lines, now and then."""
        if time.monotonic() - self._written < _FLUSH and len(self._rest) < _LARGEST:
            return
        if self._write_lines():
            self._save()

    def end(self, status: int, output: bytes) -> None:
        """Write what is left, and how it has ended."""
        self._write_lines()
        said = {"status": status, "output": output.decode("utf-8", "replace")}
        self._write(json.dumps(said).encode(), "end")
        self._save()

    def remove(self) -> None:
        """Remove them."""
        remove(self._bucket, [*self._names, self._state])

    def _write_lines(self) -> bool:
        """Write all whole lines; whether there were any."""
        before = self._number
        end = self._rest.rfind(b"\n") + 1
        while end or len(self._rest) >= _LARGEST:
            size = min(end or len(self._rest), _LARGEST)
            self._write(bytes(self._rest[:size]), "part")
            del self._rest[:size]
            end = self._rest.rfind(b"\n") + 1
        return self._number > before

    def _write(self, content: bytes, kind: str) -> None:
        name = f"events/{time.time_ns() // 1_000_000:013d}-{self._about}-{self._number}.{kind}"
        self._names.append(name)
        self._number += 1
        self._bucket.put(name, content)
        self.reported += [int(found[1]) for line in content.splitlines() if (found := _RECORD.match(line))]

    def _save(self) -> None:
        """Write the state, behind what it tells of: where a task is cut off between them, tests run once more."""
        state = {"reported": self.reported, "names": self._names}
        self._bucket.put(self._state, json.dumps(state).encode(), new=False)
        self._written = time.monotonic()

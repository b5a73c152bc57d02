"""What has happened to an emulator, in order and with times: for tests that count, and for whoever looks from outside."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

Event = dict[str, Any]
"""An event has at least `event`, its name, and `time`, in seconds of Unix time."""


class EventLog:
    """All events, in memory, and in a file of JSON lines if one is given. Belongs to the emulator's loop."""

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1) if path else None
        self._events: list[Event] = []
        self._more = asyncio.Event()
        self.beginnings = 0
        """How often it has begun anew."""

    def record(self, event: str, **fields: Any) -> None:
        """Add one that happens now."""
        entry = {"time": time.time(), "event": event, **fields}
        self._events.append(entry)
        if self._file:
            self._file.write(json.dumps(entry) + "\n")
        self._more.set()

    def find(self, event: str | None = None, **fields: Any) -> list[Event]:
        """Those with this name and these values, the oldest first."""
        return [entry for entry in self._events if _fits(entry, event, fields)]

    def forget(self) -> None:
        """Begin anew; for when nobody waits."""
        self._events.clear()
        self.beginnings += 1

    async def wait(self, count: int, timeout: float, event: str, **fields: Any) -> list[Event]:
        """The same, once there are `count` of them; raises `TimeoutError` after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            found, seen = self.find(event, **fields), len(self._events)
            while len(found) < count:
                self._more.clear()
                await self._more.wait()
                found += [entry for entry in self._events[seen:] if _fits(entry, event, fields)]
                seen = len(self._events)
        return found

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


def _fits(entry: Event, event: str | None, fields: dict[str, Any]) -> bool:
    return event in (None, entry["event"]) and all(entry.get(name) == value for name, value in fields.items())

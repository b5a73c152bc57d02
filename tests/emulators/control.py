"""How tests steer an emulator and read its log: over a local socket, from its own process as from any other."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

from tests.emulators.events import Event, EventLog

_PATIENCE = 60.0
"""Seconds for an emulator to do what it is asked for, beyond what it is told to wait for."""
_LARGEST = 64 << 20


class ControlError(Exception):
    """An emulator has not done what it was asked for; says why."""


class ControlClient:
    """What asks. Each request is a connection of its own, so any thread may ask."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, request: str, **arguments: Any) -> Any:
        """Have the emulator do something, and wait until it has. Raises `ControlError`."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(arguments.get("timeout", 0) + _PATIENCE)
            connection.connect(str(self.path))
            connection.sendall(json.dumps({"request": request, "arguments": arguments}).encode() + b"\n")
            with connection.makefile("rb") as file:
                reply = json.loads(file.readline())
        if "error" in reply:
            raise ControlError(reply["error"])
        return reply["result"]

    def events(self, event: str | None = None, **fields: Any) -> list[Event]:
        """All that has happened, of this name and with these values."""
        found: list[Event] = self.ask("events", event=event, fields=fields)
        return found

    def wait(self, event: str, *, count: int = 1, timeout: float = 30, **fields: Any) -> list[Event]:
        """The same, as soon as there are `count` of them; raises `ControlError` after `timeout` seconds."""
        found: list[Event] = self.ask("wait", event=event, count=count, timeout=timeout, fields=fields)
        return found


class LogRequests:
    """The requests about the log, and where those of each emulator begin."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def events(self, event: str | None, fields: dict[str, Any]) -> list[Event]:
        return self._log.find(event, **fields)

    async def wait(self, event: str, count: int, timeout: float, fields: dict[str, Any]) -> list[Event]:
        return await self._log.wait(count, timeout, event, **fields)


class ControlServer:
    """Where the requests of controls come in. Each is the name of a coroutine function of `requests`."""

    def __init__(self, requests: LogRequests) -> None:
        self._requests = requests
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self, path: Path) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._serve, path, limit=_LARGEST)

    async def close(self) -> None:
        """Give up what is under way, and do not listen any more."""
        if self._server is not None:
            self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            asked = json.loads(await reader.readline())
            try:
                reply = {"result": await getattr(self._requests, asked["request"])(**asked["arguments"])}
            except TimeoutError:
                reply = {"error": f"{asked['arguments']} has not come to pass in time"}
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the client that has to know
                reply = {"error": f"{type(error).__name__}: {error}"}
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        finally:
            self._serving.discard(task)
            writer.close()

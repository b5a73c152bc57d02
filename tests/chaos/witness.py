"""What became of the containers of a run, told by their Engine while it happened and not by the program under test."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Self

import docker

_PATIENCE = 10.0  # seconds for what has happened to be told


class Witness:
    """Listens to an Engine from `with` on, and knows every container that process `controller` has made.

    An Engine keeps few events, so that they have to be listened to as they come.
    """

    def __init__(self) -> None:
        self._engine = docker.from_env()
        self._events: Any = None
        self._told: list[tuple[str, str, dict[str, str]]] = []
        self._thread = threading.Thread(target=self._listen, name="witness")

    def __enter__(self) -> Self:
        self._events = self._engine.api.events(filters={"type": "container"}, decode=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._events.close()
        self._thread.join(_PATIENCE)
        self._engine.close()

    def _listen(self) -> None:
        for event in self._events:
            actor = event["Actor"]
            self._told.append((event["Action"], actor["ID"], actor["Attributes"]))

    def _of(self, controller: int) -> list[tuple[str, str, dict[str, str]]]:
        return [
            told
            for told in tuple(self._told)
            if told[2].get("pytest-sandboxes.process", "").split()[2:3] == [str(controller)]
        ]

    def killed(self, controller: int) -> int:
        """How many containers SIGKILL has ended; by the end of a run, all that did not end by themselves."""
        return sum(
            action == "die" and attributes.get("exitCode") == "137"
            for action, _, attributes in self._of(controller)
        )

    def most_at_once(self, controller: int) -> int:
        """How many containers there were at most at any moment, from when they were made until they were removed."""
        now = most = 0
        for action, _, _ in self._of(controller):
            now += {"create": 1, "destroy": -1}.get(action, 0)
            most = max(most, now)
        return most

    def left(self, controller: int) -> set[str]:
        """Containers that are still there after a while."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            made = {container for action, container, _ in self._of(controller) if action == "create"}
            left = made & {each["Id"] for each in self._engine.api.containers(all=True)}
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.05)

"""Signals of a run that has something elsewhere: SIGTERM ends it as Ctrl-C does, and its end is not interrupted."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from pytest_sandboxes.batch.runners.base import Terminated


class Deferred:
    """From its making on SIGTERM raises `Terminated` in the main thread; within `with`, it and Ctrl-C are ignored."""

    def __init__(self) -> None:
        self._is_main = threading.current_thread() is threading.main_thread()
        self._before: dict[signal.Signals, Any] = {}
        if self._is_main:
            self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, _end)

    def __enter__(self) -> Self:
        if self._is_main:
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _end(number: int, _: FrameType | None) -> None:
    raise Terminated(number)

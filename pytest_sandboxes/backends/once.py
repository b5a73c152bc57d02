"""What several threads want and one obtains."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from pytest_sandboxes.errors import SandboxesError, SandboxStartError

_Key = TypeVar("_Key", bound=Hashable)
_Thing = TypeVar("_Thing")


class Once(Generic[_Key, _Thing]):
    """Things by their keys, each obtained by whoever asks first, for all who ask. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[_Key, Future[_Thing]] = {}

    @property
    def has_any(self) -> bool:
        """Something has been asked for."""
        with self._lock:
            return bool(self._known)

    def get(self, key: _Key, obtain: Callable[[], _Thing], patience: float) -> _Thing:
        """The thing of `key`; others wait `patience` seconds for who obtains it. What fails is tried by the next.

        Raises what `obtain` raises, which is best one of our errors, and `SandboxStartError` for a wait in vain.
        """
        with self._lock:
            found = self._known.get(key)
            mine = found is None
            if found is None:
                found = self._known[key] = Future()
        if mine:
            try:
                found.set_result(obtain())
            except BaseException as error:  # noqa: BLE001 - whatever it is, all who wait have to learn of it
                self._drop(key, found)
                found.set_exception(error)
        try:
            return found.result(patience)
        except SandboxesError as error:
            raise error.with_traceback(None) from None  # others may raise it as well
        except TimeoutError:
            if found.done():
                raise
            raise SandboxStartError(
                f"what another sandbox was obtaining for all was not there after {patience:g} s"
            ) from None

    def known(self, key: _Key) -> _Thing | None:
        """The thing of `key` if it has been obtained; waits for nobody."""
        with self._lock:
            found = self._known.get(key)
        return found.result() if found is not None and found.done() and not found.exception() else None

    def forget(self, key: _Key, thing: _Thing) -> None:
        """Have the next who asks obtain another, unless that has been done: `thing` is of no use any more."""
        with self._lock:
            found = self._known.get(key)
        if found is not None and found.done() and not found.exception() and found.result() is thing:
            self._drop(key, found)

    def _drop(self, key: _Key, found: Future[_Thing]) -> None:
        with self._lock:
            if self._known.get(key) is found:
                del self._known[key]

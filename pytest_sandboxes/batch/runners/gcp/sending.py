"""Calls that make something, in a thread of their own: who is interrupted waits for their end, and then removes it all.

A call that is broken off may still be carried out, after everything has been removed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Sending:
    """Runs a function from `begin` on, until it has returned, raised, or noticed that it is cancelled."""

    def __init__(self, function: Callable[[threading.Event], None]) -> None:
        """`function` gets an event that tells it to give up."""
        self._function = function
        self._cancelled = threading.Event()
        # a join that is interrupted takes the thread for ended, before Python 3.13
        self._done = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="sandboxes-gcp-sending", daemon=True)

    def begin(self) -> None:
        """Run it. Apart from the making, so that who is interrupted in between has what there is to cancel."""
        self._thread.start()

    def _run(self) -> None:
        try:
            self._function(self._cancelled)
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            self._error = error
        finally:
            self._done.set()

    def wait(self, timeout: float) -> bool:
        """Wait, at most so many seconds; whether it is done. Raises what the function has raised."""
        if not self._done.wait(timeout):
            return False
        if self._error is not None:
            raise self._error
        return True

    def cancel(self, timeout: float) -> bool:
        """Have it give up; whether it has, within so many seconds."""
        self._cancelled.set()
        return self._thread.ident is None or self._done.wait(timeout)

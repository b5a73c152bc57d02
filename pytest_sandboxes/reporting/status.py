"""What tests wait for, or how far their shards are: a few words behind the dots on a live terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable

import pytest

from pytest_sandboxes.display import one_line
from pytest_sandboxes.pool.statistics import Statistics

_INTERVAL = 0.5  # seconds between looks at the pool
_PATIENCE = 1.0  # seconds of waiting that need no words
_NARROWEST = 30  # columns; less says nothing
_ERASE = "\x1b[K"  # what is right of the cursor


class Status:
    """A plugin. Its words stand right of what pytest has written, with the cursor left where pytest expects it.

    So it may write from a thread of its own, which ends with the session, between any two words of pytest's.
    """

    def __init__(self, config: pytest.Config, words: Callable[[], str]) -> None:
        """`words` is asked every half a second, by a thread, for what to show; empty is nothing."""
        self._config = config
        self._words = words
        self._lock = threading.Lock()  # of what is shown
        self._is_shown = False
        self._quiet = False
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._terminal = -1

    def begin(self) -> None:
        """Show words from now on, where there is a terminal to show them."""
        if self._thread is None and self._can_be_changed():
            # of our own, because while a test runs, what is written to pytest's is captured as the test's
            self._terminal = os.dup(sys.stdout.fileno())
            self._thread = threading.Thread(target=self._watch, name="sandboxes-status")
            self._thread.start()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self) -> None:
        """Begin with the first test at the latest; make room for what pytest writes."""
        self.begin()
        self.clear()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Look no more."""
        self.close()

    def close(self) -> None:
        """End the thread. May be called twice."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self.clear()
            os.close(self._terminal)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self) -> None:
        """Make room for what pytest writes."""
        self.clear()

    def pytest_enter_pdb(self) -> None:
        """Leave the terminal to the debugger."""
        self._quiet = True
        self.clear()

    def pytest_leave_pdb(self) -> None:
        """Go on."""
        self._quiet = False

    def _can_be_changed(self) -> bool:
        """Whether there is a terminal, and nobody but pytest writes to its lines, as tests do with -s."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or not reporter.isatty or os.environ.get("TERM", "dumb") == "dumb":
            return False
        return bool(self._config.option.capture != "no")

    def _watch(self) -> None:
        while not self._done.wait(_INTERVAL):
            words = "" if self._quiet else self._words()
            if words:
                self._show(words)
            else:
                self.clear()

    def _show(self, text: str) -> None:
        writer = self._config.get_terminal_writer()
        room = writer.fullwidth - writer.width_of_current_line - 2
        if room < _NARROWEST:
            return
        words = one_line(f"  {text}", room)
        with self._lock:
            self._is_shown = True
            self._write(f"{_ERASE}{words}" + "\b" * len(words))

    def clear(self) -> None:
        """Make room for what is about to be written; the words come again."""
        with self._lock:
            if self._is_shown:
                self._is_shown = False
                self._write(_ERASE)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone
            os.write(self._terminal, text.encode())


class Waiting:
    """What leases wait for in a pool, in words, once it has been more than a moment."""

    def __init__(self, statistics: Callable[[], Statistics]) -> None:
        self._statistics = statistics
        self._since: float | None = None

    def __call__(self) -> str:
        """The words; empty while nothing waits."""
        now = self._statistics()
        if not now.waiting:
            self._since = None
            return ""
        self._since = self._since or time.monotonic()
        waited = time.monotonic() - self._since
        return describe(now, waited) if waited >= _PATIENCE else ""


def describe(now: Statistics, waited: float) -> str:
    """What is waited for, for `waited` seconds, and what the pool does meanwhile."""
    leases = "1 lease waits" if now.waiting == 1 else f"{now.waiting} leases wait"
    others = [("starting", now.starting), ("being reset", now.resetting), ("leased", now.leased)]
    busy = ", ".join(f"{count} {what}" for what, count in others if count)
    return f"sandboxes: {leases}, {waited:.0f} s; {busy or 'none there'}"

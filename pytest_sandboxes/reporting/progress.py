"""What takes long before the first test, on pytest's terminal: one line that changes, or two in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pytest_sandboxes.display import one_line

_PAUSE = 0.1  # seconds between two states shown
_NARROWEST = 20


class TerminalProgress:
    """A `Progress` of a run of pytest. It shows nothing where there is no terminal reporter, as in workers of xdist."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @contextmanager
    def __call__(self, what: str) -> Iterator[Callable[[str], None]]:
        """See `Progress`."""
        reporter: pytest.TerminalReporter | None = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None:
            yield lambda _: None
            return
        line = _Line(reporter, f"sandboxes: {what}")
        line.begin()
        try:
            yield line.update
        except BaseException:
            line.leave()
            raise
        line.end()


class _Line:
    def __init__(self, reporter: pytest.TerminalReporter, what: str) -> None:
        self._reporter = reporter
        self._live = bool(reporter.isatty)
        self._what = what
        self._state = ""
        self._begun = self._shown = time.monotonic()

    def begin(self) -> None:
        if self._live:
            self._rewrite("")
        else:
            if self._reporter.config.option.verbose >= 1:
                self._reporter.write_line("")  # pytest is in the middle of a line: "collecting ..."
            self._reporter.write_line(self._what)

    def update(self, state: str) -> None:
        self._state = state
        now = time.monotonic()
        if self._live and now - self._shown >= _PAUSE:
            self._shown = now
            self._rewrite(self._how_far())

    def end(self) -> None:
        if self._live:
            self._rewrite(self._how_far())
            self._reporter.write("\n")
        else:
            self._reporter.write_line(self._what + self._how_far())

    def leave(self) -> None:
        """Keep what has been shown: what comes next says why there is no more."""
        if self._live:
            self._reporter.write("\n")

    def _how_far(self) -> str:
        seconds = f"{time.monotonic() - self._begun:.0f} s"
        return f": {self._state}, {seconds}" if self._state else f": {seconds}"

    def _rewrite(self, how_far: str) -> None:
        width = self._reporter._screen_width - 1  # a full line would begin the next one
        room = max(width - len(how_far), _NARROWEST)
        self._reporter.rewrite(one_line(one_line(self._what, room) + how_far, width), erase=True)
        self._reporter.flush()

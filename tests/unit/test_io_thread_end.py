"""What the I/O thread still does when it is closed."""

from __future__ import annotations

import threading

from pytest_sandboxes.io_thread import IOThread
from tests.waiting import DEADLINE, wait_until


def test_what_its_last_round_submits_is_done() -> None:
    """It closes a stream there of which it learns only then that it has ended."""
    io = IOThread()
    busy, go, done = threading.Event(), threading.Event(), threading.Event()

    def keep_busy() -> None:
        busy.set()
        assert go.wait(DEADLINE)

    io.submit(keep_busy)
    assert busy.wait(DEADLINE)
    io.submit(lambda: io.submit(done.set))  # in one round with the end, which comes behind it
    closing = threading.Thread(target=io.close)
    closing.start()
    wait_until(lambda: "stop" in repr(io._loop._ready))  # type: ignore[union-attr]
    go.set()
    closing.join(DEADLINE)
    assert done.is_set()

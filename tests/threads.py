"""Threads of this process, for tests that look for what is left."""

from __future__ import annotations

import threading


def live_threads() -> set[threading.Thread]:
    """Those that `threading` started.

    It lists others, such as execnet's, from the moment on that one of them asks who it is, which is at any time.
    """
    return {each for each in threading.enumerate() if not isinstance(each, threading._DummyThread)}

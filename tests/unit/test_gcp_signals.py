"""SIGTERM ends the run, and is nobody's error, whatever the main thread was about when it came."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_sandboxes.batch.replay import Replay
from pytest_sandboxes.batch.runners.base import Terminated
from pytest_sandboxes.batch.runners.gcp.service import Service
from pytest_sandboxes.batch.runners.gcp.signals import Deferred


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """That of a run, for as long as the test takes."""
    before = signal.getsignal(signal.SIGTERM)
    deferred = Deferred()
    try:
        yield
    finally:
        with deferred:
            pass
        assert signal.getsignal(signal.SIGTERM) is before


def terminate(**_: object) -> None:
    signal.raise_signal(signal.SIGTERM)


def test_in_a_call_of_a_client() -> None:
    service: Any = SimpleNamespace(cancelled=threading.Event())
    with pytest.raises(Terminated, match="SIGTERM") as found:
        Service.call(service, "storage", "it cannot list", terminate)
    assert found.value.code == 143


def test_in_a_report_that_is_read() -> None:
    config = SimpleNamespace(hook=SimpleNamespace(pytest_report_from_serializable=terminate))
    item = SimpleNamespace(nodeid="test_it.py::test_it", location=("test_it.py", 0, "test_it"), keywords=())
    replay = Replay(cast("Any", SimpleNamespace(config=config)), cast("Any", None))
    with pytest.raises(Terminated):
        replay.error(cast("Any", item), "it was lost")

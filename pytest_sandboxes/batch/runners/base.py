"""What batch mode needs of the place where shards run."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Order:
    """What one shard is to do. All of it is plain data that can be written as JSON."""

    name: str
    """In words for messages, such as `shard 2`; no two of a run are equal."""
    arguments: Sequence[str]
    """pytest's, with paths as they are on this machine: those of the project are replaced there."""
    environment: Mapping[str, str]
    """Variables that the shard gets, beside what its runner lets through; paths likewise."""
    spec: Mapping[str, Any]
    """For `shard`, which runs there."""


@dataclass(frozen=True)
class Begun:
    """A shard has got a place to run, perhaps another one: what it says now counts from a greeting on again.

    Tests that it has reported before are not told of a second time, or if they are, that is of no account.
    """

    name: str


@dataclass(frozen=True)
class Arrived:
    """Bytes of a shard's events, in order, cut anywhere. They are hostile."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Ended:
    """A shard has ended, and all that it has said has arrived."""

    name: str
    status: int | None
    """pytest's exit status there, 128 + N for signal N; None where nobody knows."""
    output: str
    """The end of what it has printed. It is hostile."""
    is_pytests: bool = True
    """Whether the status is pytest's, and not that of what was to run it."""


Happened = Begun | Arrived | Ended


class Terminated(KeyboardInterrupt):
    """A signal has ended the run, wherever it was: like Ctrl-C, it is no error of what was under way."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number
        """The exit status of pytest."""


class Runner(ABC):
    """Starts shards and brings what they say. Called by one thread only."""

    name: str
    seconds_worthwhile: float
    """Below so many seconds of tests, another shard costs more time than it saves."""

    queues = False
    """It takes any number of shards, and has those wait for which there is no room."""

    @property
    @abstractmethod
    def width(self) -> int:
        """How many shards run at once."""

    @abstractmethod
    def start(self, order: Order) -> None:
        """Start a shard. Raises OSError where none can be started."""

    @abstractmethod
    def wait(self, timeout: float) -> list[Happened]:
        """What has happened; waits for something to happen, at most so many seconds."""

    @abstractmethod
    def stop(self, name: str) -> None:
        """Have a shard end, which `wait` will tell of."""

    @abstractmethod
    def close(self) -> None:
        """End all shards and remove what they have left. May be called twice."""

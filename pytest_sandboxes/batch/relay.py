"""From the partition to the last report: starts shards, replays what they say, and sees to those that are lost."""

from __future__ import annotations

import itertools
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest

from pytest_sandboxes.batch.events import BrokenEvent, Finished, Record
from pytest_sandboxes.batch.ledger import IncompatibleError, Ledger
from pytest_sandboxes.batch.replay import Replay
from pytest_sandboxes.batch.runners.base import Arrived, Begun, Ended, Happened, Order, Runner
from pytest_sandboxes.display import one_line, tail
from pytest_sandboxes.wording import counted

_PATIENCE = 1.0  # seconds of one wait, so that deadlines are looked at
START_TIMEOUT = 600.0
"""Seconds until a shard that has begun has to have collected its tests."""


@dataclass
class _Shard:
    """One that has been started."""

    name: str
    items: Sequence[pytest.Item]
    ledger: Ledger
    begun: float | None = None
    """When it has got a place to run, on the monotonic clock."""
    broken: str | None = None
    """What it has said that none of ours says; nothing more of it is read."""
    has_failures: bool = False
    """Whether one of its tests has failed."""


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    shards_done: int = 0
    shards_running: int = 0
    shards_waiting: int = 0
    tests_done: int = 0
    tests: int = 0

    def __str__(self) -> str:
        shards = self.shards_done + self.shards_running + self.shards_waiting
        return (
            f"{self.shards_done:,} of {counted(shards, 'shard')} done, {self.shards_running:,} under way; "
            f"{self.tests_done:,} of {counted(self.tests, 'test')}"
        )


class Relay:
    """Runs tests in shards."""

    def __init__(
        self,
        runner: Runner,
        replay: Replay,
        order: Callable[[str, Sequence[pytest.Item]], Order],
        *,
        expected: Mapping[str, str],
        collected: Sequence[str],
        retries: int,
        one_by_one: bool = False,
        has_errors: bool = False,
    ) -> None:
        """`order` makes the order of a shard from its name and tests. `retries`: of a test whose shard was lost.

        `one_by_one`: shards run one test at a time. `has_errors`: the collection has failed in part, there as here.
        """
        self.progress = Progress()
        """As of the last time that something has happened; another thread may look at it."""
        self.losses: list[str] = []
        """What became of shards that were lost: a sentence without its end for each.

        Below it is what a shard has printed last, where no test is left whose report could have that.
        """
        self.has_failed = False
        """Whether a shard has failed after its last test, by itself: no test can say so."""
        self._runner = runner
        self._replay = replay
        self._order = order
        self._expected = expected
        self._collected = collected
        self._one_by_one = one_by_one
        self._has_errors = has_errors
        self._most_losses = 1 + retries
        self._blamed: Counter[str] = Counter()  # losses of shards while a test was under way, by node id
        self._numbers = itertools.count(1)
        self._waiting: deque[Sequence[pytest.Item]] = deque()
        self._running: dict[str, _Shard] = {}
        self._shards_done = self._tests_done = 0

    def run(self, parts: Sequence[Sequence[pytest.Item]]) -> None:
        """Run all parts. Raises what ends the session early; the shards have ended then."""
        self._waiting.extend(parts)
        try:
            while self._waiting or self._running:
                while self._waiting and (self._runner.queues or len(self._running) < self._runner.width):
                    self._start(self._waiting.popleft())
                self.progress = self._count()
                for happened in self._runner.wait(_PATIENCE):
                    self._take(happened)
                self._end_late()
        finally:
            self._close()

    def _count(self) -> Progress:
        return Progress(
            self._shards_done,
            len(self._running),
            len(self._waiting),
            self._tests_done,
            len(self._collected),
        )

    def _take(self, happened: Happened) -> None:
        shard = self._running[happened.name]
        if isinstance(happened, Begun):
            shard.begun = time.monotonic()
            shard.ledger.begin()
        elif isinstance(happened, Ended):
            del self._running[happened.name]
            self._shards_done += 1
            self._ended(shard, happened)
        else:
            self._arrived(shard, happened)

    def _close(self) -> None:
        try:
            self._runner.close()
        except KeyboardInterrupt:
            self._runner.close()  # all are told to end; this waits for them once more
            raise

    def _start(self, items: Sequence[pytest.Item]) -> None:
        name = f"shard {next(self._numbers)}"
        nodeids = [item.nodeid for item in items]
        ledger = Ledger(nodeids, self._expected, self._collected, one_by_one=self._one_by_one)
        self._running[name] = _Shard(name, items, ledger)
        try:
            self._runner.start(self._order(name, items))
        except OSError as error:
            shard = self._running.pop(name)
            self._lost(shard, f"could not be started: {one_line(str(error))}", "")

    def _arrived(self, shard: _Shard, arrived: Arrived) -> None:
        if shard.broken is not None:
            return
        try:
            for event in shard.ledger.feed(arrived.data):
                if isinstance(event, Record):
                    self._replay_test(shard, event)
                else:
                    self._replay.warning(None if event.test is None else shard.items[event.test], event)
        except BrokenEvent as error:
            shard.broken = f"has said what no shard may say: {error}"
            self._runner.stop(shard.name)
        except IncompatibleError as error:
            raise pytest.UsageError(
                f"batch mode: {shard.name} on runner {self._runner.name} differs from this process: {error}"
            ) from None

    def _replay_test(self, shard: _Shard, record: Record) -> None:
        try:
            self._replay.test(shard.items[record.test], record)
        except BrokenEvent:
            shard.ledger.take_back(record)
            raise
        shard.has_failures |= any(report.outcome == "failed" for report in record.reports)
        self._tests_done += 1

    def _end_late(self) -> None:
        now = time.monotonic()
        for shard in self._running.values():
            is_late = shard.begun is not None and now - shard.begun > START_TIMEOUT
            if is_late and not shard.ledger.has_greeted and shard.broken is None:
                shard.broken = f"has collected no tests within {START_TIMEOUT:.0f} s"
                self._runner.stop(shard.name)

    def _ended(self, shard: _Shard, ended: Ended) -> None:
        ledger = shard.ledger
        never_began = shard.broken is None and not ledger.has_greeted and ledger.unreported
        if never_began and ended.status == pytest.ExitCode.USAGE_ERROR:
            raise pytest.UsageError(
                f"batch mode: {shard.name} has refused to start: {_complaint(ended.output)}"
            )
        is_done = shard.broken is None and ledger.is_done
        if is_done:
            self._stop(ledger.finished)
        has_failed = self._has_failed(shard, ended)
        is_killed = ended.status is not None and _signal(ended.status) is not None
        if is_done and not has_failed and not is_killed:
            return
        self.has_failed |= has_failed
        when = "before its last test" if ledger.unreported else "in disorder, after its last test,"
        reason = shard.broken or f"has ended {when} with {status_words(ended.status)}"
        self._lost(shard, reason, ended.output)

    def _has_failed(self, shard: _Shard, ended: Ended) -> bool:
        """Whether it has failed after its last test, by itself."""
        if shard.ledger.unreported or shard.ledger.had_nothing_left:
            return False
        if shard.broken is not None:
            return True
        if ended.status is None or not ended.is_pytests or _signal(ended.status) is not None:
            return False
        if ended.status == pytest.ExitCode.TESTS_FAILED:
            return not (shard.has_failures or self._has_errors)
        return ended.status not in (pytest.ExitCode.OK, pytest.ExitCode.INTERRUPTED)

    def _stop(self, finished: Finished | None) -> None:
        if finished is not None and finished.stop is not None:
            # no code of a shard's choice makes a success of tests that have not been run
            code = (
                finished.returncode if 1 <= finished.returncode <= 255 else int(pytest.ExitCode.INTERRUPTED)
            )
            pytest.exit(one_line(finished.stop, 1000), returncode=code)

    def _lost(self, shard: _Shard, reason: str, output: str) -> None:
        """Run what a lost shard has not reported elsewhere: what was under way apart from all else, and not for ever.

        Each loss either leaves fewer tests, or counts against one of those that are left. So there is an end.
        """
        ledger = shard.ledger
        shown = "" if ledger.unreported or not output.strip() else f"\n{tail(output.strip())}"
        self.losses.append(f"{shard.name} {reason}{shown}")
        unreported = [shard.items[each] for each in ledger.unreported]
        suspects = [shard.items[each] for each in ledger.under_way]
        if suspects:
            self._wait([item for item in unreported if item not in suspects])
        elif len(unreported) == len(shard.items):
            suspects = unreported  # it did not come to any
        else:
            self._wait(unreported)
        again = []
        for item in suspects:
            self._blamed[item.nodeid] += 1
            if self._blamed[item.nodeid] < self._most_losses:
                again.append(item)
            else:
                self._replay.error(item, self._explain(shard, item, reason, output))
                self._tests_done += 1
        if ledger.under_way:
            self._waiting.extend([item] for item in again)
        else:
            self._wait(again)

    def _wait(self, items: Sequence[pytest.Item]) -> None:
        if items:
            self._waiting.append(items)

    def _explain(self, shard: _Shard, item: pytest.Item, reason: str, output: str) -> str:
        times = self._blamed[item.nodeid]
        lines = [
            "infrastructure failed, which says nothing about the code under evaluation",
            f"  {shard.name} on runner {self._runner.name} {reason}, and {item.nodeid} was not reported"
            + (f"; shards with it were lost {times} times" if times > 1 else ""),
        ]
        if output.strip():
            lines += ["", "The last that it has printed:", tail(output.strip())]
        return "\n".join(lines)


def status_words(status: int | None) -> str:
    """An exit status for people."""
    if status is None:
        return "no exit status"
    killer = _signal(status)
    return f"exit status {status}" if killer is None else f"exit status {status} ({killer.name})"


def _signal(status: int) -> signal.Signals | None:
    """What has killed a process with this exit status."""
    try:
        return signal.Signals(status - 128) if status > 128 else None
    except ValueError:
        return None


def _complaint(output: str) -> str:
    """What pytest has printed as the reason of a usage error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    found = errors[-1:] or [line for line in lines if "error:" in line.lower() or line.startswith("E ")][-1:]
    return one_line((found or lines[-1:] or ["it has printed nothing"])[0], 2000)

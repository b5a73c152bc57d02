"""How long a shard goes on without its controller, by what the bucket says of the lease."""

from __future__ import annotations

import json

import pytest

from pytest_sandboxes.batch.runners.gcp.machine.bucket import Bucket, GoneError
from pytest_sandboxes.batch.runners.gcp.machine.lease import Lease

THEN, NOW = "Sat, 21 Nov 2026 10:00:00 GMT", "Sat, 21 Nov 2026 10:02:01 GMT"
Found = tuple[bytes, dict[str, str]] | None


class Answers(Bucket):
    """A bucket with one answer at a time."""

    def __init__(self, answer: Found | GoneError) -> None:
        self.answer = answer
        self.is_renewed = False
        """It has another generation by the time that it is removed."""
        self.is_removed = False

    def delete(self, name: str, generation: str = "") -> bool:
        assert (name, generation) == ("lease.json", "1")
        self.is_removed = not self.is_renewed
        return self.is_removed

    def get(self, name: str) -> Found:
        assert name == "lease.json"
        if isinstance(self.answer, GoneError):
            raise self.answer
        return self.answer


def found(*stop: int, now: str = THEN, **headers: str) -> Found:
    content = json.dumps({"stop": stop, "ttl": 120}).encode()
    return content, {"x-goog-generation": "1", "date": now, "last-modified": THEN, **headers}


@pytest.mark.parametrize(
    ("answer", "is_over", "is_unwanted"),
    [
        (found(), False, False),
        (found(6, 8), False, False),
        (found(6, 7), False, True),
        (None, False, False),  # not yet: it may be refused for a moment
        (found(now=NOW), True, False),  # two minutes old when it is first seen
        (found(now="yesterday"), False, False),
        (found(now=THEN.replace("2026", "2025")), False, False),
        (GoneError(), False, False),
    ],
)
def test_at_the_first_look(answer: Found | GoneError, is_over: bool, is_unwanted: bool) -> None:
    lease = Lease(Answers(answer), 7, 120)
    assert lease.look() == (is_over or is_unwanted)
    assert (lease.is_over, lease.is_unwanted) == (is_over, is_unwanted)


@pytest.mark.parametrize(
    ("later", "is_over"),
    [(found(), True), (GoneError(), True), (found(**{"x-goog-generation": "2"}), False)],
    ids=["as it was", "not to be read", "written anew"],
)
def test_it_grows_old_unless_it_is_written(
    monkeypatch: pytest.MonkeyPatch, later: Found | GoneError, is_over: bool
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    bucket = Answers(found())
    lease = Lease(bucket, 7, 120)
    assert not lease.look()
    bucket.answer = later
    now += 61
    assert not lease.look()
    now += 61
    assert lease.look() == is_over


def test_what_is_refused_for_a_moment_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    bucket = Answers(found())
    lease = Lease(bucket, 7, 120)
    ends = []
    for answer in (found(), None, None, found(), None, None, None):
        bucket.answer = answer
        ends.append(lease.look())
        now += 10
    assert ends == [False] * 6 + [True]


@pytest.mark.parametrize(
    ("answers", "is_gone"),
    [
        ([found()], False),
        ([found(now=NOW)], True),
        ([found(now="yesterday")], False),
        ([None, None, None], True),
        ([None, None, found()], False),
    ],
    ids=["young", "old", "of no age", "not there", "refused for a moment"],
)
def test_what_ends_a_run_is_the_services_word(
    monkeypatch: pytest.MonkeyPatch, answers: list[Found], is_gone: bool
) -> None:
    bucket = Answers(GoneError())
    pauses: list[float] = []

    def next_answer(pause: float = 0) -> None:
        pauses.append(pause)
        bucket.answer = answers[len(pauses) - 1]

    monkeypatch.setattr("time.sleep", next_answer)
    lease = Lease(bucket, 7, 120)
    next_answer()
    assert lease.is_gone() is is_gone
    assert pauses == [0, 10, 10][: len(answers)]
    assert bucket.is_removed == (answers == [found(now=NOW)]), "before anything else of the run"


def test_a_controller_that_comes_back_in_time_keeps_its_run() -> None:
    bucket = Answers(found(now=NOW))
    bucket.is_renewed = True
    assert not Lease(bucket, 7, 120).is_gone()


def test_who_was_cut_off_does_not_take_the_controller_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    bucket = Answers(found())
    lease = Lease(bucket, 7, 120)
    assert not lease.look()
    bucket.answer = GoneError()
    now += 121
    assert lease.look()
    with pytest.raises(GoneError):
        lease.is_gone()
    bucket.answer = found(**{"x-goog-generation": "2"})
    assert not lease.is_gone()

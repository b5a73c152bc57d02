"""What stands in the bucket, or in a job, and is not true: each part is read once and in order, and nothing else is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import closing

import pytest

from pytest_sandboxes.batch.runners.gcp import janitor, job, lease, naming, section
from pytest_sandboxes.batch.runners.gcp.inbox import Inbox
from pytest_sandboxes.batch.runners.gcp.naming import new_run
from pytest_sandboxes.batch.runners.gcp.objects import LostError, Objects
from pytest_sandboxes.batch.runners.gcp.parts import LARGEST
from pytest_sandboxes.batch.runners.gcp.service import Service
from pytest_sandboxes.batch.runners.gcp.watching import Watch
from pytest_sandboxes.errors import BackendUnavailableError
from pytest_sandboxes.profiles.profile import Profile
from tests.integration.gcp.conftest import GcpProject

NOW = 1_700_000_000_000
"""Milliseconds of Unix time."""


@pytest.fixture
def service(here: GcpProject) -> Iterator[Service]:
    profile = Profile().override({"gcp": {"bucket": here.bucket}}, "test")
    with closing(Service(section.read(profile))) as found:
        yield found


@pytest.fixture
def objects(service: Service) -> Iterator[Objects]:
    found = Objects(service, new_run())
    yield found
    found.remove_all(10)


@pytest.fixture
def inbox(objects: Objects) -> Iterator[Inbox]:
    found = Inbox(objects)
    yield found
    found.close(10)


def put(objects: Objects, name: str, content: bytes = b"x") -> None:
    objects.put(f"events/{NOW}-{name}", content)


def overwrite(objects: Objects, name: str, content: bytes) -> None:
    """As somebody else does."""
    objects._blob(name).upload_from_string(content)


def look(inbox: Inbox) -> dict[int, list[tuple[bool, bytes]]]:
    """What two shards have said that is new."""
    inbox.look({1, 2}, dt.datetime.fromtimestamp(NOW / 1000, dt.UTC))
    return {each.shard: [(first, content) for _, first, content in each.parts] for each in inbox.read((1, 2))}


def test_each_part_is_read_once_and_in_order_and_of_shards_that_are_there(
    objects: Objects, inbox: Inbox
) -> None:
    put(objects, "1-0-1.part", b"second")
    put(objects, "2-0-0.part", b"other")
    put(objects, "3-0-0.part", b"of nobody")
    for name in ("1-0-0.exe", "1-0--1.part", "../1-0-0.part", "1-0-0.part/x", "é-0-0.part"):
        put(objects, name, b"odd")
    assert look(inbox) == {1: [], 2: [(True, b"other")]}
    put(objects, "1-0-0.part", b"first")
    assert look(inbox) == {1: [(True, b"first"), (False, b"second")], 2: []}
    objects.put(f"events/{NOW + 1}-1-0-1.part", b"replayed")
    objects.put(f"events/{NOW - 86_400_000}-1-0-2.part", b"dated back")
    assert look(inbox) == {1: [], 2: []}
    inbox.look({1, 2}, dt.datetime.now(dt.UTC), everything=True)
    assert [content for *_, content in inbox.read([1])[0].parts] == [b"dated back"]


def test_an_attempt_ends_those_before_and_none_that_is_over_says_anything(
    objects: Objects, inbox: Inbox
) -> None:
    put(objects, "1-0-0.part", b"first")
    put(objects, "1-0-2.part", b"too early")
    put(objects, "1-7-0.part", b"again")
    assert look(inbox)[1] == [(True, b"first"), (True, b"again")]
    put(objects, "1-0-1.part", b"too late")
    put(objects, "1-6-0.part", b"too late")
    put(objects, "1-999-1.part", b"without a beginning")
    assert look(inbox)[1] == []


def test_what_is_written_over_after_it_was_listed_is_not_read(objects: Objects, inbox: Inbox) -> None:
    put(objects, "1-0-0.part", b"true")
    inbox.look({1}, dt.datetime.fromtimestamp(NOW / 1000, dt.UTC))
    overwrite(objects, f"events/{NOW}-1-0-0.part", b"forged")
    assert [content for *_, content in inbox.read([1])[0].parts] == [b""]


def test_a_part_that_is_too_large_is_not_read_at_all(
    here: GcpProject, objects: Objects, inbox: Inbox
) -> None:
    put(objects, "1-0-0.part", bytes(LARGEST + 1))
    inbox.look({1}, dt.datetime.fromtimestamp(NOW / 1000, dt.UTC))
    (heard,) = inbox.read([1])
    assert heard.is_too_much
    assert here.control.events("call", method="storage.objects.get") == []


def test_somebody_elses_content_under_a_name_of_ours_ends_the_run(objects: Objects) -> None:
    objects.put("archives/a.tar", b"theirs")
    objects.put("archives/a.tar", b"theirs")
    with pytest.raises(
        BackendUnavailableError, match="already, with other content: somebody else writes there"
    ):
        objects.put("archives/a.tar", b"ours")


def test_what_is_written_again_takes_the_place_of_nobody_elses(objects: Objects) -> None:
    first = objects.replace("lease.json", b"1", 0, (), 10)
    unanswered = objects.replace("lease.json", b"2", first.generation, (), 10)
    version = objects.replace("lease.json", b"3", first.generation, {b"2"}, 10)
    assert first.generation < unanswered.generation < version.generation
    overwrite(objects, "lease.json", b"theirs")
    with pytest.raises(LostError, match="has been written by somebody else"):
        objects.replace("lease.json", b"4", version.generation, {b"2", b"3"}, 10)
    objects.remove("lease.json", 10)
    with pytest.raises(LostError, match="is gone"):
        objects.replace("lease.json", b"4", version.generation, {b"3"}, 10)


def test_a_job_that_somebody_has_deleted_has_ended(service: Service) -> None:
    lines: list[str] = []
    watch = Watch(service, f"{service.parent}/jobs/never-there", lines.append)
    assert watch.look() == {}
    assert watch.has_ended
    assert lines == ["job never-there is gone: somebody has deleted it"]


def create(service: Service, run: str, owner: str) -> str:
    """A job with the labels of a run."""
    labels = {job.RUN_LABEL: run, job.OWNER_LABEL: owner}
    spec = {"runnables": [{"script": {"text": "exec sleep 1000"}}]}
    name = f"{service.parent}/jobs/job-of-{owner}"
    job.create(service, name, {"labels": labels, "task_groups": [{"task_spec": spec}]})
    return name


def test_the_janitor_removes_what_is_dead_and_its_own(here: GcpProject, service: Service) -> None:
    old, young = b'{"stop":[],"ttl":0}', b'{"stop":[],"ttl":60}'
    own, *others = (new_run() for _ in range(6))
    dead, silent, alive, liar, forever = others
    foreign = f"{'f' * 16}-{'0' * 16}"
    leases = {
        own: old,
        dead: old,
        alive: young,
        liar: b"\xff[",
        forever: b'{"stop":[],"ttl":1e300}',
        foreign: old,
    }
    for run, content in leases.items():
        Objects(service, run).put(lease.NAME, content)
    for run in (silent, foreign, alive):
        for number in range(150 if run == silent else 1):
            Objects(service, run).put(f"events/{number}", b"x")
    unseen = new_run()
    mine, theirs = (create(service, unseen, owner) for owner in (naming.owner(), "f" * 16))
    assert janitor.sweep(service, own, dt.datetime.now(dt.UTC)) == 3
    here.control.wait("job_deleted", job=mine)
    assert here.control.remains().jobs == [theirs]
    left = {name.split("/")[1] for name in here.objects()}
    assert left == {own, alive, liar, forever, foreign}
    for run in left:
        Objects(service, run).remove_all(10)

"""Containers that wait between two runs, on a real Engine: who gets them, and what is left of them."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from pytest_sandboxes.io_thread import IOThread
from pytest_sandboxes.parking_records import Records
from pytest_sandboxes.sandbox import Sandbox
from tests.integration.conftest import ROOT
from tests.integration.docker_parking.conftest import KEEP, PATIENCE, Place


def test_the_next_run_takes_over_what_is_clean_and_no_key_is_seen(place: Place, engine: Any) -> None:
    place.use(
        "    sandbox.write_text('left', 'something')\n"
        "    sandbox.sh('touch /tmp/left /dev/shm/left ~/left; setsid sleep 1000 >/dev/null 2>&1 &')\n"
        "    sandbox.popen('sleep', '1000')\n"
    )
    first = place.inner.run(KEEP)
    assert first.counts == {"passed": 1}
    assert "1 started" in first.stdout
    assert "1 kept for the next run, 300 s at most" in first.stdout
    container = place.only()
    deadline = time.monotonic() + PATIENCE
    while len(there := engine.api.top(container)["Processes"]) > 1:  # what tied it to the run ends with that
        assert time.monotonic() < deadline, there
        time.sleep(0.02)
    (parked,) = Records().list().values()
    assert parked.sandbox == container

    place.use(
        "    left = sandbox.sh('ls -A . ~ /tmp /dev/shm').stdout\n"
        "    assert 'left' not in left, left\n"
        "    assert not sandbox.sh('cat /proc/1/mem').success\n"
        "    everything = sandbox.sh('cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ /proc/[0-9]*/maps; env; mount')\n"
        "    pathlib.Path('everything').write_bytes(everything.stdout_bytes)\n"
    )
    second = place.inner.run(KEEP)
    assert second.counts == {"passed": 1}
    assert "0 started, 1 taken over from an earlier run" in second.stdout
    assert place.seen() == [container[:12]] * 2
    assert place.only() == container, "and waits for a third"
    (again,) = Records().list().values()
    assert again.key != parked.key
    everything = b"".join(
        [
            (place.inner.path / "everything").read_bytes(),
            place.inner.report.read_bytes(),
            *(run.stdout.encode() + run.stderr.encode() for run in (first, second)),
            json.dumps(engine.api.inspect_container(container)).encode(),
            json.dumps(engine.api.top(container)).encode(),
        ]
    )
    assert b"python3" in everything, "there is something to be found"
    for key in (parked.key, again.key):
        forms = key, key.hex().encode(), base64.b64encode(key), repr(key).encode()
        assert not any(form in everything for form in forms)


def test_age_and_leases_count_over_runs(place: Place) -> None:
    place.set_profile(", max_uses: 2, max_lifetime: 100")
    place.use()
    assert "1 kept for the next run" in place.inner.run(KEEP).stdout
    (parked,) = Records().list().values()
    assert parked.uses == 1
    assert time.time() - PATIENCE < parked.started < parked.expires <= parked.started + 100 + PATIENCE
    second = place.inner.run(KEEP)
    assert "1 taken over from an earlier run" in second.stdout
    first, again = place.seen()
    assert first == again == parked.sandbox[:12]
    assert place.containers() == {}, "it has had all its leases"


def test_the_pool_of_several_workers_parks_and_takes_over(place: Place) -> None:
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    place.use()
    for _ in range(2):
        assert place.inner.run(KEEP, "-n", "2").counts == {"passed": 1}
    first, second = place.seen()
    assert first == second == place.only()[:12]


@pytest.mark.parametrize("change", ["profile", "container"])
def test_what_has_changed_or_ended_in_between_is_not_taken_over(
    place: Place, engine: Any, change: str
) -> None:
    place.use()
    place.inner.run(KEEP)
    container = place.only()
    if change == "profile":
        place.set_profile(", env_vars: {NEW: value}")
    else:
        engine.api.kill(container)
    second = place.inner.run(KEEP)
    assert second.counts == {"passed": 1}
    assert "taken over" not in second.stdout
    assert place.only() != container, "it has been removed"
    assert place.seen()[1] == place.only()[:12]
    assert [each.sandbox for each in Records().list().values()] == [place.only()]


def test_an_image_of_the_same_name_is_another(place: Place, engine: Any) -> None:
    name = f"pytest-sandboxes/parked-{os.getpid()}"
    engine.api.tag(place.image, name)
    container = engine.api.create_container(place.image, ["true"])["Id"]
    try:
        before, place.image = place.image, name
        place.set_profile()
        place.use()
        place.inner.run(KEEP)
        parked = place.only()
        assert before != name
        engine.api.commit(container, repository=name, tag="latest", changes="ENV NEW=value")
        place.inner.run(KEEP)
        assert place.only() != parked
        assert place.seen()[1] == place.only()[:12]
    finally:
        engine.api.remove_container(container, force=True)
        place.remove()
        engine.api.remove_image(name, force=True)


def test_it_ends_by_itself_when_its_time_is_up(place: Place) -> None:
    place.use()
    place.inner.run("--sandbox-keep=1")
    assert Records().list(), "it was parked"
    place.wait_until_gone()
    second = place.inner.run("--sandbox-keep=1")
    assert second.counts == {"passed": 1}
    assert "taken over" not in second.stdout


@pytest.mark.parametrize("way", ["pytest.exit('enough')", "raise KeyboardInterrupt"])
def test_a_run_that_is_broken_off_keeps_nothing(place: Place, way: str) -> None:
    place.use(f"    import pytest; {way}\n")
    run = place.inner.run_apart(KEEP)
    assert run.exit_code == pytest.ExitCode.INTERRUPTED
    assert place.seen()
    assert place.containers() == {}
    assert Records().list() == {}


def test_what_is_killed_while_it_parks_leaves_nothing_that_the_next_run_does_not_find(place: Place) -> None:
    place.use()
    place.inner.write(
        "conftest.py",
        """
        import os, signal
        from pytest_sandboxes.parking_records import Records
        if os.environ.pop("KILLED", None):
            Records.add = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    environment = {**os.environ, "KILLED": "1"}
    command = [sys.executable, "-m", "pytest", *place.inner.arguments(KEEP)]
    killed = subprocess.run(
        command, check=False, cwd=place.inner.path, env=environment, capture_output=True, timeout=PATIENCE
    )
    assert killed.returncode == -signal.SIGKILL
    (left,) = place.containers()
    assert place.inner.run_apart(KEEP).counts == {"passed": 1}
    assert place.only() != left


def test_an_interrupt_while_it_parks_leaves_nothing_half_done(place: Place) -> None:
    place.use()
    place.inner.write(
        "conftest.py",
        """
        import os, signal
        from pytest_sandboxes.backends.docker.parking import ParkableContainer
        def park(*arguments, park=ParkableContainer.park):
            os.kill(os.getpid(), signal.SIGINT)
            park(*arguments)
        ParkableContainer.park = park
        """,
    )
    command = [sys.executable, "-m", "pytest", *place.inner.arguments(KEEP)]
    interrupted = subprocess.run(
        command, check=False, cwd=place.inner.path, capture_output=True, timeout=PATIENCE
    )
    assert b"KeyboardInterrupt" in interrupted.stderr
    (parked,) = Records().list().values()
    assert parked.sandbox == place.only()


def test_a_failed_test_keeps_nothing_from_being_kept(place: Place) -> None:
    place.use("    assert False\n")
    assert place.inner.run(KEEP, "-x").counts == {"failed": 1}
    assert place.only()


def test_what_a_run_has_taken_over_ends_with_it(place: Place) -> None:
    place.use()
    place.inner.run(KEEP)
    container = place.only()
    place.use(
        "    (there,) = request.getfixturevalue('sandbox_pool')._stock.sandboxes\n"
        "    assert there._launched._tied.wait(60)\n"
        "    pathlib.Path('ready').touch()\n"
        "    sandbox.sh('setsid sleep 1000 & sleep 1000', timeout=1000)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", KEEP],
        cwd=place.inner.path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not (place.inner.path / "ready").exists():
            assert run.poll() is None, "it ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert place.seen() == [container[:12]] * 2
        run.send_signal(signal.SIGKILL)
    finally:
        run.kill()
        run.wait()
    place.wait_until_gone()


def test_it_ends_with_its_tie_and_not_with_its_heartbeat(place: Place) -> None:
    with closing(place.backend()) as backend, closing(IOThread()) as io:
        sandbox = Sandbox.start(backend, place.profile, io)
        ended: list[Exception] = []
        sandbox.lost = ended.append
        sandbox.tie()
        assert len(place.containers()) == 1
        sandbox._launched._untie()  # type: ignore[attr-defined]
        place.wait_until_gone()  # all the time its controller has been there to be heard
        deadline = time.monotonic() + PATIENCE
        while not ended:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert "its agent ended" in str(ended[0])


def test_two_runs_never_share_one(place: Place) -> None:
    place.use()
    place.inner.run(KEEP)
    container = place.only()
    (place.inner.path / "seen").unlink()
    place.use(
        "    assert sandbox.sh('mkdir mine').success\n"
        "    import time; deadline = time.monotonic() + 60\n"
        "    while len(pathlib.Path('seen').read_text().split()) < 2:\n"
        "        assert time.monotonic() < deadline, 'the other one has none'\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", KEEP]
    runs = [
        subprocess.Popen(
            command, cwd=place.inner.path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for run in runs:
        said, _ = run.communicate(timeout=PATIENCE)
        assert run.returncode == 0, said
    assert sorted(each == container[:12] for each in place.seen()) == [False, True]


def test_of_all_who_try_at_once_one_has_it(place: Place) -> None:
    place.use()
    place.inner.run(KEEP)
    with ThreadPoolExecutor(4) as threads:
        backends = [place.backend() for _ in range(4)]
        taken = list(threads.map(lambda backend: backend.take_over(place.profile), backends))
    found = [each for each in taken if each is not None]
    for each in found:
        each.stream.close()
        each.end()
    for backend in backends:
        backend.close()
    assert len(found) == 1


def test_records_that_others_can_read_end_the_run(place: Place) -> None:
    place.use()
    place.inner.run(KEEP)
    place.only()
    (record,) = Records().directory.iterdir()
    record.chmod(0o644)
    run = place.inner.run(KEEP)
    assert run.exit_code == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {record}, which is to have keys" in run.stderr
    assert "is open to others (mode 0644)" in run.stderr
    assert "Traceback" not in run.stderr + run.stdout


def test_what_is_checked_and_not_leased_waits_on(place: Place) -> None:
    """Nobody serves what is taken over and not leased, and nothing counts it."""
    place.use()
    assert place.inner.run(KEEP).counts == {"passed": 1}
    waits = place.only()
    with closing(place.backend()) as backend:
        backend.check_machine(place.profile)
        ((_, parked),) = Records().list().items()
        assert parked.sandbox == waits
    assert place.only() == waits

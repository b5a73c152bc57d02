"""Sandboxes that wait between two runs: who gets them, who does not, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import pytest_sandboxes.__main__ as command_line
from pytest_sandboxes import registry
from pytest_sandboxes.backends.base import BackendOptions
from pytest_sandboxes.backends.modal import ModalBackend, janitor
from pytest_sandboxes.errors import SandboxLostError
from pytest_sandboxes.parking_records import Records
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.slot import Slot
from tests.emulators.modal.control import Control
from tests.integration.conftest import Inner, Run
from tests.integration.modal.conftest import backend, pool

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's processes can become other users")

KEEP = "--sandbox-keep=300"


class Place:
    """A project whose runs park and take over."""

    def __init__(self, inner: Inner, emulator: Control) -> None:
        self.inner = inner
        self.emulator = emulator
        self.set_profile()
        self.use()

    def set_profile(self, more: str = "") -> None:
        """Write the profile, and what `more` says of it."""
        self.inner.write("sandboxes.yaml", f"profiles: {{default: {{buffer_sandboxes: 1{more}}}}}\n")

    def use(self, body: str = "    pass\n") -> None:
        """Have the project's only test do what `body` says."""
        self.inner.write(
            "test_it.py", f"def test_it(sandbox):\n    assert sandbox.exec('true').success\n{body}"
        )

    def run(self, keep: str = KEEP) -> Run:
        """Run it."""
        run = self.inner.run("--sandbox-backend=modal", keep)
        assert run.counts == {"passed": 1}, run.stdout
        return run

    def only(self) -> str:
        """The only sandbox that runs, which is parked and on record."""
        (running,) = self.emulator.running()
        assert [each.sandbox for each in Records().list().values()] == [running]
        return running

    def created(self) -> int:
        """How many there have been."""
        return len(self.emulator.events("sandbox_created"))


@pytest.fixture
def place(inner: Inner, emulator: Control, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Place:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(
        registry, "installed", lambda: ["modal"]
    )  # for `purge`: others have tests of their own
    return Place(inner, emulator)


def end_all(control: Control, sandboxes: Sequence[str]) -> None:
    for each in sandboxes:
        control.kill(each)


def test_the_next_run_takes_over_what_is_clean(place: Place) -> None:
    place.use(
        "    sandbox.sh('touch left /tmp/left ~/left /dev/shm/left; setsid sleep 1000 >/dev/null 2>&1 &')\n"
        "    sandbox.popen('sleep', '1000')\n"
    )
    first = place.run()
    assert "1 started" in first.stdout
    assert "1 kept for the next run, 300 s at most" in first.stdout
    sandbox = place.only()
    before = place.created()
    place.use(
        "    left = sandbox.sh('ls -A . ~ /tmp /dev/shm; cat /proc/[0-9]*/cmdline').stdout\n"
        "    assert 'left' not in left and 'sleep\\x001000' not in left, left\n"
    )
    for _ in range(2):
        assert "0 started, 1 taken over from an earlier run" in place.run().stdout
        assert place.only() == sandbox
    assert place.created() == before, "not even for a look at the image"


def test_it_ends_by_itself_when_its_time_is_up(place: Place) -> None:
    place.run("--sandbox-keep=5")
    sandbox = next(iter(Records().list().values())).sandbox
    (ended,) = place.emulator.wait("sandbox_ended", sandbox=sandbox)
    assert ended["cause"] == "its main command has ended"
    assert "taken over" not in place.run("--sandbox-keep=1").stdout


@pytest.mark.parametrize("change", ["profile", "sandbox", "sandbox that starts no agent"])
def test_what_has_changed_or_ended_in_between_is_not_taken_over(place: Place, change: str) -> None:
    place.run()
    sandbox = place.only()
    if change == "profile":
        place.set_profile(", env_vars: {NEW: value}")
    elif change == "sandbox":
        place.emulator.kill(sandbox)
    else:
        place.emulator.inject("TaskExecStart", "throttled", times=None, sandbox=sandbox)
    assert "taken over" not in place.run().stdout
    assert place.only() != sandbox, "it has been ended"


def test_a_run_that_does_not_park_leaves_it_to_one_that_does(place: Place) -> None:
    place.run()
    sandbox = place.only()
    with backend() as made, pool(made, isolation="slot") as (found, profile):
        lease = found.lease("modal", profile)
        assert Slot(lease).exec("true").success
        lease.release()
    assert place.only() == sandbox, "its sweep has left it alone"
    assert "1 taken over" in place.run().stdout


def test_of_all_who_try_one_has_it(place: Place) -> None:
    place.run()
    sandbox = place.only()
    profile = Profile().override({"buffer_sandboxes": 1}, "test")
    options = BackendOptions(park_seconds=300.0, directory=place.inner.path)
    made = [ModalBackend(options), ModalBackend(options)]
    taken = [each.take_over(profile) for each in made]
    assert [each is not None for each in taken] == [True, False]
    assert Records().list() == {}
    for each in taken:
        if each is not None:
            each.stream.close()
            each.end()
    for one in made:
        one.close()
    assert sandbox not in place.emulator.running()


def test_what_has_been_looked_at_and_was_not_needed_ends_with_the_run(place: Place) -> None:
    place.run()
    profile = Profile().override({"buffer_sandboxes": 1}, "test")
    made = ModalBackend(BackendOptions(park_seconds=300.0, directory=place.inner.path))
    before = place.created()
    made.check_machine(profile)
    assert place.created() == before
    made.close()
    assert place.emulator.running() == []
    assert Records().list() == {}


@pytest.mark.parametrize("method", ["SandboxTagsSetV2", "TaskExecStart"])
def test_what_cannot_be_parked_ends_and_is_told_of(place: Place, method: str) -> None:
    control = f"__import__('tests.emulators.modal.control').emulators.modal.control.Control({str(place.emulator.path)!r})"
    place.use(f"    {control}.inject({method!r}, 'throttled', times=None)\n")
    run = place.run()
    assert "kept for the next run, 300 s" not in run.stdout
    assert "not kept for the next run: sandbox sb-" in run.stdout
    assert place.emulator.running() == []
    assert Records().list() == {}


@pytest.mark.parametrize(
    ("at", "is_parked"),
    [
        ("pytest_sandboxes.parking_records.Records.add", False),
        ("pytest_sandboxes.backends.modal.programs.park_command", False),
        ("pytest_sandboxes.backends.modal.bridge.Bridge.finish", True),
    ],
)
def test_what_a_killed_run_was_about_to_park_ends_or_is_found(place: Place, at: str, is_parked: bool) -> None:
    place.inner.write(
        "conftest.py",
        """
        import os, signal
        import pytest
        import pytest_sandboxes.sandbox
        from pytest_sandboxes.backends import modal
        if "KILLED_AT" in os.environ:
            pytest_sandboxes.sandbox.HEARTBEAT_DEADLINE = 6.0
            patch = pytest.MonkeyPatch()
            patch.setattr(os.environ["KILLED_AT"], lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        """,
    )
    killed = subprocess.run(
        [sys.executable, "-m", "pytest", *place.inner.arguments("--sandbox-backend=modal", KEEP)],
        check=False,
        cwd=place.inner.path,
        env={**os.environ, "KILLED_AT": at},
        capture_output=True,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL
    if is_parked:
        left = place.only()
        assert "1 taken over" in place.run().stdout
        assert place.only() == left
    else:  # without anybody who would look for it
        left = place.emulator.events("sandbox_created")[-1]["sandbox"]
        (ended,) = place.emulator.wait("sandbox_ended", sandbox=left)
        assert ended["cause"] == "its main command has ended"
        assert "taken over" not in place.run().stdout


def test_it_waits_no_longer_than_it_may_live(place: Place) -> None:
    place.set_profile(", max_lifetime: 100")
    place.run()
    (parked,) = Records().list().values()
    assert parked.expires - time.time() < 100
    assert "1 taken over" in place.run().stdout


def test_what_is_never_kept_is_said_once(place: Place) -> None:
    place.set_profile(", isolation: sandbox")
    said = "its sandboxes are not kept for the next run (--sandbox-keep): with isolation sandbox, nobody can prove"
    assert place.run().stdout.count(said) == 1
    assert place.emulator.running() == []
    assert Records().list() == {}


def test_code_cannot_have_its_sandbox_wait(place: Place) -> None:
    """What only root may write decides, and whoever ends the agent ends the sandbox."""
    with backend() as made, pool(made, isolation="slot") as (found, profile):
        lease = found.lease("modal", profile)
        slot = Slot(lease)
        planted = slot.sh("for f in / /tmp; do echo 3600 >$f/.pytest-sandboxes-alive-parked; done; ls -A /")
        assert ".pytest-sandboxes-alive-parked" not in planted.stdout
        (running,) = place.emulator.running()
        with pytest.raises(SandboxLostError):
            lease.ports[0].sandbox._launched._service.call(  # type: ignore[attr-defined]
                lease.ports[0].sandbox._launched._bridge.finish,  # type: ignore[attr-defined]
                "its agent does not end",
            )
            slot.exec("true")
        (ended,) = place.emulator.wait("sandbox_ended", sandbox=running)
    assert ended["cause"] in {"its main command has ended", "a client has terminated it"}


def test_purge_ends_what_is_parked_and_what_dead_runs_have_left(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    import modal

    place.run()
    parked = place.only()
    app = modal.App.lookup("another", create_if_missing=True)
    image = modal.Image.debian_slim()
    mine = janitor.tags("123456abcdef", "0" * 16)
    machine, _, _ = mine["pytest-sandboxes.process"].split("-")
    with subprocess.Popen(["true"]) as dead:
        pass
    off_record, left, alive, others = (
        modal.Sandbox.create("sleep", "infinity", app=app, image=image, tags=tags).object_id
        for tags in (
            janitor.parked_tags("123456abcdef", "0" * 16, time.time() + 300),
            {**mine, "pytest-sandboxes.process": f"{machine}-{dead.pid}-1"},
            mine,
            {**janitor.parked_tags("123456abcdef", "0" * 16, 1), "pytest-sandboxes.owner": "somebody-else"},
        )
    )
    capsys.readouterr()
    assert command_line.main(["purge"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert sorted(said.out.splitlines()) == sorted(
        [
            f"modal: removed sandbox {parked} of profile default, parked",
            f"modal: removed sandbox {off_record}, parked",
            f"modal: removed sandbox {left}, of a run that is dead",
        ]
    )
    assert set(place.emulator.running()) == {alive, others}
    assert Records().list() == {}
    end_all(place.emulator, [alive, others])


def test_purge_without_credentials_asks_nobody(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODAL_TOKEN_ID")
    monkeypatch.delenv("MODAL_TOKEN_SECRET")
    assert command_line.main(["purge"]) == 0
    assert capsys.readouterr() == ("", "")
    assert not place.emulator.events("call")

"""What the service is asked for, and what becomes of its sandboxes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_sandboxes.backends.modal import janitor, programs
from pytest_sandboxes.errors import SandboxLostError
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.slot import Slot
from tests.emulators.modal.control import Control
from tests.integration.conftest import ROOT
from tests.integration.modal.conftest import Start, backend, pool, slot
from tests.processes import carrying
from tests.waiting import wait_until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's processes can become other users")

FIELDS: Mapping[str, Any] = {
    "app_name": "own-app",
    "cpu": 1.5,
    "memory": 512,
    "max_lifetime": 900.5,
    "idle_timeout": 120.0,
    "env_vars": {"GIVEN": "value"},
    "secrets": ["tokens"],
    "network": "outbound",
    "modal": {
        "region": "us-east",
        "cloud": "aws",
        "volumes": {"/data": "models"},
        "cidr_allowlist": ["203.0.113.0/24"],
        "domain_allowlist": ["pypi.org"],
        "apt": ["git"],
        "pip": "numpy",
    },
}


def test_all_that_a_profile_says_is_asked_for(emulator: Control) -> None:
    import modal

    modal.Secret.objects.create("tokens", {"SECRET": "hush"})
    modal.Volume.objects.create("models")
    with slot(**FIELDS) as leased:
        found = leased.sh("echo $GIVEN $SECRET; env | grep MODAL; ls -d /data")
        assert found.stdout == "value hush\n/data\n"
    explored, created = emulator.events("sandbox_created")
    assert created["name"] == explored["name"][:-1] + "2"
    assert created["name"].startswith("own-app-")
    expected = {
        "timeout": 901,
        "idle_timeout": 120,
        "milli_cpu": 1500,
        "memory_mb": 512,
        "cloud": "aws",
        "regions": ["us-east"],
        "network": "ALLOWLIST",
        "allowed_cidrs": ["203.0.113.0/24"],
        "allowed_domains": ["pypi.org"],
    }
    assert {name: created[name] for name in expected} == expected
    assert list(created["volumes"]) == ["/data"]
    profile = Profile().override({"isolation": "sandbox", **FIELDS}, "test")
    assert created["tags"]["pytest-sandboxes.process"] == janitor.process_tag(os.getpid())
    assert len(created["tags"]["pytest-sandboxes.profile"]) == len(profile.digest)
    built = [command for build in emulator.events("build_started") for command in build["commands"]]
    assert any("git" in command and "apt-get install" in command for command in built)
    assert any("numpy" in command and "pip install" in command for command in built)
    assert "hush" not in json.dumps(emulator.events())


def test_gpus_are_those_of_the_profile(emulator: Control) -> None:
    with slot(gpu="A100:2") as leased:
        assert leased.exec("true").success
    assert emulator.events("sandbox_created")[-1]["gpu"] == "A100"


def test_there_is_no_network_unless_it_is_asked_for(emulator: Control) -> None:
    with slot() as leased:
        assert leased.sh("cat /proc/net/dev").stdout.count(":") == 1
    assert {each["network"] for each in emulator.events("sandbox_created")} == {"BLOCKED"}


def test_an_image_is_built_and_explored_once(emulator: Control) -> None:
    with backend() as made, pool(made, max_sandboxes=3) as (sandboxes, profile):
        again = profile.override({"max_uses": 7}, "test")
        made.check_machine(again)
        first, second = sandboxes.lease("modal", profile), sandboxes.lease("modal", again)
        assert Slot(first).exec("true").success
        assert Slot(second).exec("true").success
        for lease in (first, second):
            lease.release()
    assert len(emulator.events("build_started")) == 1
    assert len(emulator.events("sandbox_created")) == 3


def test_the_end_of_the_agent_is_that_of_the_sandbox(emulator: Control) -> None:
    with slot() as leased:
        assert leased.exec("true").success
        with pytest.raises(SandboxLostError):
            leased.sh("kill -9 $PPID; sleep 60")
        ended = emulator.wait("sandbox_ended", count=2)
    assert ended[-1]["cause"] in {"its main command has ended", "a client has terminated it"}


def test_a_sandbox_whose_agent_never_comes_ends(emulator: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    import modal

    monkeypatch.setattr(programs, "ARRIVAL", 1)
    modal.Sandbox.create(
        *programs.main_command(),
        app=modal.App.lookup("app", create_if_missing=True),
        image=modal.Image.debian_slim(),
    )
    (ended,) = emulator.wait("sandbox_ended")
    assert ended["cause"] == "its main command has ended"


CONTROLLER = """
import sys, threading
import pytest_sandboxes.sandbox
from tests.integration.modal.conftest import slot
pytest_sandboxes.sandbox.HEARTBEAT_DEADLINE = 6.0
with slot() as leased:
    leased.popen("sleep", "1000", env={"MARK": sys.argv[1]})
    print("ready", flush=True)
    threading.Event().wait()
"""


def test_a_killed_controller_takes_its_sandboxes_along(emulator: Control) -> None:
    mark = uuid.uuid4().hex
    with subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, mark],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as controller:
        assert controller.stdout is not None
        assert controller.stdout.readline() == "ready\n"
        (running,) = emulator.running()
        wait_until(lambda: carrying(mark, "environ"))
        controller.send_signal(signal.SIGKILL)
    (ended,) = emulator.wait("sandbox_ended", sandbox=running)
    assert ended["cause"] == "its main command has ended"
    assert not carrying(mark, "environ")


def test_what_dead_runs_have_left_is_ended(emulator: Control) -> None:
    import modal

    app = modal.App.lookup("pytest-sandboxes", create_if_missing=True)
    image = modal.Image.debian_slim()
    mine = janitor.tags("123456abcdef", "0" * 16)
    place, _, _ = mine["pytest-sandboxes.process"].split("-")
    with subprocess.Popen(["true"]) as dead:
        pass
    elsewhere = {**mine, "pytest-sandboxes.process": f"{'0' * 16}-{dead.pid}-1"}
    others = {
        **mine,
        "pytest-sandboxes.owner": "somebody-else",
        "pytest-sandboxes.process": f"{place}-{dead.pid}-1",
    }
    planted = {
        name: modal.Sandbox.create("sleep", "infinity", app=app, image=image, name=name, tags=tags).object_id
        for name, tags in {
            "dead": {**mine, "pytest-sandboxes.process": f"{place}-{dead.pid}-1"},
            "alive": mine,
            "elsewhere": elsewhere,
            "others": others,
            "nobodys": {},
        }.items()
    }
    with slot() as leased:
        assert leased.exec("true").success
    ended = {each["sandbox"] for each in emulator.events("sandbox_ended")}
    assert {name for name, sandbox in planted.items() if sandbox in ended} == {"dead"}


def test_what_ends_while_it_is_looked_at_is_left_alone(
    emulator: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run of the same user, beside this one, ends its sandboxes when it likes."""
    import modal

    class Gone:
        object_id = "sb-gone"

        @staticmethod
        async def ask() -> None:
            raise modal.exception.NotFoundError("Sandbox not found")

        get_tags = SimpleNamespace(aio=ask)

    async def listed(**_: object) -> AsyncIterator[object]:
        yield Gone

    monkeypatch.setattr(modal.Sandbox, "list", SimpleNamespace(aio=listed))
    with slot() as leased:
        assert leased.exec("true").success


@as_root
def test_eight_busy_slots_of_one_sandbox(emulator: Control) -> None:
    """Some write, some read, some wait for input that nobody sends: none of them stalls another."""
    with (
        backend() as made,
        pool(made, isolation="slot", slots_per_sandbox=8) as (sandboxes, profile),
    ):
        leases = [sandboxes.lease("modal", profile) for _ in range(8)]
        slots = [Slot(lease) for lease in leases]
        assert len({each.name for each in slots}) == 1
        data = os.urandom(3 << 20)
        unread = slots[0].popen("sh", "-c", "yes | head -c 50m")
        waiting = slots[1].popen("cat")
        failures: list[object] = []

        def use(one: Slot) -> None:
            one.write_bytes("file", data)
            if one.read_bytes("file") != data or one.exec("cat", input=data).stdout_bytes != data:
                failures.append(one)

        threads = [threading.Thread(target=use, args=(each,)) for each in slots]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures
        waiting.write(b"here")
        waiting.close_stdin()
        assert waiting.stdout.read() == b"here"
        unread.kill()
        for lease in leases:
            lease.release()


@as_root
@pytest.mark.parametrize("victim", ["agent", "life line"])
def test_code_cannot_reach_what_keeps_the_sandbox(emulator: Control, victim: str) -> None:
    """A loop that shoots at every process while slots are reset: the agent acts as that user then."""
    attack = {
        "agent": "import os, itertools\nfor _ in range(20000):\n    for pid in range(1, 12):\n        try:\n            os.kill(pid, 9)\n        except OSError as error:\n            assert error.errno in (1, 3)",
        "life line": "import os\nfor path in ('/.pytest-sandboxes-alive', '/tmp/.pytest-sandboxes-alive'):\n    try:\n        print(os.open(path, os.O_RDWR))\n    except OSError as error:\n        print(error.errno in (2, 13))",
    }[victim]
    with backend() as made, pool(made, isolation="slot", slots_per_sandbox=2) as (sandboxes, profile):
        first, second = (sandboxes.lease("modal", profile) for _ in range(2))
        if victim == "life line":
            assert Slot(first).exec("python3", "-c", attack).stdout == "True\nTrue\n"
        else:
            shooting = Slot(first).popen(
                "python3", "-c", attack.replace("pid, 9", "pid, 9 if pid != os.getpid() else 0")
            )
            for _ in range(20):
                assert Slot(second).exec("true").success
                Slot(second).reset()
            shooting.kill()
        assert Slot(second).exec("true").success
        for lease in (first, second):
            assert not lease.losses
            lease.release()


@as_root
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])
def test_a_command_starts_alike_alone_and_beside_another(emulator: Control, beside: bool) -> None:
    """The one is a fork of the agent, the other has a supervisor."""
    with slot(isolation="slot") as leased:
        if beside:
            leased.popen("sleep", "3600")
        missing = "no-such-program"
        with pytest.raises(FileNotFoundError, match=missing):
            leased.exec(missing)
        with pytest.raises(PermissionError):
            leased.exec("/etc/passwd")
        with pytest.raises(FileNotFoundError, match="nowhere"):
            leased.exec("true", cwd="nowhere")
        ignored = leased.sh("grep SigIgn /proc/self/status; trap '' PIPE; grep SigIgn /proc/self/status")
        masks = [int(each, 16) for each in ignored.stdout.split()[1::2]]
        assert [mask >> (signal.SIGPIPE - 1) & 1 for mask in masks] == [0, 1]
        assert leased.sh("echo $PWD; ls -l /proc/self/fd | grep -c -- '->'").stdout.split() == [
            leased.workspace,
            "4",
        ]


@pytest.mark.parametrize("image", ["busybox_image", "python_image"])
def test_containers(start: Start, request: pytest.FixtureRequest, image: str) -> None:
    """Real images: one with a Python of its own, and one to which ours is carried."""
    name = request.getfixturevalue(image)
    emulator = start(mode="docker")
    with slot(isolation="slot", image=name, memory=64) as leased:
        assert leased.sh("id -u").stdout.strip() not in ("0", "")
        assert (
            leased.sh(
                "find / -xdev -perm -0002 -type d -not -path '/tmp*' -not -path '/var/tmp*' 2>/dev/null"
            ).stdout
            == ""
        )
        killed = leased.exec("dd", "if=/dev/zero", "of=/dev/null", "bs=256M", "count=1")
        assert (killed.returncode, killed.oom_killed) == (-9, True)
    assert emulator.running() == []


def test_a_dockerfile(start: Start, python_image: str, tmp_path: Path) -> None:
    start(mode="docker")
    (tmp_path / "Dockerfile").write_text(
        f"FROM {python_image}\nARG WHAT\nRUN echo $WHAT > /made\nWORKDIR /made-here\n"
    )
    with (
        backend(tmp_path) as made,
        pool(made, modal={"dockerfile": "Dockerfile", "build_args": {"WHAT": "this"}}) as (
            sandboxes,
            profile,
        ),
    ):
        lease = sandboxes.lease("modal", profile)
        assert Slot(lease).sh("cat /made; pwd").stdout == "this\n/made-here\n"
        lease.release()

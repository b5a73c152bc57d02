"""Backend docker on images in which no agent can run: what their shells do, and what hostile ones cannot."""

from __future__ import annotations

import contextlib
import itertools
import socket
import sysconfig
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_sandboxes.agent.wire import HELLO, FrameReader
from pytest_sandboxes.backends.base import BackendOptions
from pytest_sandboxes.backends.docker import DockerBackend
from pytest_sandboxes.backends.docker.attached import start_attached
from pytest_sandboxes.backends.docker.removal import remove
from pytest_sandboxes.backends.docker.shell import jobs, scripts
from pytest_sandboxes.errors import (
    BackendUnavailableError,
    ExecTimeoutError,
    SandboxLostError,
    UnsupportedError,
)
from pytest_sandboxes.lease import Lease
from pytest_sandboxes.pool.pool import Pool
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.slot import Slot
from tests.integration.docker_images import PROCESS, ImageMaker

pytest.importorskip("docker", reason="the docker SDK is not installed")

PATIENCE = 30.0
DEADLINE = 2  # seconds, of main commands that nobody talks to


@pytest.fixture(autouse=True)
def _nothing_can_be_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_platform", lambda: "macosx-14.0-arm64")


@pytest.fixture
def backend() -> Iterator[DockerBackend]:
    backend = DockerBackend(BackendOptions())
    yield backend
    backend.close()


@contextlib.contextmanager
def leased(backend: DockerBackend, profile: Profile) -> Iterator[tuple[Slot, Lease]]:
    pool = Pool({"docker": backend})
    try:
        with pool.lease("docker", profile.override({"buffer_sandboxes": 0}, "test"), holder="test") as lease:
            yield Slot(lease, 0), lease
    finally:
        pool.close()


def of(engine: Any) -> list[Any]:
    """The containers of this process's runs."""
    from pytest_sandboxes.backends.docker import janitor

    label = f"{PROCESS}={janitor.labels('')[PROCESS]}"
    return engine.api.containers(all=True, filters={"label": [label]})  # type: ignore[no-any-return]


def gone(engine: Any, container: str) -> bool:
    return not engine.api.containers(all=True, filters={"id": container})


def eventually_gone(engine: Any, container: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not gone(engine, container):
        assert time.monotonic() < deadline, "the container lives"
        time.sleep(0.05)


# -- the main command


@contextlib.contextmanager
def main_loop(
    engine: Any, image: str, *words: str, deadline: int = DEADLINE, **host: Any
) -> Iterator[tuple[str, socket.socket]]:
    """A container with the main command alone, which is given `words`, and a stream to it."""
    made, stream = start_attached(
        engine.api,
        image,
        ["/bin/sh", "-c", scripts.MAIN_LOOP, "sh", str(deadline), *words],
        name=f"main-loop-{uuid.uuid4().hex}",
        labels={},
        host_config={"auto_remove": True, "init": True, "network_mode": "none", **host},
    )
    stream.settimeout(PATIENCE)
    try:
        yield made, stream
    finally:
        stream.close()
        remove(engine.api, made)


@pytest.fixture(params=["busybox_image", "python_image"], ids=["busybox", "dash"])
def any_shell(request: pytest.FixtureRequest) -> str:
    """Images whose shells differ: one has a `read` with a deadline, the other has none."""
    return str(request.getfixturevalue(request.param))


def test_a_container_to_which_nobody_talks_ends(engine: Any, any_shell: str) -> None:
    with main_loop(engine, any_shell) as (container, stream):
        stream.sendall(b"1 beat\n")
        assert b"1 0\n" in stream.recv(100)
        eventually_gone(engine, container)


def test_a_container_whose_stream_ends_ends_at_once(engine: Any, any_shell: str) -> None:
    with main_loop(engine, any_shell, deadline=60) as (container, stream):
        deadline, answer = time.monotonic() + PATIENCE, b""
        while b"1 0\n" not in answer:  # what has been killed may not be gone yet
            assert time.monotonic() < deadline, answer
            stream.sendall(b"1 all\n")
            answer = stream.recv(100)
        stream.shutdown(socket.SHUT_RDWR)
        stream.close()
        eventually_gone(engine, container)


def test_beats_keep_it_alive(engine: Any, any_shell: str) -> None:
    with main_loop(engine, any_shell, deadline=4) as (container, stream):
        for number in range(150):  # which takes longer than the deadline
            stream.sendall(b"%d beat\n" % number)
            assert b"%d 0\n" % number in stream.recv(100)
            time.sleep(0.04)
        assert not gone(engine, container)


def test_it_ends_a_tree_and_what_has_lost_its_parents_and_nothing_else(engine: Any, any_shell: str) -> None:
    with main_loop(engine, any_shell, deadline=60) as (container, stream):

        def started(script: str) -> None:
            made = engine.api.exec_create(container, ["/bin/sh", "-c", script])
            engine.api.exec_start(made, detach=True)

        started("echo $$ >/tmp/doomed; sleep 1001 & sleep 1002")
        started("(sleep 1003 &) ; sleep 1004")
        deadline = time.monotonic() + PATIENCE
        while not {"1001", "1002", "1003", "1004"} <= sleeping(engine, container):
            assert time.monotonic() < deadline
        made = engine.api.exec_create(container, ["cat", "/tmp/doomed"])
        doomed = engine.api.exec_start(made).strip()
        left = b""
        while b"7 0\n" not in left:  # what is killed is not gone at once
            assert time.monotonic() < deadline, left
            stream.sendall(b"7 tree %s\n" % doomed)
            left = stream.recv(100)
        assert sleeping(engine, container) & {"1001", "1002", "1003", "1004"} == {"1004"}


TAKES_ALL = """
import os, time
while True:
    try:
        if not os.fork():
            time.sleep(1000)
    except OSError:
        pass
"""


def test_it_lives_beside_code_that_takes_every_process(engine: Any, python_image: str) -> None:
    """Its shell ends when it cannot fork, which it has to do for its watchdog."""
    with main_loop(engine, python_image, "crowded", deadline=10, pids_limit=30) as (container, stream):
        made = engine.api.exec_create(container, ["python3", "-c", TAKES_ALL], user="1234")
        engine.api.exec_start(made, detach=True)
        numbers = itertools.count()

        def beat() -> None:
            line = b"%d beat\n" % (number := next(numbers))
            stream.sendall(line)
            assert b"%d 0\n" % number in stream.recv(100), "it has ended"

        deadline = time.monotonic() + PATIENCE
        while len(engine.api.top(container)["Processes"]) < 29:
            assert time.monotonic() < deadline
            beat()
        for _ in range(160):
            beat()
        left = b""
        while b"7 0\n" not in left:
            assert time.monotonic() < deadline, left
            stream.sendall(b"7 all\n")
            left = stream.recv(100)
        assert len(engine.api.top(container)["Processes"]) < 6


def sleeping(engine: Any, container: str) -> set[str]:
    """The arguments of all `sleep`s in a container, as its Engine sees them."""
    top = engine.api.top(container, "-eo pid,args")["Processes"]
    return {words[-1] for _, command in top if (words := command.split())[0] == "sleep"}


# -- what code can do to it


def test_code_cannot_end_what_ends_it(backend: DockerBackend, busybox_image: str, engine: Any) -> None:
    with leased(backend, Profile(image=busybox_image)) as (slot, lease):
        said = slot.sh("for p in /proc/[0-9]*; do kill -9 ${p#/proc/} 2>&1; done; echo lived")
        assert "denied" in said.stderr + said.stdout or "permitted" in said.stderr + said.stdout
        slot.sh("kill -9 -1; kill -STOP -1")
        assert (
            slot.sh("echo forged > /proc/1/fd/1; echo forged > /proc/7/fd/1; echo still here").stdout
            == "still here\n"
        )
        assert not lease.losses
    assert not of(engine)


@pytest.mark.parametrize(
    "fields", [{}, {"isolation": "sandbox", "user": "1234", "disk": None}], ids=["slot", "sandbox"]
)
def test_a_deadline_ends_even_a_bomb_and_on_time(
    backend: DockerBackend, busybox_image: str, fields: dict[str, Any]
) -> None:
    bomb = "bomb() { while :; do (bomb) & (bomb) & done; }; trap '' TERM HUP INT; echo begun; bomb & exec sleep 1000"
    look = "grep -l -e '[b]omb' -e '^[s]leep' /proc/[0-9]*/cmdline"  # which does not find itself
    with leased(backend, Profile(image=busybox_image, pids=50, **fields)) as (slot, lease):
        assert slot.sh(f"sleep 1000 & until {look}; do :; done", timeout=30).stdout.count("\n") == 1
        began = time.monotonic()
        with pytest.raises(ExecTimeoutError) as caught:
            slot.sh(bomb, timeout=1)
        assert caught.value.result.stdout == "begun\n"
        assert time.monotonic() - began < 15
        assert slot.sh(look).stdout == "", "something of it lives"
        assert not lease.losses


def test_names_of_the_shells_own_are_passed_on(backend: DockerBackend, any_shell: str) -> None:
    variables = {
        "PWD": "/elsewhere",
        "IFS": "x",
        "ENV": "/no",
        "a.b": "c",
        "__ps_sign": "forged",
        "PATH": "/bin:/usr/bin",
    }
    images = Profile(image=any_shell)
    with leased(backend, images) as (slot, _):
        said = slot.exec("env", env=variables).stdout.splitlines()
        assert {f"{name}={value}" for name, value in variables.items()} <= set(said)
        assert not any(line.startswith(("OLDPWD=", "HOSTNAME=", "__ps_program")) for line in said)


def test_a_single_byte_of_output_comes_at_once_and_one_of_the_sign_at_the_end(
    backend: DockerBackend, busybox_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "secrets", SimpleNamespace(token_hex=lambda size: "7" * 2 * size))
    with leased(backend, Profile(image=busybox_image)) as (slot, _):
        process = slot.popen("sh", "-c", "printf 7; exec cat")
        assert process.stdout.read(PATIENCE) == b"7"
        assert slot.exec("printf", r"\034").stdout == "\x1c"


def test_a_container_that_is_killed_is_a_loss_with_its_reason(
    backend: DockerBackend, busybox_image: str, engine: Any
) -> None:
    with leased(backend, Profile(image=busybox_image)) as (slot, lease):
        process = slot.popen("sleep", "1000")
        (container,) = of(engine)
        engine.api.kill(container["Id"])
        with pytest.raises(SandboxLostError, match="its container ended"):
            process.wait(PATIENCE)
        assert lease.losses


def test_the_time_in_a_debugger_is_none_of_a_commands(backend: DockerBackend, busybox_image: str) -> None:
    profile = Profile(image=busybox_image).override({"buffer_sandboxes": 0}, "test")
    with closing(Pool({"docker": backend})) as pool, pool.lease("docker", profile, holder="test") as lease:
        slot = Slot(lease, 0)
        process = slot.popen("sh", "-c", "read line", timeout=1)
        pool.pause()
        time.sleep(2.5)
        pool.resume()
        process.write("go on\n")
        assert process.wait(PATIENCE) == 0
        assert not lease.losses


def test_trees_are_refused_with_who_can(backend: DockerBackend, busybox_image: str) -> None:
    with (
        leased(backend, Profile(image=busybox_image)) as (slot, _),
        pytest.raises(UnsupportedError, match="uploads and downloads need an image with Python"),
    ):
        slot.archive()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"slots_per_sandbox": 2}, "slots_per_sandbox of .* a shell serves one slot"),
        ({"network": "outbound"}, "network of .* only an agent keeps code from what is near"),
        ({"isolation": "sandbox"}, "isolation of .* code that is root could take over"),
        ({"isolation": "sandbox", "user": "root:5"}, "isolation of .* code that is root could take over"),
        ({"isolation": "sandbox", "user": "00"}, "isolation of .* code that is root could take over"),
    ],
)
def test_what_only_an_agent_keeps_is_refused(
    backend: DockerBackend, busybox_image: str, fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"{reason}.*or use an image with Python"):
        backend.check_machine(Profile(image=busybox_image, **fields))


def test_an_image_as_it_is_with_a_user(backend: DockerBackend, busybox_image: str) -> None:
    profile = Profile(image=busybox_image, isolation="sandbox", user="1234:1234", disk=None)
    backend.check_machine(profile)
    with leased(backend, profile) as (slot, _):
        assert slot.exec("id", "-u").stdout == "1234\n"


def test_processes_of_another_container_do_not_count_even_if_its_user_is_the_same(
    backend: DockerBackend, busybox_image: str
) -> None:
    profile = Profile(image=busybox_image, isolation="sandbox", user="1234:1234", disk=None, pids=20)
    sleepers = "for child in $(seq {}); do sleep 1000 & echo $child; done; {}"
    with leased(backend, profile) as (slot, _), leased(backend, profile) as (neighbour, _):
        busy = neighbour.popen("sh", "-c", sleepers.format(18, "wait"))
        assert [busy.stdout.readline(PATIENCE) for _ in range(18)][-1] == "18\n"
        assert slot.sh(sleepers.format(18, "true")).success
        assert "fork" in slot.sh(sleepers.format(100, "true")).stderr.lower()
        assert slot.exec("echo", "usable").stdout == "usable\n"


# -- hostile shells

LIES_AT_COMMANDS = """#!/bin/busybox sh
case "$2" in
  *__ps_sign*) {lie} ;;
  *) exec /bin/busybox sh "$@" ;;
esac
"""


@pytest.mark.parametrize(
    "script",
    [
        "#!/nowhere\n",
        "#!/bin/busybox true\n",
        "#!/bin/busybox yes\n",
        "#!/bin/busybox sh\necho 1 0; sleep 100\n",
    ],
    ids=["broken", "silent", "flood", "forger"],
)
def test_a_shell_that_cannot_serve_is_refused(
    backend: DockerBackend, busybox_image: str, make_image: ImageMaker, script: str, engine: Any
) -> None:
    image = make_image(busybox_image, {"/bin/sh": script})
    with pytest.raises(
        BackendUnavailableError, match="and its /bin/sh cannot stand in: .*: use an image with Python"
    ):
        backend.check_machine(Profile(image=image))
    assert not of(engine)


@pytest.mark.parametrize(
    "lie",
    [
        "echo some words of mine",
        "exit 0",
        "/bin/busybox yes",
        'echo "$4 EXDEV program"',
        'echo "$4 started -1"',
        'echo "$4 ENOENT nothing"',
        "/bin/busybox head -c 1000 /dev/zero",
    ],
)
def test_a_shell_that_lies_about_commands_loses_its_sandbox(
    backend: DockerBackend, busybox_image: str, make_image: ImageMaker, lie: str
) -> None:
    image = make_image(busybox_image, {"/bin/sh": LIES_AT_COMMANDS.format(lie=lie)})
    with leased(backend, Profile(image=image)) as (slot, lease):
        with pytest.raises(SandboxLostError):
            slot.exec("true")
        assert lease.losses


def test_it_greets_and_ends(backend: DockerBackend, busybox_image: str, engine: Any) -> None:
    launched = backend.launch(Profile(image=busybox_image))
    launched.stream.settimeout(PATIENCE)
    ((kind, _, _),) = FrameReader().feed(launched.stream.recv(1000))
    assert kind == HELLO
    launched.stream.close()
    deadline = time.monotonic() + PATIENCE
    while of(engine):
        assert time.monotonic() < deadline, "the container outlives its connection"
        time.sleep(0.05)
    launched.end()

"""The engine and the images of `tests.engine` are what they are said to be, and it ends nothing that is not its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine import daemon, images
from tests.engine.machine import MachineError, locked, state_directory
from tests.processes import carrying
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


def output(engine: Any, image: str, script: str) -> str:
    """What a shell in a container of its own has to say."""
    said: bytes = engine.containers.run(
        image, ["sh", "-c", script], remove=True, network_mode="none", stderr=True
    )
    return said.decode()


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No image is cached, and nothing on record."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return state_directory()


class TestImages:
    def test_python(self, engine: Any, python_image: str) -> None:
        said = output(
            engine,
            python_image,
            "id -u; python3 -c 'import ssl; print(6 * 7)'; git --version | cut -d' ' -f1,2;"
            "ls /etc/ssl/certs/ca-certificates.crt; ls /var/lib/apt/lists; touch /writable && echo writable",
        )
        assert said.splitlines() == [
            "0",
            "42",
            "git version",
            "/etc/ssl/certs/ca-certificates.crt",
            "writable",
        ]

    def test_busybox(self, engine: Any, busybox_image: str) -> None:
        said = output(
            engine,
            busybox_image,
            "which python3 python perl bash git; find / -xdev -name '*libc.so*'; id; awk 'BEGIN {print 42}'",
        )
        assert said.splitlines()[-1] == "42"
        assert not any(name in said for name in ("python", "perl", "bash", "git", "libc"))
        assert output(
            engine, busybox_image, "stat -c %a /tmp; head -n 1 /etc/passwd | cut -d: -f1"
        ).split() == ["1777", "root"]

    def test_testbed_is_a_repository_with_history(self, engine: Any, testbed_image: str) -> None:
        said = output(engine, testbed_image, "pwd; id -u; git log --format=%s; git status --porcelain")
        assert said.splitlines() == ["/testbed", "0", "Test how spans are merged", "Merge spans"]

    def test_testbed_is_installed_editable(self, engine: Any, testbed_image: str) -> None:
        said = output(
            engine,
            testbed_image,
            "cd /; python3 -c 'import spans; print(spans.__file__)'; echo MARK = 42 >>/testbed/spans/__init__.py;"
            "python3 -c 'import spans; print(spans.MARK)'; cd /testbed; git status --porcelain",
        )
        assert said.splitlines() == ["/testbed/spans/__init__.py", "42", " M spans/__init__.py"]

    def test_one_test_of_the_testbed_fails_until_it_is_mended(self, engine: Any, testbed_image: str) -> None:
        said = output(
            engine,
            testbed_image,
            "python3 -m pytest -q; sed -i 's/first <= merged\\[-1\\]\\[1\\]/first <= merged[-1][1] + 1/' spans/__init__.py;"
            "python3 -m pytest -q; git diff --shortstat",
        )
        assert "FAILED tests/test_spans.py::test_touching_spans_are_merged" in said
        assert "1 failed, 1 passed" in said
        assert "2 passed" in said
        assert "1 file changed, 1 insertion(+), 1 deletion(-)" in said

    def test_what_is_there_is_not_made_again(
        self,
        engine: Any,
        python_image: str,
        busybox_image: str,
        testbed_image: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for source in images.SOURCES.values():
            monkeypatch.setattr(type(source), "make", None)
        for name in images.NAMES:
            before = engine.images.get(images.full_name(name))
            assert images.ensure(engine, name) == images.full_name(name)
            assert engine.images.get(images.full_name(name)).id == before.id
            assert before.labels[images.LABEL] in {source.digest(name) for source in images.SOURCES.values()}

    def test_an_unknown_name_is_refused(self) -> None:
        with pytest.raises(
            ValueError, match="no image 'pithon' is known; there are python, busybox, testbed"
        ):
            images.ensure(None, "pithon")


def test_every_recipe_has_a_digest_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def digests() -> set[str]:
        return {source.digest(name) for source in images.SOURCES.values() for name in images.NAMES}

    before = digests()
    assert len(before) == 6
    monkeypatch.setattr(images, "TESTBED", b"another")
    assert len(digests() & before) == 4
    monkeypatch.setattr(images, "DEBIAN", b"another")
    assert len(digests() & before) == 2


def test_a_lock_that_others_hold_is_waited_for_and_no_longer_than_said(own_state: Path) -> None:
    holds = "import sys\nfrom tests.engine.machine import locked\nwith locked('it', 5):\n print(flush=True)\n sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", holds], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout
        assert holder.stdin
        holder.stdout.readline()
        with (
            pytest.raises(MachineError, match=r"another process has held .*it\.lock for 0 s"),
            locked("it", 0.2),
        ):
            pass
        holder.kill()  # no lock survives its holder
        holder.wait()
        with locked("it", 5):
            pass


class TestStopping:
    def test_nothing_on_record(self, own_state: Path) -> None:
        assert daemon.stop(own_state) is None

    def test_a_process_that_has_got_the_same_number_lives_on(self, own_state: Path) -> None:
        with subprocess.Popen(["sleep", "1000"]) as other:
            (own_state / "dockerd.json").write_text(json.dumps([other.pid, "another run of the machine 42"]))
            assert daemon.stop(own_state) is None
            assert other.poll() is None
            assert not (own_state / "dockerd.json").exists()
            other.kill()

    def test_an_end_that_was_before(self, own_state: Path) -> None:
        with subprocess.Popen(["true"]) as gone:
            pass
        (own_state / "dockerd.json").write_text(json.dumps([gone.pid, "this run of the machine 42"]))
        assert daemon.stop(own_state) is None

    def test_a_process_on_record_is_ended_though_it_takes_its_time(
        self, own_state: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(daemon, "_END", 0.2)
        stubborn = ["sh", "-c", "trap '' TERM; echo; while :; do sleep 0.1; done"]
        with subprocess.Popen(stubborn, stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            (own_state / "dockerd.json").write_text(json.dumps([process.pid, daemon._identity(process.pid)]))
            assert daemon.stop(own_state) == process.pid
            assert process.wait(5) == -signal.SIGKILL


class TestConnecting:
    def test_nothing_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
        with pytest.raises(daemon.EngineError, match=f"^no Docker Engine answers at unix://{tmp_path}/none$"):
            daemon.connect()

    @pytest.mark.parametrize("host", ["tcp://127.0.0.1:9", "unix:///nowhere"])
    def test_where_none_can_be_started_nothing_is(
        self, own_state: Path, monkeypatch: pytest.MonkeyPatch, host: str
    ) -> None:
        monkeypatch.setenv("DOCKER_HOST", host)
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        with pytest.raises(
            daemon.EngineError, match="no Docker Engine answers at .*, and only .* start(ed)?"
        ):
            daemon.ensure(own_state, [])
        assert not (own_state / "dockerd.log").exists()


class Elsewhere:
    """A place for a dockerd of its own, and for what is on record about it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = f"unix://{directory}/socket"
        self.arguments = [
            f"--dockerd={argument}"
            for argument in (
                f"--data-root={directory}/data",
                f"--exec-root={directory}/exec",
                f"--pidfile={directory}/pid",
                "--bridge=none",
                "--iptables=false",
            )
        ]
        cache = directory / "cache" / "pytest-sandboxes-tests"
        cache.mkdir(parents=True)
        self.state = cache
        for made in state_directory().glob("debian-*"):
            (cache / made.name).symlink_to(made)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            # a dockerd without a bridge removes that of the machine's own, so it has a network to itself
            ["unshare", "--net", sys.executable, "-m", "tests.engine", *arguments],
            cwd=ROOT,
            env={**os.environ, "DOCKER_HOST": self.address, "XDG_CACHE_HOME": str(self.directory / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> str:
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        return said

    def processes(self) -> set[int]:
        """The dockerd, and what it has started that names the place in turn."""
        return carrying(str(self.directory / "exec"), "cmdline")


@pytest.fixture
def elsewhere(engine: Any, testbed_image: str) -> Iterator[Elsewhere]:
    """No engine yet; the packages for the images are cached."""
    if os.geteuid():
        pytest.skip("only root can start dockerd")
    if not shutil.which("dockerd"):
        pytest.skip("no dockerd is installed")
    # of pytest's own temporary directories the last ones stay, and an engine's data is large
    with tempfile.TemporaryDirectory(prefix="engine-") as directory:
        place = Elsewhere(Path(directory))
        try:
            yield place
        finally:
            place.run("stop")


def test_an_engine_is_started_gets_its_images_and_is_ended(engine: Any, elsewhere: Elsewhere) -> None:
    both = [elsewhere.start("start", *elsewhere.arguments) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("It was started for the tests" in each for each in said) == [False, True], said
    for name in images.NAMES:
        assert sum(f"Making {images.full_name(name)} " in each for each in said) == 1, said
    assert f"To end it: python -m tests.engine --state {elsewhere.state} stop" in "".join(said)

    again = elsewhere.run("start", *elsewhere.arguments)
    assert "Making" not in again
    assert "started" not in again

    assert elsewhere.processes()
    assert "has ended" in elsewhere.run("stop")
    wait_until(lambda: not elsewhere.processes(), "the end of what dockerd has started")
    assert "No dockerd runs that was started" in elsewhere.run("stop")
    assert engine.ping()


def test_a_dockerd_that_does_not_start_says_why(elsewhere: Elsewhere) -> None:
    process = elsewhere.start("start", *elsewhere.arguments, "--dockerd=--none-such")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "dockerd has ended with " in said
    assert "unknown flag: --none-such" in said
    assert not elsewhere.processes()

"""`setup`: run before anybody leases the sandbox, once where that can be kept, and never mistaken for a verdict."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_sandboxes.backends.docker import building
from tests.integration.conftest import Inner

TRIVIAL = "def test_it(sandbox): assert sandbox.exec('true').success\n"


def profile(inner: Inner, *commands: str, **fields: object) -> None:
    inner.write(
        "sandboxes.yaml",
        json.dumps({"profiles": {"default": {"setup": commands, "buffer_sandboxes": 0, **fields}}}),
    )


class TestLocal:
    @pytest.mark.parametrize("isolation", ["slot", "none"])
    def test_runs_in_each_sandbox_in_order(self, inner: Inner, isolation: str) -> None:
        profile(inner, "echo $WHO > made", "cat made made > twice; touch ~/in-home", env_vars={"WHO": "me"})
        inner.write(
            "test_it.py",
            """
            import pytest

            @pytest.mark.parametrize("number", range(2))
            def test_it(sandbox, number):
                assert sandbox.read_text("twice") == "me\\nme\\n"
                assert sandbox.sh("test -e ~/in-home").success
                sandbox.write_text("twice", "changed")
                sandbox.reset()
                assert sandbox.read_text("twice") == "me\\nme\\n"
            """,
        )
        assert inner.run(f"--sandbox-isolation={isolation}").counts == {"passed": 2}

    def test_gets_no_secrets_and_leaves_no_process(
        self, inner: Inner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("API_KEY", "hunter2")
        profile(inner, "echo has ${API_KEY:-none} > key; setsid sleep 1000 &", secrets=["API_KEY"])
        inner.write(
            "test_it.py",
            """
            def test_it(sandbox):
                assert sandbox.read_text("key") == "has none\\n"
                assert "sleep" not in sandbox.sh("cat /proc/[0-9]*/comm").stdout
            """,
        )
        assert inner.run().counts == {"passed": 1}

    @pytest.mark.parametrize(
        ("command", "fields", "complaint"),
        [
            (
                "echo first; echo '\x1b[31m::error::x' >&2; exit 3",
                {},
                "setup of profile 'default': echo first; .* ended with return code 3; correct it. Its last lines:",
            ),
            ("sleep 1000", {"acquire_timeout_s": 2.0}, "sleep 1000 was not done when setup had taken 2 s"),
        ],
    )
    def test_a_failure_is_no_verdict(
        self, inner: Inner, command: str, fields: dict[str, object], complaint: str
    ) -> None:
        profile(inner, "true", command, **fields)
        inner.write("test_it.py", TRIVIAL)
        ran = inner.run("--sandbox-infra-retries=0")
        assert ran.counts == {"errors": 1}
        ran.result.stdout.re_match_lines([f".*SetupFailedError: sandboxes.yaml:1: .*{complaint}"])
        assert "\x1b[31m:" not in ran.stdout
        assert "\n::error" not in ran.stdout

    def test_an_interrupted_run_does_not_wait_for_it(self, inner: Inner) -> None:
        profile(inner, "sleep 1000")
        inner.write("test_it.py", TRIVIAL)
        run = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v"],
            cwd=inner.path,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert run.stdout is not None
            for line in run.stdout:
                if "collected 1 item" in line:
                    break
            _wait_for_sleep(run.pid)
            run.send_signal(signal.SIGINT)
            run.communicate(timeout=30)
        finally:
            run.kill()
            run.wait()
        assert run.returncode == pytest.ExitCode.INTERRUPTED


def _wait_for_sleep(pid: int) -> None:
    """Until a process below `pid` sleeps."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        parents = {}
        names = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            except OSError:
                continue
            parents[int(path.parent.name)], names[int(path.parent.name)] = int(rest.split()[1]), name
        below = {pid}
        for _ in range(8):
            below |= {child for child, parent in parents.items() if parent in below}
        if any(names[each] == "sleep" for each in below if each in names):
            return
        time.sleep(0.02)
    raise AssertionError("setup has not begun")


class _Images:
    """Those that the Engine has got from a `setup` that made a file, which are removed after the test."""

    def __init__(self, engine: Any) -> None:
        self.path = f"/tmp/mark-{uuid.uuid4().hex}"
        self._api = engine.api
        self._before = self._all()

    def _all(self) -> set[str]:
        return {image["Id"] for image in self._api.images(filters={"label": building._DIGEST})}

    def made(self) -> list[Any]:
        """What the Engine says of each."""
        new = self._all() - self._before  # other tests make some, too
        return [self._api.inspect_image(image) for image in new if self._has_file(image)]

    def _has_file(self, image: str) -> bool:
        import docker

        try:
            container = self._api.create_container(image, entrypoint=["none"])["Id"]
        except docker.errors.ImageNotFound:
            return False
        try:
            self._api.get_archive(container, self.path)
        except docker.errors.NotFound:
            return False
        else:
            return True
        finally:
            self._api.remove_container(container)


@pytest.fixture
def images(engine: Any) -> Iterator[_Images]:
    images = _Images(engine)
    yield images
    for image in images.made():
        engine.api.remove_image(image["Id"], force=True)


class TestDocker:
    @pytest.fixture(autouse=True)
    def on_docker(self, inner: Inner, engine: Any) -> None:
        inner.write("pytest.ini", "[pytest]\nsandbox_backend = docker\n")

    def test_is_kept_as_an_image_and_has_no_secrets(
        self, inner: Inner, engine: Any, python_image: str, monkeypatch: pytest.MonkeyPatch, images: _Images
    ) -> None:
        monkeypatch.setenv("API_KEY", secret := f"secret-{uuid.uuid4().hex}")
        commands = (
            f"id -u > {images.path}; echo ${{API_KEY:-none}} >> {images.path}",
            "cat /proc/sys/kernel/random/uuid > /opt/unique; ls /sys/class/net > /opt/networks",
        )
        profile(
            inner,
            f"mkdir /opt/empty; touch {images.path}",
            *commands,
            image=python_image,
            secrets=["API_KEY"],
        )
        inner.write(
            "test_it.py",
            f"""
            from pathlib import Path

            def test_it(sandbox):
                # /tmp is the slot's own
                assert not sandbox.sh("test -e {images.path}").success
                assert sandbox.read_text("/opt/networks") == "lo\\n"
                assert sandbox.exec("printenv", "API_KEY").stdout == "{secret}\\n"
                assert sandbox.exec("id", "-u").stdout != "0\\n"
                assert not sandbox.sh("echo > /opt/networks").success
                Path("unique").open("a").write(sandbox.read_text("/opt/unique"))
            """,
        )
        first = inner.run_apart("-v")
        assert first.counts == {"passed": 1}, first.stdout
        assert "setting up image" in first.stdout
        again = inner.run_apart("-v", "-n", "2")
        assert again.counts == {"passed": 1}
        assert "setting up image" not in again.stdout
        one, other = (inner.path / "unique").read_text().split()
        assert one == other  # it has been run once
        (image,) = images.made()
        assert secret not in repr((image, engine.api.history(image["Id"])))
        assert not any(
            image["Config"]["Labels"].get(f"pytest-sandboxes.{name}") for name in ("run", "process")
        )
        assert image["RepoTags"][0].startswith(f"{building.REPOSITORY}:")
        said = engine.containers.run(image["Id"], [images.path], entrypoint=["cat"], remove=True)
        assert said == b"0\nnone\n"

    def test_as_the_user_of_an_image_as_it_is(
        self, inner: Inner, testbed_image: str, images: _Images
    ) -> None:
        profile(
            inner,
            f"pwd > {images.path}; id -un >> {images.path}",
            image=testbed_image,
            isolation="sandbox",
        )
        inner.write(
            "test_it.py",
            f"""
            def test_it(sandbox):
                assert sandbox.read_text("{images.path}") == sandbox.sh("pwd; id -un").stdout
            """,
        )
        assert inner.run_apart().counts == {"passed": 1}
        assert len(images.made()) == 1

    def test_a_failure_ends_the_run_before_the_first_test(self, inner: Inner, python_image: str) -> None:
        profile(inner, "echo one", "echo two; exit 7", image=python_image)
        inner.write("test_it.py", TRIVIAL)
        ran = inner.run_apart()
        assert ran.exit_code == pytest.ExitCode.USAGE_ERROR
        assert ran.stderr.strip() == (
            "ERROR: sandboxes.yaml:1: setup of profile 'default': echo two; exit 7 ended with return code 7; correct it. "
            "Its last lines:\n| two"
        )

    def test_a_shell_runs_none(
        self, inner: Inner, busybox_image: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(
            "_PYTHON_HOST_PLATFORM", "macosx-14.0-arm64"
        )  # what runs here cannot be carried there
        profile(inner, "true", image=busybox_image)
        inner.write("test_it.py", TRIVIAL)
        ran = inner.run_apart()
        assert ran.exit_code == pytest.ExitCode.USAGE_ERROR
        assert "sandboxes.yaml:1: setup of profile 'default' cannot be ('true',) in image" in ran.stderr

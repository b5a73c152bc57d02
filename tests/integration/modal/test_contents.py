"""What images and workspaces have in them: what `setup` has made, and what `workspace_source` says."""

from __future__ import annotations

import json

import pytest

from tests.emulators.modal.control import Control
from tests.integration.conftest import Inner
from tests.integration.modal.conftest import Start
from tests.integration.test_workspace_source import LEFT_OUT, project

MODAL = "--sandbox-backend=modal"


def write_profile(inner: Inner, **fields: object) -> None:
    profile = {"buffer_sandboxes": 0, "max_sandboxes": 1, **fields}
    inner.write("sandboxes.yaml", json.dumps({"profiles": {"default": profile}}))


def test_setup_is_a_part_of_the_image(start: Start, inner: Inner, python_image: str) -> None:
    """Its commands may have several lines, quotes and whatever else a step of a build would take for its own."""
    emulator = start(mode="docker")
    write_profile(
        inner,
        image=python_image,
        env_vars={"GIVEN": "it's $HOME\\n"},
        secrets=[],
        workspace_source="/opt/task",
        setup=[
            'mkdir -p /opt/task/deep && printf %s "$GIVEN" >/opt/task/given',
            "cat >/opt/task/deep/file <<END\nRUN 'one' \\\nFROM \"two\"\nEND\nmkdir -m 777 /opt/open",
        ],
    )
    inner.write(
        "test_it.py",
        """
        import pytest

        @pytest.mark.parametrize("number", range(2))
        def test_it(sandbox, number):
            assert sandbox.read_text("given") == "it's $HOME\\\\n"
            assert sandbox.read_text("deep/file") == "RUN 'one' FROM \\"two\\"\\n"
            assert sandbox.sh("stat -c %u given deep/file | sort -u; id -u").stdout.split() == [
                sandbox.sh("id -u").stdout.strip()] * 2
            assert not sandbox.sh("echo x >/opt/task/given").success
            assert not sandbox.sh("echo x >/opt/open/left").success, "one lease could leave it to the next"
            sandbox.sh("rm -rf given; echo changed >deep/file")
            sandbox.reset()
            assert sandbox.read_text("given")
            sandbox.sh("rm -rf given; echo changed >deep/file")
        """,
    )
    run = inner.run(MODAL)
    assert run.counts == {"passed": 2}, run.stdout
    assert len(emulator.events("sandbox_created")) == 2, "one to explore the image, one for both"


def test_setup_that_fails_ends_the_run(start: Start, inner: Inner, python_image: str) -> None:
    start(mode="docker")
    write_profile(inner, image=python_image, setup=["echo almost; exit 3"])
    inner.write("test_it.py", "def test_it(sandbox): pass")
    run = inner.run(MODAL)
    assert run.exit_code == 4, run.stdout
    assert f"ERROR: backend modal: image {python_image}, set up cannot be built: " in run.stderr
    assert "almost" in run.stderr
    assert "Traceback" not in run.stderr + run.stdout


def test_workspaces_have_the_projects_files(start: Start, inner: Inner, python_image: str) -> None:
    emulator = start(mode="docker")
    project(inner, image=python_image, max_sandboxes=1)
    run = inner.run(MODAL)
    assert run.counts == {"passed": 3}, run.stdout
    assert run.stdout.count(LEFT_OUT) == 1
    assert len(emulator.events("sandbox_created")) == 2


def test_a_directory_that_the_image_does_not_have(emulator: Control, inner: Inner) -> None:
    write_profile(inner, workspace_source="/no/such\nplace")
    inner.write("test_it.py", "def test_it(sandbox): pass")
    run = inner.run(MODAL)
    assert run.exit_code == 4, run.stdout
    assert (
        "ERROR: sandboxes.yaml:1: workspace_source of profile 'default' is '/no/such\\nplace', but image debian_slim "
        "with Python 3.13 has no such directory: correct the path, or name another image"
    ) in run.stderr
    assert emulator.running() == []


@pytest.mark.parametrize("place", ["/workspace/data", "/"])
def test_a_directory_that_workspaces_would_hide(inner: Inner, place: str) -> None:
    write_profile(inner, workspace_source=place)
    inner.write("test_it.py", "def test_it(sandbox): pass")
    run = inner.run(MODAL)
    assert run.exit_code == 4
    assert (
        "the workspaces of its slots are at /workspace, and would hide it, or hold themselves" in run.stderr
    )

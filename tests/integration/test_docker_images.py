"""Backend docker on images whose Python cannot run the agent, or that have none: another one is carried there."""

from __future__ import annotations

import sysconfig
from typing import Any

import pytest

from tests.integration.conftest import Inner
from tests.integration.docker_images import NO_INTERPRETER, PYTHON, ImageMaker, profiles, volumes

pytest.importorskip("docker", reason="the docker SDK is not installed")

PRETENDS = """#!/bin/sh
exec /usr/bin/python3 -I -S -c '
import sys
{change}
program = sys.argv[sys.argv.index("-c") + 1]
exec(program, {{"__name__": "__main__"}})
' "$@"
"""
TOO_OLD = PRETENDS.format(change='sys.version_info = (3, 6, 15, "final", 0)')
INCOMPLETE = PRETENDS.format(change='sys.modules["_ctypes"] = None')
CHATTY = "#!/bin/sh\necho this is not Python\n"
WORKS = """
import io
import tarfile
import zipfile

import pytest

@pytest.fixture(params={profiles!r})
def slot(request, sandbox_factory):
    with sandbox_factory(profile=request.param) as slot:
        yield slot

def test_commands(slot):
    assert slot.exec("cat", input="words").stdout == "words"
    assert slot.sh("exit 3").returncode == 3
    with pytest.raises(TimeoutError, match="still running after 0.2 s"):
        slot.sh("sleep 1000 & sleep 1000", timeout=0.2)
    process = slot.popen("sh", "-c", "read line; echo got $line")
    process.write("it\\n")
    assert process.stdout.readline(30) == "got it\\n"

def test_files(slot, tmp_path):
    slot.write_text("folder/file", "content")
    assert slot.read_text("folder/file") == "content"
    assert slot.list_files("folder", recursive=True, sha256=True)
    slot.download("folder", tmp_path / "folder")
    assert (tmp_path / "folder/file").read_text() == "content"
    for kind in ("tar", "tar.gz"):
        with tarfile.open(fileobj=io.BytesIO(slot.archive("folder", format=kind))) as archive:
            assert "file" in archive.getnames()
    assert "file" in zipfile.ZipFile(io.BytesIO(slot.archive("folder", format="zip"))).namelist()

def test_commands_see_nothing_of_the_carried_one(slot):
    said = slot.sh("env; cat /proc/self/cmdline /proc/self/maps; echo $PATH; ls -l /proc/self/fd").stdout
    assert "pytest-sandboxes" not in said and "LD_" not in said and "PYTHON" not in said, said
"""


def test_an_image_with_nothing_but_a_shell(inner: Inner, busybox_image: str, engine: Any) -> None:
    profiles(inner, slots=busybox_image, of_sandboxes=busybox_image)
    inner.write("test_it.py", WORKS.format(profiles=["slots", "of_sandboxes"]))
    run = inner.run("--sandbox-profile=slots")
    assert run.counts == {"passed": 6}, run.stdout
    assert not volumes(engine), "left behind"


CHANGES = """
import pytest

@pytest.mark.parametrize("profile", ["slots", "of_sandboxes"])
def test_it_can_be_changed_by_nobody(sandbox_factory, profile):
    with sandbox_factory(profile=profile) as slot:
        assert slot.sh("id -u").stdout == "0\\n" or profile == "slots"
        files = slot.sh("find /.pytest-sandboxes").stdout.split()
        assert len(files) > 20
        slot.write_text("change", CHANGE)
        for file in files:
            result = slot.exec("sh", "change", file)
            assert (result.returncode, result.stdout) == (0, ""), result
        assert slot.sh("find /.pytest-sandboxes").stdout.split() == files

CHANGE = '''
attempt() { "$@" 2>/dev/null && echo "possible: $*"; }
attempt rm -rf "$1"
attempt mv "$1" "$1.moved"
attempt touch "$1"
attempt touch "$1/new"
attempt chmod 777 "$1"
attempt chown 1000 "$1"
attempt ln -s /tmp "$1/link"
attempt dd if=/dev/zero of="$1" bs=1 count=1 conv=notrunc
attempt mount -o remount,rw /.pytest-sandboxes
attempt mount -t tmpfs none "$1"
attempt umount /.pytest-sandboxes
true
'''
"""


def test_a_carried_one_can_be_changed_by_nobody(inner: Inner, busybox_image: str) -> None:
    profiles(inner, slots=busybox_image, of_sandboxes=busybox_image)
    inner.write("test_it.py", CHANGES)
    run = inner.run("--sandbox-profile=slots")
    assert run.counts == {"passed": 2}, run.stdout


@pytest.mark.parametrize(
    "script", [TOO_OLD, INCOMPLETE, NO_INTERPRETER, CHATTY], ids=["old", "incomplete", "broken", "no python"]
)
def test_a_python_that_cannot_run_the_agent_is_for_code_only(
    inner: Inner, testbed_image: str, make_image: ImageMaker, script: str
) -> None:
    image = make_image(testbed_image, {PYTHON: script})
    profiles(inner, slots=image, of_sandboxes=image)
    checks = """
def test_code_has_the_images_own(slot):
    assert slot.sh("command -v python3").stdout == "/usr/local/bin/python3\\n"
    assert slot.read_text("/usr/local/bin/python3") == {script!r}

def test_the_repository(sandbox_factory):
    with sandbox_factory(profile="of_sandboxes") as slot:
        assert slot.workspace == "/testbed"
        tests = slot.exec("/usr/bin/python3", "-m", "pytest", "-q")
        assert (tests.returncode, "1 failed, 1 passed" in tests.stdout) == (1, True), tests
"""
    inner.write("test_it.py", WORKS.format(profiles=["slots", "of_sandboxes"]) + checks.format(script=script))
    run = inner.run("--sandbox-profile=slots")
    assert run.counts == {"passed": 9}, run.stdout


def test_variables_and_files_of_an_image_do_not_lead_a_carried_one_astray(
    inner: Inner, busybox_image: str, make_image: ImageMaker
) -> None:
    variables = (
        "LD_LIBRARY_PATH=/lib",
        "LD_PRELOAD=/lib/libc.so.6",
        "PYTHONHOME=/nowhere",
        "PYTHONPATH=/lib",
        "PYTHONSTARTUP=/lib/sitecustomize.py",
        "LC_ALL=nonsense",
        "PATH=/bin",
    )
    files = {
        "/lib/libc.so.6": "no library",
        "/lib/libz.so.1": "no library",
        "/lib/os.py": "raise SystemExit('the wrong one')",
        "/lib/sitecustomize.py": "raise SystemExit('the wrong one')",
        "/etc/ld.so.preload": "/lib/libz.so.1",
        "/etc/ld.so.cache": "nonsense",
        "/bin/pybuilddir.txt": "nonsense",
        "/pyvenv.cfg": "home = /nowhere",
    }
    image = make_image(busybox_image, files, *variables)
    profiles(inner, slots=image, of_sandboxes=image)
    checks = """
def test_code_has_the_images_variables(slot):
    assert set(slot.sh("env").stdout.splitlines()) >= set({variables!r})
"""
    suite = WORKS.partition("def test_commands_see_nothing")[0] + checks
    inner.write("test_it.py", suite.format(profiles=["slots", "of_sandboxes"], variables=variables))
    run = inner.run("--sandbox-profile=slots")
    assert run.counts == {"passed": 6}, run.stdout


def test_a_python_that_can_is_used(inner: Inner, python_image: str) -> None:
    profiles(inner, slots=python_image)
    inner.write(
        "test_it.py",
        "from tests.integration.docker_images import volumes\n"
        "def test_it(sandbox, engine):\n"
        "    assert not volumes(engine)\n"
        "    assert not sandbox.sh('test -e /.pytest-sandboxes').success\n",
    )
    inner.write("conftest.py", "from tests.conftest import engine as engine\n")
    assert inner.run("--sandbox-profile=slots").counts == {"passed": 1}


def test_where_none_can_be_carried_the_shell_serves_and_the_run_says_why(
    inner: Inner, busybox_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_platform", lambda: "macosx-14.0-arm64")
    profiles(inner, slots=busybox_image)
    inner.write("test_it.py", "def test_it(sandbox):\n    pass\n")
    run = inner.run("--sandbox-profile=slots")
    assert run.counts == {"passed": 1}
    sentence = (
        f"sandboxes: profile slots: its sandboxes are served by the sh of image {busybox_image}, because no agent can "
        "run there: it has no python3 on its PATH that can be started; and the Python that runs pytest cannot be "
        "carried there: it is for macosx-14.0-arm64, and not for linux-.*"
    )
    run.result.stdout.re_match_lines([sentence])

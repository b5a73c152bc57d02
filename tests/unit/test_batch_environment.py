"""Wheels of what is installed, and environments made of them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest

import pytest_sandboxes
from pytest_sandboxes.batch import bootstrap, environment
from pytest_sandboxes.batch.environment import of_this_process, of_wheelhouse
from pytest_sandboxes.batch.wheels import CannotPackError, editable_paths, forget_old, pack, pack_once
from pytest_sandboxes.errors import ConfigurationError

NEEDED: tuple[str, ...] = ("pytest", "pluggy", "iniconfig", "packaging", "pyyaml", "msgspec")
if pytest.version_tuple >= (8, 4):
    NEEDED += ("pygments",)


@pytest.fixture
def wheelhouse(tmp_path: Path, kept_wheels: Path) -> Path:
    folder = tmp_path / "wheel house"
    folder.mkdir()
    for name in NEEDED:
        wheel = pack_once(distribution(name), kept_wheels)
        shutil.copy(wheel, folder / wheel.name)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    return folder


def install(place: Path, files: dict[str, str], *, url: dict[str, object] | None = None) -> Distribution:
    """Files as an installer leaves them, of distribution `own` 1.0."""
    site = place / "site-packages"
    information = {
        "METADATA": "Metadata-Version: 2.1\nName: own\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "entry_points.txt": "[console_scripts]\nown = own:main\n",
        **({} if url is None else {"direct_url.json": json.dumps(url)}),
    }
    files = files | {f"own-1.0.dist-info/{name}": text for name, text in information.items()}
    names = [*files, "own-1.0.dist-info/RECORD", "own/__pycache__/own.pyc"]
    for name, text in {**files, "own-1.0.dist-info/RECORD": "".join(f"{each},,\n" for each in names)}.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Distribution.at(site / "own-1.0.dist-info")


def test_what_is_installed_can_be_installed_elsewhere(tmp_path: Path, folder: Path) -> None:
    found = install(
        tmp_path,
        {
            "own/__init__.py": "def main(): print('it runs', __file__)\n",
            "../bin/own": "generated",
            "../bin/tool": "#!python\nprint('a tool')\n",
            "../share/own/data": "data",
        },
    )
    wheel = pack(found, folder)
    assert wheel.name == "own-1.0-py3-none-any.whl"
    assert pack(found, folder).read_bytes() == wheel.read_bytes()
    there = tmp_path / "there"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", there], check=True, timeout=60)
    bootstrap.install(wheel, there, there)
    assert not list(there.rglob("own/__pycache__"))
    ran = [
        subprocess.run([there / "bin" / name], capture_output=True, text=True, check=True, timeout=60).stdout
        for name in ("own", "tool")
    ]
    assert ran[0].startswith(f"it runs {there}")
    assert ran[1] == "a tool\n"
    assert (there / "share/own/data").read_text() == "data"


def test_a_wheel_is_packed_once_until_its_files_change(tmp_path: Path, folder: Path) -> None:
    found = install(tmp_path, {"own/__init__.py": "first"})
    first = pack_once(found, folder)
    inode = first.stat().st_ino
    assert pack_once(found, folder).stat().st_ino == inode
    source = tmp_path / "site-packages/own/__init__.py"
    source.write_text("later")
    os.utime(source, ns=(1, 1))
    later = pack_once(found, folder)
    with zipfile.ZipFile(later) as wheel:
        assert wheel.read("own/__init__.py") == b"later"
    os.utime(first.parent, (1, 1))
    forget_old(folder)
    assert [each for each in folder.rglob("*") if each.is_file()] == [later]


def test_a_wheel_writes_nothing_outside_of_its_environment(tmp_path: Path) -> None:
    wheel = tmp_path / "evil-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("../../../../out", "x")
    there = tmp_path / "a" / "there"
    with pytest.raises(bootstrap.Refused, match="would write '../../../../out' outside"):
        bootstrap.install(wheel, there, there)
    assert not (tmp_path / "out").exists()


def test_this_plugin_travels_as_it_is_imported(folder: Path) -> None:
    with zipfile.ZipFile(pack(distribution("pytest-sandboxes"), folder)) as wheel:
        names = set(wheel.namelist())
        source = Path(pytest_sandboxes.__file__).parent / "batch" / "shard.py"
        assert wheel.read("pytest_sandboxes/batch/shard.py") == source.read_bytes()
    assert "pytest_sandboxes/py.typed" in names
    assert not [name for name in names if name.endswith((".pth", ".pyc"))]


@pytest.mark.parametrize(
    "files",
    [
        {"_own.pth": "import something\n{project}/src\n"},
        {"__editable___own_1_0_finder.py": "MAPPING: dict[str, str] = {{'own': '{project}/src/own'}}\n"},
    ],
    ids=["path", "finder"],
)
def test_what_is_editable_travels_with_the_project(
    tmp_path: Path, folder: Path, kept_wheels: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]
) -> None:
    project = tmp_path / "project"
    found = install(
        tmp_path,
        {name: text.format(project=project) for name, text in files.items()},
        url={"url": "file:///", "dir_info": {"editable": True}},
    )
    assert editable_paths(found) == [project / "src"]
    monkeypatch.setattr(
        environment, "_installed", lambda: [found, *map(distribution, (*NEEDED, "pytest-sandboxes"))]
    )
    inside = of_this_process(project, folder, kept_wheels)
    assert (inside.python_path, inside.notes) == ((project / "src",), ())
    outside = of_this_process(tmp_path / "other", folder, kept_wheels)
    assert outside.wheels == inside.wheels - 1
    assert "own is left out: it is installed in editable mode from" in outside.notes[0]


def test_what_has_no_list_of_its_files_is_left_out_and_named(
    tmp_path: Path, folder: Path, kept_wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = install(tmp_path, {})
    (tmp_path / "site-packages/own-1.0.dist-info/RECORD").unlink()
    with pytest.raises(CannotPackError):
        pack(found, folder)
    monkeypatch.setattr(
        environment, "_installed", lambda: [found, *map(distribution, (*NEEDED, "pytest-sandboxes"))]
    )
    assert of_this_process(tmp_path, folder, kept_wheels).notes == (
        "left out: own 1.0 was installed without a list of its files",
    )


def test_an_environment_that_lacks_what_pytest_needs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_installed", lambda: [distribution("pytest-sandboxes")])
    with pytest.raises(
        ConfigurationError, match=r"lacks pytest, which batch mode needs: python -m pip install pytest"
    ):
        of_this_process(folder, folder)


def test_a_wheelhouse_is_complete_with_this_plugin(wheelhouse: Path, folder: Path) -> None:
    found = of_wheelhouse(wheelhouse, "--sandbox-wheelhouse", folder)
    assert found.wheels == len(NEEDED) + 1
    assert of_wheelhouse(wheelhouse, "--sandbox-wheelhouse", folder).archive.sha256 == found.archive.sha256


def test_a_wheelhouse_that_lacks_a_dependency(wheelhouse: Path, folder: Path) -> None:
    next(wheelhouse.glob("pluggy*")).unlink()
    with pytest.raises(ConfigurationError) as caught:
        of_wheelhouse(wheelhouse, "ini option sandbox_wheelhouse in pytest.ini", folder)
    message = str(caught.value)
    assert message.startswith(f"ini option sandbox_wheelhouse in pytest.ini is {wheelhouse} and lacks pluggy")
    assert f"python -m pip download --dest '{wheelhouse}' 'pluggy" in message


@pytest.mark.parametrize(
    ("backends", "workers", "lacking"),
    [
        (["docker"], 0, "docker>=7.1, which backend docker needs"),
        (["local", "modal"], 0, "modal>=1.6, which backend modal needs"),
        (["local"], 2, "pytest-xdist, which -n needs"),
    ],
    ids=["docker", "modal", "xdist"],
)
def test_a_wheelhouse_that_lacks_what_the_inside_of_a_shard_needs(
    wheelhouse: Path, folder: Path, backends: list[str], workers: int, lacking: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        of_wheelhouse(wheelhouse, "--sandbox-wheelhouse", folder, environment.needs(backends, workers))
    what = lacking.partition(",")[0]
    command = f"python -m pip download --dest '{wheelhouse}' {shlex.quote(what)}"
    assert str(caught.value) == f"--sandbox-wheelhouse is {wheelhouse} and lacks {lacking}: {command}"


def test_a_wheelhouse_for_tests_without_an_sdk(wheelhouse: Path, folder: Path) -> None:
    of_wheelhouse(wheelhouse, "--sandbox-wheelhouse", folder, environment.needs(["local", "my-own"], 0))


def test_what_an_sdk_needs_itself_has_to_be_there(wheelhouse: Path, folder: Path, kept_wheels: Path) -> None:
    wheel = pack_once(distribution("docker"), kept_wheels)
    shutil.copy(wheel, wheelhouse / wheel.name)
    with pytest.raises(
        ConfigurationError, match=r"lacks (requests|urllib3)>=\S+, which docker needs: python"
    ):
        of_wheelhouse(wheelhouse, "--sandbox-wheelhouse", folder, environment.needs(["docker"], 0))


def test_a_wheelhouse_with_another_pytest(wheelhouse: Path, folder: Path) -> None:
    wheel = next(wheelhouse.glob("pytest-*"))
    wheel.rename(wheel.with_name(wheel.name.replace(pytest.__version__, "999.0")))
    with pytest.raises(
        ConfigurationError, match=r"where pytest is 999\.0, and here it is .*: python -m pip download"
    ):
        of_wheelhouse(wheelhouse, "--sandbox-wheelhouse", folder)


def test_of_several_wheels_the_newest_that_fits(wheelhouse: Path, folder: Path) -> None:
    for name in ("own-1.0-py3-none-any.whl", "own-2.0-py3-none-any.whl", "own-3.0-cp30-none-any.whl"):
        with zipfile.ZipFile(wheelhouse / name, "w") as wheel:
            wheel.writestr("own/__init__.py", "")
    found = of_wheelhouse(wheelhouse, "--sandbox-wheelhouse", folder)
    there = folder / "there"
    bootstrap.unpack(found.archive.path, there)
    assert [each.name for each in there.glob("own-*")] == ["own-2.0-py3-none-any.whl"]


@pytest.mark.parametrize(
    ("name", "complaint"), [("nowhere", "cannot be read"), ("bad", "no name of a wheel")]
)
def test_what_is_no_wheelhouse(tmp_path: Path, folder: Path, name: str, complaint: str) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "thing.whl").write_text("")
    with pytest.raises(ConfigurationError, match=complaint):
        of_wheelhouse(tmp_path / name, "--sandbox-wheelhouse", folder)

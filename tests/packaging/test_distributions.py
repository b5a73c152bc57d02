"""The wheel and the sdist hold all that a user needs, and nothing depends on the source tree."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGE = "pytest_sandboxes"


def build(kind: str, project: Path, destination: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", destination],
        cwd=project,
        check=True,
        timeout=120,
    )
    (built,) = destination.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build("wheel", PROJECT, tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def unpacked_sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = build("sdist", PROJECT, tmp_path_factory.mktemp("sdist"))
    folder = tmp_path_factory.mktemp("unpacked")
    # not by `tarfile`, which wants a filter from 3.12 on and knows none before 3.11.4
    subprocess.run(["tar", "--extract", "--file", archive, "--directory", folder], check=True, timeout=60)
    (root,) = folder.iterdir()
    return root


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = [path for path in wheel.namelist() if path.endswith(f".dist-info/{name}")]
    return wheel.read(path).decode()


def headers(wheel: zipfile.ZipFile) -> Message:
    return Parser().parsestr(metadata(wheel, "METADATA"))


def contents(wheel: zipfile.ZipFile) -> dict[str, bytes]:
    return {name: wheel.read(name) for name in wheel.namelist() if name.startswith(f"{PACKAGE}/")}


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel: zipfile.ZipFile) -> None:
    sources = {
        path.relative_to(PROJECT).as_posix(): path.read_bytes()
        for path in (PROJECT / PACKAGE).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert contents(wheel) == sources
    assert f"{PACKAGE}/py.typed" in sources
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {PACKAGE}


def test_the_wheel_is_a_pytest_plugin(wheel: zipfile.ZipFile) -> None:
    entry_points = configparser.ConfigParser()
    entry_points.read_string(metadata(wheel, "entry_points.txt"))
    assert dict(entry_points["pytest11"]) == {"sandboxes": f"{PACKAGE}.plugin"}
    assert "Framework :: Pytest" in headers(wheel).get_all("Classifier", [])


def test_the_wheel_says_what_it_needs(wheel: zipfile.ZipFile) -> None:
    said = headers(wheel)
    assert said["Requires-Python"] == ">=3.11"
    assert said["License-Expression"] == "MIT"
    assert "MIT License" in metadata(wheel, "licenses/LICENSE")
    assert {"local", "docker", "modal", "gcp", "xdist", "all"} < set(said.get_all("Provides-Extra", []))
    required = {need.split(">=")[0] for need in said.get_all("Requires-Dist", []) if "extra ==" not in need}
    assert required == {"pytest", "pluggy", "pyyaml", "msgspec", "packaging"}


def test_an_unpacked_wheel_starts_sandboxes(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """The agent's source comes out of the package itself, wherever that is."""
    wheel.extractall(tmp_path)
    script = (
        f"import {PACKAGE} as package; print(package.__file__)\n"
        "with package.get_backend('local').create_sandbox() as sandbox:\n"
        "    print(sandbox.exec('echo', 'alive', check=True).stdout, end='')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.stdout == f"{tmp_path}/{PACKAGE}/__init__.py\nalive\n", ran.stderr


def test_the_sdist_makes_the_same_wheel(wheel: zipfile.ZipFile, unpacked_sdist: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(build("wheel", unpacked_sdist, tmp_path)) as again:
        assert contents(again) == contents(wheel)


@pytest.mark.parametrize("folder", ["tests", "example_suites"])
def test_the_sdist_holds_what_the_readme_speaks_of(unpacked_sdist: Path, folder: str) -> None:
    def names(root: Path) -> set[str]:
        files = {path.relative_to(root) for path in (root / folder).rglob("*") if path.is_file()}
        return {
            file.as_posix()
            for file in files
            if not any(
                part == "__pycache__" or part.startswith(".") for part in file.parts
            )  # what tools leave
        }

    assert names(unpacked_sdist) == names(PROJECT)
    for name in ("README.md", "CHANGELOG.md", "LICENSE", "conftest.py", "tox.ini", ".ci/run"):
        assert (unpacked_sdist / name).read_bytes() == (PROJECT / name).read_bytes()

"""Wheels of what is installed here: what an environment elsewhere is made of, without network or build."""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath

import pytest_sandboxes
from pytest_sandboxes.errors import ConfigurationError

OWN = "pytest-sandboxes"
_LEFT_OUT = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"})
_KEPT_SECONDS = 14 * 24 * 3600.0
_EPOCH = (1980, 1, 1, 0, 0, 0)


class CannotPackError(ConfigurationError):
    """A distribution cannot be made a wheel; the message says why."""


def pack(distribution: Distribution, folder: Path) -> Path:
    """Make a wheel of an installed distribution, the same for the same files.

    Of one in editable mode it has everything but the code, see `editable_paths`. Raises `CannotPackError` where there
    is no list of its files.
    """
    name, version = distribution.metadata["Name"], distribution.version
    contents = dict(_contents(distribution, name))
    information = next((each.partition("/")[0] for each in contents if "/WHEEL" in each), None)
    if information is None or not information.endswith(".dist-info"):
        raise CannotPackError(f"{name} {version} was not installed from a wheel")
    tags = re.findall(r"^Tag: *(\S+)", contents[f"{information}/WHEEL"].read_text(), re.MULTILINE)
    stem = f"{_escaped(name)}-{_escaped(version)}"
    path = folder / f"{stem}-{_compressed(tags)}.whl"
    record = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as wheel:
        for member, source in sorted(contents.items()):
            content = source.read_bytes()
            info = zipfile.ZipInfo(member, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644) << 16
            wheel.writestr(info, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{member},sha256={digest},{len(content)}\n")
        record.append(f"{information}/RECORD,,\n")
        wheel.writestr(zipfile.ZipInfo(f"{information}/RECORD", _EPOCH), "".join(record))
    return path


def pack_once(distribution: Distribution, folder: Path) -> Path:
    """As `pack`, or the wheel that `folder` has of an earlier run in which the same files were as old and as large."""
    state = hashlib.sha256()
    for member, source in sorted(_contents(distribution, distribution.metadata["Name"])):
        status = source.stat()
        state.update(
            f"{member}\0{source}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_mode}\n".encode()
        )
    place = folder / state.hexdigest()[:32]
    for wheel in place.glob("*.whl"):
        os.utime(place)  # it is in use
        return wheel
    with tempfile.TemporaryDirectory(dir=folder) as new:
        pack(distribution, Path(new))
        with contextlib.suppress(OSError):  # another run was quicker
            Path(new).rename(place)
            Path(new).mkdir()
    return next(place.glob("*.whl"))


def forget_old(folder: Path) -> None:
    """Remove what `pack_once` has kept and no run has used for two weeks; other runs may be under way."""
    for place in folder.iterdir():
        with contextlib.suppress(OSError):  # another run was quicker
            if time.time() - place.stat().st_mtime > _KEPT_SECONDS:
                shutil.rmtree(place)


def _contents(distribution: Distribution, name: str) -> Iterator[tuple[str, Path]]:
    """Names in the wheel, each with the file that it is made of."""
    is_own, is_editable = name.lower().replace("_", "-") == OWN, _is_editable(distribution)
    if is_own:  # the code that runs here, wherever it was imported from
        package = Path(pytest_sandboxes.__file__).parent
        for path in sorted(package.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(package.parent).as_posix(), path
    if distribution.files is None:
        raise CannotPackError(f"{name} {distribution.version} was installed without a list of its files")
    scripts = {
        each.name for each in distribution.entry_points if each.group in {"console_scripts", "gui_scripts"}
    }
    data = f"{_escaped(name)}-{_escaped(distribution.version)}.data"
    for file in distribution.files:
        path = Path(str(distribution.locate_file(file)))
        if "__pycache__" in file.parts or (file.name in _LEFT_OUT and ".dist-info" in str(file.parent)):
            continue
        if (is_own or is_editable) and ".dist-info" not in str(file.parent):
            continue
        if not path.is_file():
            continue  # removed since, or a link that leads nowhere
        if ".." not in file.parts and not file.is_absolute():
            yield file.as_posix(), path
        elif file.parent.name == "bin":
            if file.name not in scripts:
                yield f"{data}/scripts/{file.name}", path
        else:
            yield f"{data}/data/{PurePosixPath(*(part for part in file.parts if part != '..'))}", path


def editable_paths(distribution: Distribution) -> list[Path] | None:
    """Where Python finds the code of a distribution in editable mode; None for any other distribution.

    That is what a `.pth` file names, or, in the import hooks of setuptools, a mapping.
    """
    if not _is_editable(distribution):
        return None
    found = []
    for file in distribution.files or ():
        path = Path(str(distribution.locate_file(file)))
        if file.suffix == ".pth" and path.is_file():
            lines = path.read_text("utf-8", "replace").splitlines()
            found += [Path(line.strip()) for line in lines if line.strip().startswith("/")]
        elif file.name.startswith("__editable___") and file.suffix == ".py" and path.is_file():
            mapping = re.search(
                r"^MAPPING\b[^=]*= *(\{.*\})", path.read_text("utf-8", "replace"), re.MULTILINE
            )
            if mapping is not None:
                found += [Path(each).parent for each in ast.literal_eval(mapping[1]).values()]
    return found


def _is_editable(distribution: Distribution) -> bool:
    text = distribution.read_text("direct_url.json")
    return text is not None and bool(json.loads(text).get("dir_info", {}).get("editable"))


def _escaped(text: str) -> str:
    return re.sub(r"[^\w.+]+", "_", text)


def _compressed(tags: list[str]) -> str:
    parts = zip(*(tag.split("-") for tag in tags or ["py3-none-any"]), strict=True)
    return "-".join(".".join(sorted(set(part))) for part in parts)

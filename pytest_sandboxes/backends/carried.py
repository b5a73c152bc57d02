"""The Python that runs here, packed to run in images that have none, nor its C library, on the same kind of machine.

It takes its loader, its shared libraries and as much of the standard library along as the agent imports. The loader is
started explicitly and told where the libraries are: no program or library of the image takes part, and no variable in
the environment says so to the commands that the agent starts.
"""

from __future__ import annotations

import io
import marshal
import struct
import subprocess
import sys
import sysconfig
import tarfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import TypedDict, cast

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import SandboxesError
from pytest_sandboxes.payload import imported_modules

_OPTIONS = ("-I", "-S", "-E")
_SURVEY_TIMEOUT = 60.0  # seconds for a third of one's work
_ELF_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian
_ELF_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")


class CannotCarryError(SandboxesError):
    """The Python that runs here cannot run there; says why."""


class Survey(TypedDict):
    """The files of an interpreter, by what has to become of each."""

    executable: str
    loader: str | None
    """What loads its libraries, None if there is nothing to load."""
    libraries: list[str]
    """Shared libraries, the loader among them, each under the name by which it is asked for."""
    extensions: list[str]
    """Modules that are shared libraries."""
    modules: dict[str, bytes]
    """Contents of files of compiled modules, by path below the directory of the standard library."""
    standard_library: str
    """That directory, below the interpreter's prefix."""


@dataclass(frozen=True)
class CarriedPython:
    """An interpreter to unpack and to start."""

    archive: bytes
    """A tar of what goes into its directory."""
    command: tuple[str, ...]
    """Starts it; what `python` is given follows."""

    @classmethod
    def pack(cls, directory: PurePosixPath, architecture: str) -> CarriedPython:
        """The Python that runs here, to be unpacked in `directory`, on a Linux that calls its machine `architecture`.

        Raises `CannotCarryError` when it would not run there, or does not tell what it is made of.
        """
        here = sysconfig.get_platform()
        if here != f"linux-{architecture}":
            raise CannotCarryError(f"it is for {here}, and not for linux-{architecture}")
        found = _survey()
        binary = f"bin/{PurePosixPath(found['executable']).name}"
        contents = {binary: _read_program(found["executable"])}
        command = [str(directory / binary)]
        if found["loader"] is not None:
            loader = directory / "lib" / PurePosixPath(found["loader"]).name
            command = [str(loader), "--library-path", str(directory / "lib"), *command]
        for path in found["libraries"]:
            contents[f"lib/{PurePosixPath(path).name}"] = _read_program(path)
        extensions = f"{found['standard_library']}/lib-dynload"
        for path in found["extensions"]:
            contents[f"{extensions}/{PurePosixPath(path).name}"] = _read_program(path)
        for name, compiled in found["modules"].items():
            contents[f"{found['standard_library']}/{name}"] = compiled
        # the interpreter looks for this one even if nothing is in it
        return cls(_tar(contents, {extensions}), (*command, *_OPTIONS))


def _survey() -> Survey:
    """What the Python that runs here is made of, without a virtual environment around it."""
    executable = getattr(sys, "_base_executable", None) or sys.executable
    program = files("pytest_sandboxes.backends").joinpath("survey.py").read_text("utf-8")
    try:
        ran = subprocess.run(
            [executable, *_OPTIONS, "-c", program, *imported_modules()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SURVEY_TIMEOUT,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        words = one_line(error.stderr.decode(errors="replace").strip().rpartition("\n")[2], 300)
        raise CannotCarryError(f"{executable} cannot be surveyed: {words}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCarryError(f"{executable} cannot be surveyed: {one_line(str(error), 300)}") from None
    try:
        said = marshal.loads(ran.stdout)  # noqa: S302 - the program is ours
    except (EOFError, ValueError, TypeError):
        said = None
    if not isinstance(said, dict):
        raise CannotCarryError(f"{executable} does not say what it is made of")
    found = cast("Survey", said)
    if found["libraries"] and found["loader"] is None:
        raise CannotCarryError(f"{executable} has shared libraries, and does not say what loads them")
    return found


def _read_program(path: str) -> bytes:
    try:
        return loaded_part(Path(path).read_bytes())
    except OSError as error:
        raise CannotCarryError(f"{path} cannot be read: {error.strerror}") from None


def loaded_part(program: bytes) -> bytes:
    """A program or shared library of 64 bits without what is never loaded: symbols for debuggers, often most of it."""
    if not program.startswith(_ELF_MAGIC):
        return program
    fields = list(_ELF_HEADER.unpack_from(program))
    _, _, _, _, table, _, _, header_size, size, count, _, _, _ = fields
    end = max(header_size, table + size * count)
    for number in range(count):
        _, _, start, _, _, length, _, _ = _PROGRAM_HEADER.unpack_from(program, table + number * size)
        end = max(end, start + length)
    fields[5] = fields[11] = fields[12] = 0  # no sections
    return program[:16] + _ELF_HEADER.pack(*fields)[16:] + program[_ELF_HEADER.size : end]


def _tar(contents: dict[str, bytes], directories: set[str]) -> bytes:
    """A tar of files of root's, which everybody may read and run, and their directories."""
    parents = {str(parent) for name in contents for parent in PurePosixPath(name).parents[:-1]}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(parents | directories | contents.keys()):
            member = tarfile.TarInfo(name)
            member.mode = 0o755
            if name in contents:
                member.size = len(contents[name])
                archive.addfile(member, io.BytesIO(contents[name]))
            else:
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
    return out.getvalue()

"""The program that runs a shard: unpacks what was sent, makes the Python environment, runs pytest, leaves nothing.

Only the standard library is imported, and nothing of ours: it runs on a bare Python, before there is an environment.
Its first line of input is the job, as JSON. The end of its input is the end of the shard. What it prints is for people.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from pathlib import Path
from typing import Any

_GRACE = 10.0  # seconds for fixtures to be torn down, once the shard is told to end
_POLL = 0.05
_SUBREAPER = 36  # of prctl
_SCRIPT = """\
#!{python}
import sys
from {module} import {first}
sys.exit({call}())
"""


class Refused(Exception):  # noqa: N818 - ends the shard with its sentence
    """What was sent cannot be run here."""


def main() -> int:
    """Run the job; return pytest's exit status."""
    job = json.loads(sys.stdin.buffer.readline())
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # what a shell ignores in the background is inherited
    work = Path(job["work"])
    claim = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(claim, fcntl.LOCK_SH)
    place = work / job["place"]
    try:
        return _run(job, work, place)
    except Refused as error:
        print(f"ERROR: {error}", file=sys.stderr)  # noqa: T201 - the controller keeps it
        return 70
    finally:
        end_children()
        remove(place)
        os.close(claim)
        remove_unclaimed(work)


def remove_unclaimed(work: Path) -> None:
    """Remove the directory of a run, unless somebody has a claim on it."""
    try:
        last = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(last, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(work)
    except OSError:  # somebody else's still
        pass
    finally:
        os.close(last)


def remove(folder: Path) -> None:
    """Remove a directory and all that is in it, be it readable or not: tests take permissions away."""
    with contextlib.suppress(OSError):
        folder.chmod(0o700)
        for parent, names, _ in os.walk(folder):
            for path in (Path(parent, name) for name in names):
                if not path.is_symlink():
                    path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _run(job: dict[str, Any], work: Path, place: Path) -> int:
    tree = place / "tree"
    for name in ("tmp", "home"):
        (place / name).mkdir(parents=True)
    environment = _environment(
        _checked(job["environment"]), work / f"environment-{job['environment']['sha256'][:16]}"
    )
    root, cwd = tree / job["root"], tree / job["cwd"]
    unpack(_checked(job["project"]), root)
    cwd.mkdir(parents=True, exist_ok=True)
    (place / "empty.ini").touch()
    python = environment / "bin" / "python"
    site = environment / _SITE
    paths = [(job["here"]["root"], str(root)), (job["here"]["empty"], str(place / "empty.ini"))]
    control, closes = os.pipe()
    spec = {
        **job["spec"],
        "events": job["events"],
        "control": control,
        "bundle": job["project"]["sha256"],
        "paths": [
            (str(root), job["here"]["root"]),
            (str(site / "pytest_sandboxes"), job["here"]["package"]),
            (str(site), job["here"]["site"]),
        ],
    }
    (place / "spec.json").write_text(json.dumps(spec))
    variables = {
        **{name: moved(value, paths) for name, value in job["variables"].items()},
        "HOME": str(place / "home"),
        "TMPDIR": str(place / "tmp"),
        "VIRTUAL_ENV": str(environment),
        "PATH": os.pathsep.join(
            [str(environment / "bin"), job["variables"].get("PATH") or os.environ.get("PATH", os.defpath)]
        ),
        "SANDBOXES_SHARD": str(place / "spec.json"),
    }
    _become_subreaper()
    process = subprocess.Popen(
        [str(python), "-m", "pytest", *(moved(each, paths) for each in job["arguments"])],
        cwd=cwd,
        env=variables,
        stdin=subprocess.DEVNULL,
        pass_fds=(job["events"], control),
        start_new_session=True,
    )
    os.close(control)
    os.close(job["events"])
    return _wait(process, closes)


def moved(text: str, paths: list[tuple[str, str]]) -> str:
    """A word of a command line or a variable, with paths of the controller's machine replaced by those here."""
    for here, there in paths:
        if (
            text == here
            or text.endswith((f"={here}", f":{here}"))
            or f"{here}/" in text
            or f"{here}:" in text
        ):
            text = text.replace(here, there)
    return text


def _wait(process: subprocess.Popen[bytes], closes: int) -> int:
    """Wait for pytest, and end it with the input; return its exit status."""
    while process.poll() is None:
        with contextlib.suppress(OSError):
            readable, _, _ = select.select([sys.stdin], [], [], _POLL)
            if readable and not os.read(sys.stdin.fileno(), 4096):
                os.close(closes)  # the plugin in there interrupts it
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE)
                break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    status = process.wait()
    return status if status >= 0 else 128 - status


def _become_subreaper() -> None:
    """Have the orphans of this process's descendants become its children, to be ended with it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def end_children() -> None:
    """Kill all children, and those that become it thereby, until there are none."""
    deadline = time.monotonic() + _GRACE
    while time.monotonic() < deadline:
        try:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        except OSError:
            return
        if not children:
            return
        for child in children:
            with contextlib.suppress(OSError):
                os.kill(int(child), signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


# -- what was sent


def _checked(archive: dict[str, str]) -> Path:
    """The path of an archive whose content is what the controller has named."""
    found = hashlib.sha256()
    with open(archive["path"], "rb") as file:  # noqa: PTH123 - as the rest of the standard library here
        while block := file.read(1 << 20):
            found.update(block)
    if found.hexdigest() != archive["sha256"]:
        raise Refused(f"{archive['path']} is not what the controller has sent: its digest is another")
    return Path(archive["path"])


def unpack(archive: Path, folder: Path) -> None:
    """Unpack files, directories and links of an archive, which must not leave `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            path = folder / member.name
            if ".." in path.parts or not path.parent.resolve().is_relative_to(folder.resolve()):
                raise Refused(f"{member.name!r} would leave the bundle")
            path.parent.mkdir(parents=True, exist_ok=True)
            if member.issym():
                path.symlink_to(member.linkname)
            elif member.isfile():
                source = tar.extractfile(member)
                assert source is not None
                with source, path.open("xb") as target:
                    shutil.copyfileobj(source, target)
                path.chmod(0o755 if member.mode & 0o100 else 0o644)


# -- the Python environment

_SITE = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"


def _environment(archive: Path, folder: Path) -> Path:
    """The environment of an archive of wheels. Shards of one machine share it; whoever comes first makes it."""
    with open(f"{folder}.lock", "w") as lock:  # noqa: PTH123 - its end is the lock's
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            new = folder.with_name(f"{folder.name}.new")
            shutil.rmtree(new, ignore_errors=True)
            venv.EnvBuilder(symlinks=True, with_pip=False).create(new)
            wheels = new / "wheels"
            unpack(archive, wheels)
            for wheel in sorted(wheels.iterdir()):
                install(wheel, new, folder)
            shutil.rmtree(wheels)
            new.rename(folder)
    return folder


def install(wheel: Path, environment: Path, final: Path) -> None:
    """Unpack a wheel into an environment that will be at `final`."""
    site = environment / _SITE
    with zipfile.ZipFile(wheel) as file:
        for info in file.infolist():
            if info.is_dir():
                continue
            first, _, rest = info.filename.partition("/")
            target = site / info.filename
            is_script = False
            if first.endswith(".data"):
                kind, _, rest = rest.partition("/")
                is_script = kind == "scripts"
                target = {"purelib": site, "platlib": site, "scripts": environment / "bin"}.get(
                    kind, environment
                ) / rest
            if ".." in target.parts or not target.is_relative_to(environment):
                raise Refused(f"{wheel.name} would write {info.filename!r} outside of the environment")
            content = file.read(info)
            if is_script and content.startswith(b"#!python"):
                content = f"#!{final / 'bin' / 'python'}\n".encode() + content.partition(b"\n")[2]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            if is_script or (info.external_attr >> 16) & stat.S_IXUSR:
                target.chmod(0o755)
            if first.endswith(".dist-info") and rest == "entry_points.txt":
                _write_scripts(content.decode(), environment / "bin", final / "bin" / "python")


def _write_scripts(entry_points: str, folder: Path, python: Path) -> None:
    section = ""
    for line in entry_points.splitlines():
        text = line.strip()
        if text.startswith("["):
            section = text.strip("[]").strip()
        elif section == "console_scripts" and "=" in text:
            name, _, value = text.partition("=")
            module, _, attribute = value.partition("[")[0].strip().partition(":")
            first = attribute.partition(".")[0]
            script = folder / name.strip()
            script.write_text(_SCRIPT.format(python=python, module=module, first=first, call=attribute))
            script.chmod(0o755)


if __name__ == "__main__":
    sys.exit(main())

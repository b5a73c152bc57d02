"""An Engine of a test's own, to be stopped, killed and filled up without harm to others."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import carrying

_PATIENCE = 60.0  # seconds for it to answer, or to end


class OwnEngine:
    """A dockerd without networks on a socket in `directory`, with all of its data on a disk of `megabytes`."""

    def __init__(self, directory: Path, options: tuple[str, ...], megabytes: int) -> None:
        self._options = options
        self.address = f"unix://{directory}/socket"
        self.data = directory / "data"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.data.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", self.data], check=True)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        for record in ("pid", "exec/containerd/containerd.pid"):  # of one that was killed
            (self._directory / record).unlink(missing_ok=True)
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(
                        "unshare",
                        "--net",
                    ),  # without networks, it would remove the one of another on this machine
                    "dockerd",
                    f"--host={self.address}",
                    f"--data-root={self.data}",
                    f"--exec-root={self._directory}/exec",
                    f"--pidfile={self._directory}/pid",
                    "--bridge=none",
                    "--iptables=false",
                    "--shutdown-timeout=1",
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _PATIENCE
        while self.docker("version", check=False).returncode:
            said = (self._directory / "log").read_text(errors="replace")[-2000:]
            assert self._process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, with or without a chance to end its containers."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_PATIENCE)
            self._process = None

    def close(self) -> None:
        """End it and all that it has started."""
        self.stop(signal.SIGKILL)
        deadline = time.monotonic() + _PATIENCE
        while left := carrying(str(self._directory / "exec"), "cmdline"):
            assert time.monotonic() < deadline, left
            for pid in left:
                _kill(pid)
        for place in _mounted_below(self._directory):
            subprocess.run(["umount", "--lazy", place], check=True)

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the `docker` command on it."""
        command = ["docker", "--host", self.address, *arguments]
        return subprocess.run(command, check=check, capture_output=True, text=True, timeout=_PATIENCE)

    def load(self, image: str) -> None:
        """Give it an image of the Engine that everybody uses."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
            command = ["docker", "--host", self.address, "load"]
            subprocess.run(command, stdin=saving.stdout, check=True, capture_output=True, timeout=_PATIENCE)


@contextmanager
def own_engine(*options: str, megabytes: int) -> Iterator[OwnEngine]:
    """An Engine that has been started, with `options` for dockerd; it and all that it has are gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="own-engine-"))
    engine = OwnEngine(directory, options, megabytes)
    try:
        engine.start()
        yield engine
    finally:
        engine.close()
        shutil.rmtree(directory, ignore_errors=True)


def _kill(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        select.select([descriptor], [], [], _PATIENCE)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def _mounted_below(directory: Path) -> list[str]:
    """Mount points, the deepest first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    places = [line.split()[1] for line in lines]
    return sorted((place for place in places if place.startswith(f"{directory}/")), key=len, reverse=True)

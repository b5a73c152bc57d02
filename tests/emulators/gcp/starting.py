"""Starting an emulator, in a process of its own that ends with the one that has started it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.emulators.gcp.control import Control

BATCH_ENDPOINT = "CLOUDSDK_API_ENDPOINT_OVERRIDES_BATCH"
"""The variable by which the Google Cloud CLI is told of another endpoint; the Python client has none, but an option."""
PROJECT_ENDPOINTS = tuple(
    f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{api}" for api in ("CLOUDRESOURCEMANAGER", "IAM", "COMPUTE")
)
"""The same of what is asked about a project."""
_ROOT = Path(__file__).parents[3]
_END = 60
"""Seconds for an emulator to end with all that it runs."""


@dataclass(frozen=True)
class Options:
    """How an emulator is to be."""

    project: str = "emulated"
    """The one project that there is."""
    bucket: str = ""
    """The name of a bucket that is there from the start; empty for none."""
    containers: bool = False
    """Whether jobs can have containers, on the Docker Engine of DOCKER_HOST."""
    host: str = "127.0.0.1"
    """The address to listen on."""
    log: str = ""
    """The path of a file of JSON lines for events; empty for none."""
    token_lifetime: float = 3600
    """Seconds for which access tokens are good."""
    queue_delay: float = 0.01
    """Seconds that a job is QUEUED."""
    machine_delay: float = 0.01
    """Seconds that a VM takes to be made."""
    python: str = ""
    """A copy of the installation of this Python, which VMs have in its place; empty where their user may read it."""
    machines_by_policies: bool = False
    """Whether VMs may do in buckets only what the buckets' policies say; else all, as an Editor of the project may."""


@contextmanager
def running(options: Options | None = None) -> Iterator[tuple[Mapping[str, str], Control]]:
    """An emulator in a process of its own: the environment of its clients, and a control of it.

    It ends when this process does, however that ends, because its standard input does.
    """
    words = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in asdict(options or Options()).items()
        if value is not False
    ]
    command = [sys.executable, "-m", "tests.emulators.gcp", *words]
    with subprocess.Popen(
        command,
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{' '.join(command)} has not started")
            said = json.loads(line)
            yield said["environment"], Control(Path(said["control"]))
        finally:
            process.stdin.close()
            try:
                process.wait(_END)
            except subprocess.TimeoutExpired:
                process.kill()
                raise

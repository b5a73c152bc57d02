"""Projects whose shards are tasks of Batch: an emulator for all tests of a worker, and a bucket for each of them."""

from __future__ import annotations

import importlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

# a run in this process drops what it has imported itself, and what is left would not know what comes anew
import pytest_sandboxes.batch.controller
import pytest_sandboxes.batch.runners.gcp.runner  # noqa: F401
from tests import interpreters
from tests.emulators.gcp.control import Control
from tests.emulators.gcp.starting import BATCH_ENDPOINT, Options, running
from tests.integration.batch_projects import BatchProject, project, wheelhouse
from tests.integration.conftest import Run, _read_junit
from tests.waiting import DEADLINE

__all__ = ["project", "wheelhouse"]

ROOT = "pytest-sandboxes/"
"""What all names of objects begin with that runs make."""
ACCOUNT = "batch-vm@emulated.iam.gserviceaccount.com"
"""Whose VMs are."""
OWNER = "developer@emulated.iam.gserviceaccount.com"
"""Whose runs are."""
_PROFILES = """
profiles:
  default:
    buffer_sandboxes: 0
    image: {image}
    gcp: {section}
  broken: {{extends: default}}
"""


class GcpProject:
    """A project, the emulator that its runs use, and a bucket there."""

    def __init__(self, project: BatchProject, environment: Mapping[str, str], control: Control) -> None:
        self.project = project
        self.control = control
        self.bucket = f"results-{secrets.token_hex(4)}"
        self._storage = f"{environment['STORAGE_EMULATOR_HOST']}/storage/v1/b"
        self._batch = environment[BATCH_ENDPOINT]
        self._send("POST", f"{self._storage}?project=emulated", {"name": self.bucket})
        self.restrict()
        self.configure()

    def restrict(self, prefix: str = ROOT) -> None:
        """Let VMs come to objects whose names begin so, and to nothing else, as README has it: not to lists either."""
        condition = f'resource.name.startsWith("projects/_/buckets/{self.bucket}/objects/{prefix}")'
        binding = {
            "role": "roles/storage.objectUser",
            "members": [f"serviceAccount:{ACCOUNT}"],
            "condition": {"title": "runs", "expression": condition},
        }
        self._send("PUT", f"{self._storage}/{self.bucket}/iam", {"version": 3, "bindings": [binding]})

    def set_rules(self, *rules: object) -> None:
        """Give the bucket these lifecycle rules, and no others."""
        self._send("PATCH", f"{self._storage}/{self.bucket}", {"lifecycle": {"rule": rules}})

    def configure(self, image: str = "null", **fields: object) -> None:
        """Write the profiles, with these fields in section `gcp` beside and over the usual ones."""
        usual = {
            "bucket": self.bucket,
            "backend": "local",
            "vm_python": interpreters.executable(),
            "machines": 2,
            "controller_timeout": 30,
        }
        section = {name: value for name, value in {**usual, **fields}.items() if value is not None}
        self.project.write("sandboxes.yaml", _PROFILES.format(image=image, section=json.dumps(section)))

    def arguments(self, *args: str | Path) -> list[str]:
        """What makes a run one on the emulator."""
        return [*self.project.arguments(*args), "--sandbox-mode=auto", "--sandbox-backend=gcp"]

    def run(self, *args: str | Path) -> Run:
        """Run the project in shards there; nothing of it may be left."""
        command = (sys.executable, "-m", "pytest", *self.arguments(*args))
        run = self.project.inner.finished(self.project.inner.pytester.run(*command, timeout=300))
        self.check_nothing_is_left()
        return run

    def run_here(self, *args: str | Path) -> Run:
        """The same from this process, for runs that come to no shard; with `here`."""
        run = self.project.inner.finished(
            self.project.inner.pytester.runpytest_inprocess(*self.arguments(*args))
        )
        self.check_nothing_is_left()
        return run

    @contextmanager
    def begin(self, *args: str | Path) -> Iterator[subprocess.Popen[bytes]]:
        """A run, which is killed if the block leaves it."""
        command = [sys.executable, "-m", "pytest", *self.arguments(*args)]
        with subprocess.Popen(
            command, cwd=self.project.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def objects(self) -> list[str]:
        """Names of those that are in its bucket."""
        names = [each.partition("/") for each in self.control.remains().objects]
        return [name for bucket, _, name in names if bucket == self.bucket]

    def content(self, name: str) -> bytes:
        """What is in an object."""
        return self._send("GET", f"{self._storage}/{self.bucket}/o/{quote(name, safe='')}?alt=media")

    def remove(self, name: str) -> None:
        """Remove an object, as somebody else does."""
        self._send("DELETE", f"{self._storage}/{self.bucket}/o/{quote(name, safe='')}")

    def finished(self, output: str) -> dict[str, list[str]]:
        """What JUnit says of each test, each time, after a run that was begun; nothing of it may be left."""
        assert "INTERNALERROR" not in output, output
        assert "Traceback" not in output, output
        self.check_nothing_is_left()
        entries = _read_junit(self.project.inner.report)
        return {name: [each.verdict for each in found] for name, found in entries.items()}

    def check_nothing_is_left(self) -> None:
        """No job, VM, process or object."""
        left = self.control.remains()
        assert (left.jobs, left.machines, left.processes, self.objects()) == ([], [], 0, [])

    def hits(self) -> list[tuple[str, str]]:
        """The faults that have hit a call."""
        return [(each["method"], each["kind"]) for each in self.control.events("fault") if "method" in each]

    def clean(self) -> None:
        """Delete what a test that has failed may have left, so that others do not fail as well."""
        self.control.clear_faults()
        self.control.give_roles(OWNER, "roles/owner")
        for job in self.control.remains().jobs:
            self._send("DELETE", f"{self._batch}/v1/{job}")
            self.control.wait("job_deleted", job=job)

    @staticmethod
    def _send(method: str, url: str, content: object = None) -> bytes:
        body = None if content is None else json.dumps(content).encode()
        request = Request(url, body, {"Content-Type": "application/json"}, method=method)
        with urlopen(request, timeout=DEADLINE) as response:
            found: bytes = response.read()
        return found


@pytest.fixture(scope="session", autouse=True)
def clients() -> None:
    """Has Google's clients imported before a test begins: with its end goes what has been imported since."""
    pytest.importorskip("google.cloud.batch_v1", reason="Google's clients are not installed")
    pytest.importorskip("google.cloud.storage", reason="Google's clients are not installed")


@pytest.fixture(scope="session")
def machine_python() -> Iterator[str]:
    """For VMs, whose user may not read everything: a copy of this Python, or nothing if they need none."""
    if os.geteuid() != 0 or interpreters.is_public(interpreters.PREFIX):
        yield ""
        return
    folder = Path(tempfile.mkdtemp(prefix="machine-python-"))
    try:
        interpreters.copy(folder)
        yield str(folder)
    finally:
        shutil.rmtree(folder)


Shared = tuple[Mapping[str, str], Control]


@pytest.fixture(scope="session")
def emulator(machine_python: str) -> Iterator[Shared]:
    with running(Options(python=machine_python, machines_by_policies=True)) as found:
        yield found


@pytest.fixture
def gcp(emulator: Shared, project: BatchProject, monkeypatch: pytest.MonkeyPatch) -> Iterator[GcpProject]:
    """A project with a bucket at the emulator, whose log begins anew."""
    environment, control = emulator
    control.forget()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = GcpProject(project, environment, control)
    yield found
    found.clean()


@pytest.fixture
def here(gcp: GcpProject) -> GcpProject:
    """The same, for runs from this process."""
    import google.auth.compute_engine._metadata as reads_the_environment

    importlib.reload(reads_the_environment)
    return gcp


Start = Callable[..., GcpProject]


@pytest.fixture
def start(project: BatchProject, machine_python: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts an emulator as a test wants it."""
    with ExitStack() as stack:

        def begin(**options: Any) -> GcpProject:
            with pytest.MonkeyPatch.context() as elsewhere:
                elsewhere.delenv("TMPDIR")  # its path is too long for one of a socket
                wanted = Options(python=machine_python, machines_by_policies=True, **options)
                environment, control = stack.enter_context(running(wanted))
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            return GcpProject(project, environment, control)

        yield begin


def ended(process: subprocess.Popen[bytes], number: signal.Signals | None = None) -> str:
    """What a run has printed, once it has ended, by a signal or by itself."""
    if number is not None:
        process.send_signal(number)
    output, _ = process.communicate(timeout=DEADLINE)
    return output.decode()

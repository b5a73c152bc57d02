"""An emulator for the tests of a worker, or of one test, with the unmodified clients at it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.emulators.gcp.control import Control
from tests.emulators.gcp.starting import BATCH_ENDPOINT, Options, running
from tests.processes import carrying

if TYPE_CHECKING:
    from google.cloud import batch_v1
    from google.cloud.storage import Bucket, Client

PARENT = "projects/emulated/locations/us-central1"


@dataclass(frozen=True)
class Service:
    """An emulator, and clients of it."""

    environment: Mapping[str, str]
    control: Control
    batch: batch_v1.BatchServiceClient
    storage: Client
    jobs: list[batch_v1.Job] = field(default_factory=list)

    def create(
        self, *scripts: str | dict[str, Any], job: dict[str, Any] | None = None, **group: Any
    ) -> batch_v1.Job:
        """Create a job of runnables, which are scripts where they are text; `group` are fields of its group or task."""
        from google.cloud import batch_v1

        runnables = [{"script": {"text": each}} if isinstance(each, str) else each for each in scripts]
        own = ("task_count", "parallelism", "task_count_per_node", "task_environments")
        spec = {name: value for name, value in group.items() if name not in own}
        of_group = {name: value for name, value in group.items() if name in own}
        definition = {
            "task_groups": [{"task_spec": {"runnables": runnables, **spec}, **of_group}],
            **(job or {}),
        }
        created = self.batch.create_job(parent=PARENT, job=batch_v1.Job(definition), job_id=new_name())
        self.jobs.append(created)
        return created

    def finish(self, job: batch_v1.Job, state: str = "SUCCEEDED") -> batch_v1.Job:
        """Wait until a job is in a state."""
        self.control.wait("job_state", job=job.name, state=state)
        return self.batch.get_job(name=job.name)

    def run(self, *scripts: str | dict[str, Any], state: str = "SUCCEEDED", **fields: Any) -> batch_v1.Job:
        """Create a job, and wait for its end."""
        return self.finish(self.create(*scripts, **fields), state)

    def running(self, job: batch_v1.Job, count: int = 1) -> None:
        """Wait until so many tasks run a runnable."""
        for index in range(count):
            task = f"{job.name}/taskGroups/group0/tasks/{index}"
            self.control.wait("runnable_started", task=task)

    def tasks(self, job: batch_v1.Job) -> list[batch_v1.Task]:
        """All tasks of a job."""
        return list(self.batch.list_tasks(parent=f"{job.name}/taskGroups/group0"))

    def log(self, job: batch_v1.Job, index: int = 0) -> str:
        """What a task has written."""
        return self.control.log(job.name, index)

    def bucket(self) -> Bucket:
        """A new bucket."""
        return self.storage.create_bucket(new_name())

    def hits(self) -> list[tuple[str, str]]:
        """The faults that have hit a call."""
        return [
            (entry["method"], entry["kind"]) for entry in self.control.events("fault") if "method" in entry
        ]

    def clean(self) -> None:
        """Forget the faults, and delete the jobs; nothing of them runs afterwards."""
        from google.api_core.exceptions import NotFound

        self.control.clear_faults()
        operations = []
        for job in self.jobs:
            try:
                operations.append(self.batch.delete_job(name=job.name).metadata.target)
            except NotFound:
                continue
        for name in operations:
            self.control.wait("job_deleted", job=name)
        left = self.control.remains()
        assert (left.jobs, left.machines, left.processes) == ([], [], 0)
        assert not [pids for job in self.jobs if (pids := carrying(job.uid, "environ"))]


def new_name() -> str:
    """A name for a job or a bucket."""
    return f"t-{secrets.token_hex(6)}"


def error_info(error: Exception) -> Mapping[str, Any]:
    """The google.rpc.ErrorInfo of an error. Old versions of google-api-core have it in `reason` for gRPC only."""
    (found,) = [
        each for each in getattr(error, "details", ()) if each["@type"].endswith("google.rpc.ErrorInfo")
    ]
    return dict(found)


def batch_client(environment: Mapping[str, str], credentials: Any = None) -> batch_v1.BatchServiceClient:
    """The client, by REST."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import batch_v1

    return batch_v1.BatchServiceClient(
        transport="rest",
        credentials=credentials or AnonymousCredentials(),
        client_options={"api_endpoint": environment[BATCH_ENDPOINT]},
    )


def storage_client(environment: Mapping[str, str], credentials: Any = None) -> Client:
    """The client."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.storage import Client

    return Client(
        project=environment["GOOGLE_CLOUD_PROJECT"],
        credentials=credentials or AnonymousCredentials(),
        client_options={"api_endpoint": environment["STORAGE_EMULATOR_HOST"]},
    )


@contextmanager
def serve(options: Options) -> Iterator[Service]:
    """An emulator with clients; checks that nothing is left."""
    with ExitStack() as stack:
        environment, control = stack.enter_context(running(options))
        batch = stack.enter_context(batch_client(environment))
        storage = storage_client(environment)
        stack.callback(storage.close)
        yield Service(environment, control, batch, storage)
        directory = control.path.parent
        assert directory.exists()
    assert not directory.exists()
    assert not carrying(str(directory), "cmdline")


@pytest.fixture(scope="session")
def shared_service() -> Iterator[Service]:
    with serve(Options()) as service:
        yield service


@pytest.fixture
def service(shared_service: Service) -> Iterator[Service]:
    """An emulator whose jobs have scripts; other tests have been at it, and no fault is planned."""
    shared_service.jobs.clear()
    yield shared_service
    shared_service.clean()


Start = Callable[..., Service]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts emulators as the test wants them."""
    with ExitStack() as stack:

        def start_one(**options: Any) -> Service:
            service = stack.enter_context(serve(Options(**options)))
            stack.callback(service.clean)
            return service

        yield start_one

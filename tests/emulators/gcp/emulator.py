"""An emulator: the servers, and all that stands behind them."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from tests.emulators import undertaker
from tests.emulators.control import ControlServer
from tests.emulators.events import EventLog
from tests.emulators.faults import FaultPlan
from tests.emulators.gcp.access import Access
from tests.emulators.gcp.allocation import Allocation
from tests.emulators.gcp.batch_api import Batch
from tests.emulators.gcp.calls import Desk
from tests.emulators.gcp.control_requests import Requests
from tests.emulators.gcp.faults import Fault
from tests.emulators.gcp.jobs import Site
from tests.emulators.gcp.machines import Host, Machine, Machines
from tests.emulators.gcp.metadata import Metadata, Subject
from tests.emulators.gcp.process_host import ProcessHost
from tests.emulators.gcp.project_api import Projects
from tests.emulators.gcp.serving import Port
from tests.emulators.gcp.starting import BATCH_ENDPOINT, PROJECT_ENDPOINTS, Options
from tests.emulators.gcp.storage_batches import Batches
from tests.emulators.gcp.storage_buckets import Buckets
from tests.emulators.gcp.storage_objects import Objects
from tests.emulators.gcp.storage_uploads import Uploads
from tests.emulators.gcp.store import Bucket, Store
from tests.emulators.gcp.strikes import Strikes
from tests.emulators.gcp.tokens import Tokens

LABEL = "pytest-sandboxes.gcp-emulator"
"""The label of all that emulators make on a Docker Engine."""
_UNDERTAKER = Path(undertaker.__file__)
_END = 30
"""Seconds for the undertaker to have removed what there was."""
_USERS = range(20_000, 60_000)


class Emulator:
    """The servers and their state, on the loop that starts it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.events = EventLog(Path(options.log) if options.log else None)
        self.faults: FaultPlan[Fault] = FaultPlan()
        self.strikes = Strikes()
        self.allocation = Allocation()
        domain = f"{options.project}.iam.gserviceaccount.com"
        self._owner, self._machine_account = f"developer@{domain}", f"batch-vm@{domain}"
        self.tokens = Tokens(options.token_lifetime, self._owner)
        self.store = Store(options.project)
        if options.bucket:
            self.store.buckets[options.bucket] = Bucket(options.bucket, options.project, {})
        self._directory = Path(tempfile.mkdtemp(prefix="gcp-emulator-"))
        self._directory.chmod(0o711)  # for the user who VMs are
        label = f"{LABEL}={secrets.token_hex(6)}"
        arguments = [str(self._directory), *([label] if options.containers else [])]
        self._undertaker = subprocess.Popen(
            [sys.executable, "-I", str(_UNDERTAKER), *arguments],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        user = None if os.geteuid() else random.SystemRandom().choice(_USERS)
        try:
            self._hosts = self._make_hosts(label, user)
        except BaseException:
            self._undertaker.communicate(undertaker.FAREWELL)
            raise
        self.machines = Machines(
            self._directory / "machines",
            user,
            open_metadata=self._open_metadata,
            close_metadata=self._close_metadata,
        )
        self._site_environment: dict[str, str] = {}
        self._metadata: dict[str, Port] = {}
        logs = self._directory / "logs"
        logs.mkdir(mode=0o700)
        site = Site(
            machines=self.machines,
            hosts=self._hosts,
            allocation=self.allocation,
            strikes=self.strikes,
            events=self.events,
            logs=logs,
            environment=self._site_environment,
            queue_delay=options.queue_delay,
            machine_delay=options.machine_delay,
        )
        self.projects = Projects(options.project, self._owner, self._machine_account)
        self.batch = Batch(options.project, site, self.projects.may)
        access = Access(self.store, self._machine_account, by_policies=options.machines_by_policies)
        batches = Batches()
        storage = [
            Buckets(self.store, access, self.events),
            Objects(self.store, access),
            Uploads(self.store, access),
            batches,
        ]
        desk = self._desk("storage", storage)
        batches.answer = desk.answer
        self.ports = {
            "batch": Port(self._desk("batch", [self.batch]), options.host),
            "storage": Port(desk, options.host),
            "project": Port(self._desk("project", [self.projects]), options.host),
        }
        self._control_server = ControlServer(Requests(self))
        self.control_path = self._directory / "control"

    @property
    def environment(self) -> Mapping[str, str]:
        """What clients need to come here with the credentials of the project's owner, and not to look for a user's.

        Application Default Credentials are those that the metadata server gives, as on a VM of a developer.
        """
        return {
            **self._site_environment,
            "GCE_METADATA_HOST": self.ports["metadata"].address,
            "GCE_METADATA_IP": self.ports["metadata"].address,
            "CLOUDSDK_CONFIG": str(self._directory / "no-config"),
        }

    async def start(self) -> None:
        """Listen."""
        for port in self.ports.values():
            await port.open()
        self._site_environment |= {
            "GOOGLE_CLOUD_PROJECT": self._options.project,
            "STORAGE_EMULATOR_HOST": f"http://{self.ports['storage'].address}",
            BATCH_ENDPOINT: f"http://{self.ports['batch'].address}",
            **dict.fromkeys(PROJECT_ENDPOINTS, f"http://{self.ports['project'].address}/"),
        }
        subject = Subject(self._options.project, self._owner, "us-central1-a", "workstation", 1, {})
        self.ports["metadata"] = Port(
            self._desk("metadata", [Metadata(subject, self.tokens)]), self._options.host
        )
        await self.ports["metadata"].open()
        await self._control_server.open(self.control_path)

    async def close(self) -> None:
        """End all jobs, then everything else."""
        await self._control_server.close()
        await self.batch.end_all()
        for port in self.ports.values():
            await port.close()
        for host in self._hosts.values():
            host.close()
        self.events.record("emulator_ended")
        self.events.close()
        await asyncio.to_thread(self._undertaker.communicate, undertaker.FAREWELL, _END)

    def _desk(self, service: str, parts: list[object]) -> Desk:
        return Desk(
            service,
            parts,
            project=self._options.project,
            events=self.events,
            faults=self.faults,
            tokens=None if service == "metadata" else self.tokens,
        )

    def _make_hosts(self, label: str, user: int | None) -> dict[str, Host]:
        hosts: dict[str, Host] = {"script": ProcessHost(self._directory / "etc", user, self._options.python)}
        if self._options.containers:
            from tests.emulators.gcp.docker_host import DockerHost

            hosts["container"] = DockerHost(label, user)
        return hosts

    async def _open_metadata(self, machine: Machine) -> str:
        attributes = {"batch-job-id": machine.job.rsplit("/", 1)[1], "batch-job-uid": machine.job_uid}
        subject = Subject(
            self._options.project,
            self._machine_account,
            machine.zone,
            machine.name,
            machine.number,
            attributes,
        )
        port = Port(self._desk("metadata", [Metadata(subject, self.tokens)]), self._options.host)
        self._metadata[machine.name] = port
        await port.open()
        return port.address

    async def _close_metadata(self, machine: Machine) -> None:
        port = self._metadata.pop(machine.name, None)
        if port is not None:
            await port.close()


async def run(options: Options, use: Callable[[Emulator], Awaitable[int]]) -> int:
    """Be an emulator while it is used; what `use` returns."""
    emulator = Emulator(options)
    try:
        await emulator.start()
        return await use(emulator)
    finally:
        await emulator.close()

"""All sandboxes, and the control plane's calls about them: those of V2 sandboxes, and those of V1, which have GPUs."""

from __future__ import annotations

import asyncio
import secrets
import string
import time
from collections.abc import Iterable, Mapping, Sequence

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from tests.emulators.events import EventLog
from tests.emulators.modal.apps import Apps
from tests.emulators.modal.calls import answers
from tests.emulators.modal.faults import ACCESS
from tests.emulators.modal.hosts import Host
from tests.emulators.modal.images import Images
from tests.emulators.modal.lies import Lies
from tests.emulators.modal.sandbox import Sandbox, shorten
from tests.emulators.modal.secrets_and_volumes import Secrets, Volumes
from tests.emulators.modal.tokens import Tokens

_PAGE = 100
"""Sandboxes in one page of a list."""
_ULID = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_UNSUPPORTED = ("mount_ids", "nfs_mounts", "cloud_bucket_mounts", "proxy_id", "pty_info", "readiness_probe")
"""Fields of a definition that the emulator does not have anything for."""


class Sandboxes:
    """Sandboxes by their ids."""

    def __init__(
        self,
        *,
        host: Host,
        events: EventLog,
        tokens: Tokens,
        apps: Apps,
        images: Images,
        named_secrets: Secrets,
        volumes: Volumes,
        lies: Lies,
    ) -> None:
        self._host = host
        self._events = events
        self._tokens = tokens
        self._apps = apps
        self._images = images
        self._secrets = named_secrets
        self._volumes = volumes
        self._lies = lies
        self._all: dict[str, Sandbox] = {}
        self._tasks: dict[str, Sandbox] = {}
        self._last_creation = 0.0
        self.router_url = ""
        """Where clients find the command router."""

    def about(self, request: Message) -> str:
        """The id of the sandbox that a request is about, as far as it says so."""
        sandbox_id = str(getattr(request, "sandbox_id", ""))
        task = self._tasks.get(getattr(request, "task_id", ""))
        return task.sandbox_id if task else sandbox_id

    def running(self) -> list[Sandbox]:
        """Those that nothing has ended yet."""
        return [sandbox for sandbox in self._all.values() if sandbox.is_running]

    def find(self, sandbox_id: str) -> Sandbox:
        """One of them. Raises NOT_FOUND."""
        if sandbox_id not in self._all:
            raise GRPCError(Status.NOT_FOUND, f"Sandbox with ID {sandbox_id} not found")
        return self._all[sandbox_id]

    def find_task(self, task_id: str, *, ended: bool = False) -> Sandbox:
        """That of a task. Raises NOT_FOUND for one that has shut down (`exec_wait`), unless that is welcome."""
        sandbox = self._tasks.get(task_id)
        if sandbox is None or not (ended or sandbox.is_running):
            raise GRPCError(Status.NOT_FOUND, f"Task {task_id} not found")
        return sandbox

    async def end_all(self, cause: str) -> None:
        """End those that run."""
        status = api.GenericResult.GENERIC_STATUS_TERMINATED
        await asyncio.gather(*(each.end(status, cause) for each in self._all.values() if each.is_running))
        await asyncio.gather(*(each.ended.wait() for each in self._all.values()))

    @answers("SandboxCreateV2")
    async def create_v2(self, request: api.SandboxCreateV2Request) -> api.SandboxCreateV2Response:
        """Create a sandbox; the reply has what the first connection to its router takes (`SandboxImplV2.create`)."""
        environment = self._secrets.resolve(
            request, request.definition.secret_ids, request.ephemeral_secrets.contents
        )
        # an id of 22 letters and digits would be one of V1 (`_is_v1_sandbox_id`); tasks of V2 end in V (`_is_v2_task_id`)
        ids = "sb-" + _random(26, _ULID), "ta-" + _random(25, _ULID) + "V"
        sandbox = await self._create(ids, request.app_id, request.definition, request.tags, environment)
        return api.SandboxCreateV2Response(
            sandbox_id=sandbox.sandbox_id,
            task_id=sandbox.task_id,
            metadata=_metadata(sandbox),
            command_router_access=api.CommandRouterAccess(url=self.router_url, jwt=self._access(sandbox)),
        )

    @answers("SandboxCreate")
    async def create_v1(self, request: api.SandboxCreateRequest) -> api.SandboxCreateResponse:
        """Create one of V1: `Sandbox.create` takes it for GPUs (modal/sandbox/_sandbox.py, `_impl_class_for_create`)."""
        environment = self._secrets.resolve(request, request.definition.secret_ids, {})
        alphabet = string.ascii_letters + string.digits
        ids = "sb-" + _random(22, alphabet), "ta-" + _random(21, alphabet) + "1"
        sandbox = await self._create(ids, request.app_id, request.definition, request.tags, environment)
        return api.SandboxCreateResponse(sandbox_id=sandbox.sandbox_id, metadata=_metadata(sandbox))

    @answers("SandboxGetTaskId", "SandboxGetTaskIdV2")
    async def get_task_id(self, request: api.SandboxGetTaskIdRequest) -> api.SandboxGetTaskIdResponse:
        """The task of a sandbox that runs, the result of one that does not (`task_id_from_response`)."""
        sandbox = self.find(request.sandbox_id)
        if sandbox.result:
            return api.SandboxGetTaskIdResponse(task_result=sandbox.result)
        return api.SandboxGetTaskIdResponse(task_id=sandbox.task_id)

    @answers("SandboxGetCommandRouterAccess")
    async def get_access_v2(
        self, request: api.SandboxGetCommandRouterAccessRequest
    ) -> api.SandboxGetCommandRouterAccessResponse:
        """A new token for a sandbox's router; FAILED_PRECONDITION after its end (`_open_command_router_client`)."""
        sandbox = (
            self.find(request.sandbox_id)
            if request.sandbox_id
            else self.find_task(request.task_id, ended=True)
        )
        if not sandbox.is_running:
            raise GRPCError(Status.FAILED_PRECONDITION, "The sandbox has already shut down")
        return api.SandboxGetCommandRouterAccessResponse(url=self.router_url, jwt=self._access(sandbox))

    @answers("TaskGetCommandRouterAccess")
    async def get_access_v1(
        self, request: api.TaskGetCommandRouterAccessRequest
    ) -> api.TaskGetCommandRouterAccessResponse:
        """The same for V1 (modal/sandbox/_impl_v1.py, `command_router_access_fetcher`)."""
        sandbox = self.find_task(request.task_id)
        return api.TaskGetCommandRouterAccessResponse(url=self.router_url, jwt=self._access(sandbox))

    @answers("SandboxWait", "SandboxWaitV2")
    async def wait(self, request: api.SandboxWaitRequest) -> api.SandboxWaitResponse:
        """The result, if there is one within `timeout` seconds: `wait` comes again, `poll` and `from_id` give 0."""
        sandbox = self.find(request.sandbox_id)
        if request.timeout > 0:
            try:
                async with asyncio.timeout(request.timeout):
                    await sandbox.ended.wait()
            except TimeoutError:
                pass
        return api.SandboxWaitResponse(result=sandbox.reported_result, metadata=_metadata(sandbox))

    @answers("SandboxTerminate", "SandboxTerminateV2")
    async def terminate(self, request: api.SandboxTerminateRequest) -> api.SandboxTerminateResponse:
        """End a sandbox; one that has ended stays as it is."""
        sandbox = self.find(request.sandbox_id)
        before = sandbox.reported_result
        await sandbox.end(api.GenericResult.GENERIC_STATUS_TERMINATED, "a client has terminated it")
        return api.SandboxTerminateResponse(existing_result=before)

    @answers("SandboxGetFromName", "SandboxGetFromNameV2")
    async def get_from_name(self, request: api.SandboxGetFromNameRequest) -> api.SandboxGetFromNameResponse:
        """The sandbox that runs under a name (`Sandbox.from_name`); those that have ended are for later clients."""
        if getattr(request, "include_terminated", False):
            raise GRPCError(Status.UNIMPLEMENTED, "The emulator finds sandboxes that run, by their names")
        sandbox = self._named(self._apps.find(request.app_name), request.sandbox_name)
        if sandbox is None:
            raise GRPCError(
                Status.NOT_FOUND,
                f"Sandbox with name '{request.sandbox_name}' not found in App '{request.app_name}'",
            )
        return api.SandboxGetFromNameResponse(sandbox_id=sandbox.sandbox_id, metadata=_metadata(sandbox))

    @answers("SandboxList", "SandboxListV2")
    async def list(self, request: api.SandboxListRequest) -> api.SandboxListResponse:
        """One page of those with at least these tags, the newest first, from before a time on (`_Sandbox._list`)."""
        wanted = {tag.tag_name: tag.tag_value for tag in request.tags}.items()
        found = [
            each
            for each in self._all.values()
            if (not request.app_id or each.app_id == request.app_id)
            and (each.is_running or request.include_finished)
            and wanted <= each.tags.items()
            and (not request.before_timestamp or each.created_at < request.before_timestamp)
        ]
        found.sort(key=lambda each: each.created_at, reverse=True)
        return api.SandboxListResponse(sandboxes=[_info(each) for each in found[:_PAGE]])

    @answers("SandboxTagsSet", "SandboxTagsSetV2")
    async def set_tags(self, request: api.SandboxTagsSetRequest) -> Empty:
        """Replace all tags of a sandbox (`Sandbox.set_tags`)."""
        self.find(request.sandbox_id).tags = {tag.tag_name: tag.tag_value for tag in request.tags}
        return Empty()

    @answers("SandboxTagsGet", "SandboxTagsGetV2")
    async def get_tags(self, request: api.SandboxTagsGetRequest) -> api.SandboxTagsGetResponse:
        """The tags of a sandbox."""
        return api.SandboxTagsGetResponse(tags=_tags(self.find(request.sandbox_id).tags))

    def _access(self, sandbox: Sandbox) -> str:
        """A token for a sandbox's router."""
        lied = self._lies.take(ACCESS, sandbox.sandbox_id)
        others = next((each for each in self.running() if each is not sandbox), sandbox)
        return self._tokens.issue((others if lied else sandbox).task_id)

    async def _create(
        self,
        ids: tuple[str, str],
        app_id: str,
        definition: api.Sandbox,
        tags: Iterable[api.SandboxTag],
        environment: Mapping[str, str],
    ) -> Sandbox:
        self._apps.check(app_id)
        self._images.check(definition.image_id)
        for mount in definition.volume_mounts:
            self._volumes.check(mount)
        _check_supported(definition)
        if definition.name and self._named(app_id, definition.name):  # `Sandbox.create`, Raises
            raise GRPCError(Status.ALREADY_EXISTS, f"Sandbox with name '{definition.name}' already exists")
        sandbox = Sandbox(
            *ids,
            app_id=app_id,
            definition=definition,
            tags={tag.tag_name: tag.tag_value for tag in tags},
            environment=environment,
            events=self._events,
        )
        # pages of lists go on from the time of their last sandbox, so no two may share one
        sandbox.created_at = self._last_creation = max(time.time(), self._last_creation + 1e-6)
        # registered before it runs: its name is taken from now on
        self._all[sandbox.sandbox_id] = self._tasks[sandbox.task_id] = sandbox
        self._events.record("sandbox_created", sandbox=sandbox.sandbox_id, **_description(sandbox))
        await sandbox.start(self._host)
        return sandbox

    def _named(self, app_id: str, name: str) -> Sandbox | None:
        for sandbox in self.running():
            if (sandbox.app_id, sandbox.definition.name) == (app_id, name):
                return sandbox
        return None


def _check_supported(definition: api.Sandbox) -> None:
    set_fields = {field.name for field, _ in definition.ListFields()}
    for name in _UNSUPPORTED:
        if name in set_fields:
            raise GRPCError(Status.UNIMPLEMENTED, f"The emulator has nothing for {name} of a sandbox")
    if definition.open_ports.ports:
        raise GRPCError(Status.UNIMPLEMENTED, "The emulator has no tunnels to a sandbox")


def _metadata(sandbox: Sandbox) -> api.SandboxHandleMetadata:
    return api.SandboxHandleMetadata(app_id=sandbox.app_id, result=sandbox.reported_result)


def _info(sandbox: Sandbox) -> api.SandboxInfo:
    return api.SandboxInfo(
        id=sandbox.sandbox_id,
        created_at=sandbox.created_at,
        app_id=sandbox.app_id,
        name=sandbox.definition.name,
        image_id=sandbox.definition.image_id,
        timeout_secs=sandbox.definition.timeout_secs,
        metadata=_metadata(sandbox),
        task_info=api.TaskInfo(id=sandbox.task_id, result=sandbox.reported_result),
        tags=_tags(sandbox.tags),
    )


def _tags(tags: Mapping[str, str]) -> Sequence[api.SandboxTag]:
    return [api.SandboxTag(tag_name=name, tag_value=value) for name, value in tags.items()]


def _description(sandbox: Sandbox) -> dict[str, object]:
    """What the log says about a sandbox: all that was asked for, without the values of its environment."""
    wanted = sandbox.definition
    network = wanted.network_access
    return {
        "name": wanted.name,
        "app": sandbox.app_id,
        "tags": sandbox.tags,
        "image": wanted.image_id,
        "argv": shorten(wanted.entrypoint_args),
        "timeout": wanted.timeout_secs,
        "idle_timeout": wanted.idle_timeout_secs,
        "workdir": wanted.workdir,
        "milli_cpu": wanted.resources.milli_cpu,
        "memory_mb": wanted.resources.memory_mb,
        "gpu": wanted.resources.gpu_config.gpu_type,
        "cloud": wanted.cloud_provider_str,
        "regions": list(wanted.scheduler_placement.regions),
        "network": network.NetworkAccessType.Name(network.network_access_type),
        "allowed_cidrs": list(network.allowed_cidrs),
        "allowed_domains": list(network.allowed_domains),
        "volumes": {each.mount_path: each.volume_id for each in wanted.volume_mounts},
    }


def _random(length: int, alphabet: str) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))

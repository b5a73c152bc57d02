"""Images: layers that are built once for the same definition, and what their builds say (modal/_image.py, `_load`)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from tests.emulators.events import EventLog
from tests.emulators.modal.apps import BUILDER_VERSION
from tests.emulators.modal.calls import answers
from tests.emulators.modal.hosts import CannotStartError, Host
from tests.emulators.modal.mounts import Mounts

_UNSUPPORTED = ("secret_ids", "build_function", "volume_mounts")
_METADATA = api.ImageMetadata(image_builder_version=BUILDER_VERSION)


class Images:
    """Images by their ids, which are made of what defines them."""

    def __init__(self, host: Host, mounts: Mounts, events: EventLog) -> None:
        self._host = host
        self._mounts = mounts
        self._events = events
        self._builds: dict[str, Build] = {}

    def check(self, image_id: str) -> None:
        """Raise NOT_FOUND for an image that is not there, or whose build has not succeeded."""
        build = self._builds.get(image_id)
        if build is None or not build.has_succeeded:
            raise GRPCError(Status.NOT_FOUND, f"Image {image_id} not found")

    async def close(self) -> None:
        """Give up the builds that run."""
        for build in self._builds.values():
            build.task.cancel()
        await asyncio.gather(*(build.task for build in self._builds.values()), return_exceptions=True)

    @answers("ImageGetOrCreate")
    async def get_or_create(self, request: api.ImageGetOrCreateRequest) -> api.ImageGetOrCreateResponse:
        """An image's id, and its result if it is there; without one, its build has begun, or is to be waited for."""
        definition = request.image
        set_fields = {field.name for field, _ in definition.ListFields()}
        for name in _UNSUPPORTED:
            if name in set_fields:
                raise GRPCError(Status.UNIMPLEMENTED, f"The emulator has nothing for {name} of an image")
        if definition.image_registry_config.secret_id:
            raise GRPCError(Status.UNIMPLEMENTED, "The emulator has no private registries")
        for base in definition.base_images:
            self.check(base.image_id)
        content = definition.SerializeToString(deterministic=True)
        image_id = f"im-{hashlib.sha256(content).hexdigest()[:22]}"
        build = self._builds.get(image_id)
        if build is None or build.has_failed or (request.force_build and build.task.done()):
            context = self._mounts.files(definition.context_mount_id) if definition.context_mount_id else {}
            context = {**context, **{each.filename: each.data for each in definition.context_files}}
            self._events.record(
                "build_started", image=image_id, commands=list(definition.dockerfile_commands)
            )
            build = self._builds[image_id] = Build(self._host.build(image_id, definition, context))
            build.task.add_done_callback(lambda _: self._note_end(image_id))
        if build.has_succeeded:
            return api.ImageGetOrCreateResponse(image_id=image_id, result=build.result, metadata=_METADATA)
        return api.ImageGetOrCreateResponse(image_id=image_id)

    @answers("ImageJoinStreaming")
    async def join(
        self, request: api.ImageJoinStreamingRequest
    ) -> AsyncIterator[api.ImageJoinStreamingResponse]:
        """What a build says, line by line from the one after `last_entry_id` on, and its result with the last."""
        build = self._builds.get(request.image_id)
        if build is None:
            raise GRPCError(Status.NOT_FOUND, f"Image {request.image_id} not found")
        number = int(request.last_entry_id or 0)
        async for line in build.lines(number):
            number += 1
            log = api.TaskLogs(data=line, file_descriptor=api.FILE_DESCRIPTOR_STDOUT)
            yield api.ImageJoinStreamingResponse(entry_id=str(number), task_logs=[log])
        yield api.ImageJoinStreamingResponse(
            entry_id=str(number), result=build.result, metadata=_METADATA, eof=True
        )

    @answers("ImageFromId")
    async def from_id(self, request: api.ImageFromIdRequest) -> api.ImageFromIdResponse:
        """An image that is there (`_Image.from_id`)."""
        self.check(request.image_id)
        return api.ImageFromIdResponse(image_id=request.image_id, metadata=_METADATA)

    def _note_end(self, image_id: str) -> None:
        build = self._builds[image_id]
        if build.task.cancelled():
            return
        self._events.record("build_ended", image=image_id, succeeded=build.has_succeeded)


class Build:
    """One build, from its first line to its result."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self.result = api.GenericResult()
        self._lines: list[str] = []
        self._changed = asyncio.Condition()
        self.task = asyncio.create_task(self._run(lines))

    @property
    def has_succeeded(self) -> bool:
        """Whether the image is there."""
        return self.result.status == api.GenericResult.GENERIC_STATUS_SUCCESS

    @property
    def has_failed(self) -> bool:
        """Whether it will not be: the next request for it builds it again."""
        return self.result.status == api.GenericResult.GENERIC_STATUS_FAILURE

    async def lines(self, number: int) -> AsyncIterator[str]:
        """What it says, from this line on, until its end."""
        while True:
            async with self._changed:
                while number >= len(self._lines) and not self.result.status:
                    await self._changed.wait()
                if number >= len(self._lines):
                    return
            yield self._lines[number]
            number += 1

    async def _run(self, lines: AsyncIterator[str]) -> None:
        statuses = api.GenericResult
        result = api.GenericResult(status=statuses.GENERIC_STATUS_SUCCESS)
        try:
            async for line in lines:
                async with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        except CannotStartError as error:
            result = api.GenericResult(status=statuses.GENERIC_STATUS_FAILURE, exception=str(error))
        async with self._changed:
            self.result = result
            self._changed.notify_all()

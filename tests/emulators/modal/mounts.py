"""Files that a client uploads: the context of a Dockerfile (modal/mount.py, `_Mount._load_mount`)."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping

from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from tests.emulators.modal.calls import answers


class Mounts:
    """Trees of files, by ids, and the contents of their files, by digests."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}
        self._trees: dict[str, list[api.MountFile]] = {}

    def files(self, mount_id: str) -> Mapping[str, bytes]:
        """The files of a tree by their paths, relative to its top. Raises NOT_FOUND."""
        if mount_id not in self._trees:
            raise GRPCError(Status.NOT_FOUND, f"Mount {mount_id} not found")
        return {file.filename.lstrip("/"): self._contents[file.sha256_hex] for file in self._trees[mount_id]}

    @answers("MountBatchedCheckExistence")
    async def check_existence(
        self, request: api.MountBatchedCheckExistenceRequest
    ) -> api.MountBatchedCheckExistenceResponse:
        """Which contents have to be uploaded."""
        missing = [each for each in request.sha256_hex_hashes if each not in self._contents]
        return api.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    @answers("MountPutFile")
    async def put(self, request: api.MountPutFileRequest) -> api.MountPutFileResponse:
        """Take a content; large ones would come by HTTP."""
        if request.data_blob_id:
            raise GRPCError(Status.UNIMPLEMENTED, "The emulator takes files of up to 4 MiB")
        if hashlib.sha256(request.data).hexdigest() != request.sha256_hex:
            raise GRPCError(Status.INVALID_ARGUMENT, "The content is not that of its digest")
        self._contents[request.sha256_hex] = request.data
        return api.MountPutFileResponse(exists=True)

    @answers("MountGetOrCreate")
    async def create(self, request: api.MountGetOrCreateRequest) -> api.MountGetOrCreateResponse:
        """Make a tree; those of the service, such as Pythons to add to images, are not here."""
        if request.deployment_name:
            raise GRPCError(Status.NOT_FOUND, f"Mount '{request.deployment_name}' not found")
        missing = [file.filename for file in request.files if file.sha256_hex not in self._contents]
        if missing:
            raise GRPCError(Status.FAILED_PRECONDITION, f"{missing[0]} was not uploaded")
        mount_id = f"mo-{secrets.token_hex(11)}"
        self._trees[mount_id] = list(request.files)
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
        metadata = api.MountHandleMetadata(content_checksum_sha256_hex=digest)
        return api.MountGetOrCreateResponse(mount_id=mount_id, handle_metadata=metadata)

"""Secrets and volumes, by their names."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from google.protobuf.message import Message
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from tests.emulators.modal.calls import answers

_WITHOUT_NAME = (api.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP, api.OBJECT_CREATION_TYPE_EPHEMERAL)


class _Named:
    """Objects that a name stands for."""

    def __init__(self, kind: str, prefix: str) -> None:
        self._kind = kind
        self._prefix = prefix
        self._ids: dict[str, str] = {}

    def get_or_create(self, name: str, creation: int) -> tuple[str, bool]:
        """The id of one, and whether it is to be filled. Raises NOT_FOUND and ALREADY_EXISTS."""
        there = name in self._ids
        if there and creation == api.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            raise GRPCError(Status.ALREADY_EXISTS, f"{self._kind} '{name}' already exists")
        if not there:
            if creation == api.OBJECT_CREATION_TYPE_UNSPECIFIED:
                raise GRPCError(Status.NOT_FOUND, f"{self._kind} '{name}' not found in environment 'main'")
            self._ids[name] = f"{self._prefix}-{secrets.token_hex(11)}"
        is_new = not there or creation == api.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS
        return self._ids[name], is_new


class Secrets:
    """Environment variables that sandboxes may have."""

    def __init__(self) -> None:
        self._named = _Named("Secret", "st")
        self._contents: dict[str, dict[str, str]] = {}

    def resolve(
        self, request: Message, secret_ids: Iterable[str], given: Mapping[str, str]
    ) -> dict[str, str]:
        """The variables of a request: of secrets by id, given in it, and of its sources, which are both, in an order.

        Clients from 1.6.1 on have sources (modal/secret.py, `_secret_sources`). Raises NOT_FOUND.
        """
        variables: dict[str, str] = {}
        for secret_id in secret_ids:
            variables |= self._find(secret_id)
        variables |= given
        sources: Iterable[api.SecretSource] = getattr(request, "secret_sources", ())
        for source in sources:
            by_value = source.HasField("env")
            variables |= dict(source.env.contents) if by_value else self._find(source.secret_id)
        return variables

    def _find(self, secret_id: str) -> dict[str, str]:
        if secret_id not in self._contents:
            raise GRPCError(Status.NOT_FOUND, f"Secret {secret_id} not found")
        return self._contents[secret_id]

    @answers("SecretGetOrCreate")
    async def get_or_create(self, request: api.SecretGetOrCreateRequest) -> api.SecretGetOrCreateResponse:
        """A secret by name, or one without, as V1 sandboxes have for their environment (`_load_from_env_dict`)."""
        if request.object_creation_type in _WITHOUT_NAME:
            secret_id, is_new = f"st-{secrets.token_hex(11)}", True
        else:
            secret_id, is_new = self._named.get_or_create(
                request.deployment_name, request.object_creation_type
            )
        if is_new:
            self._contents[secret_id] = dict(request.env_dict)
        missing = set(request.required_keys) - self._contents[secret_id].keys()
        if missing:
            raise GRPCError(
                Status.FAILED_PRECONDITION, f"Secret is missing key(s): {', '.join(sorted(missing))}"
            )
        metadata = api.SecretMetadata(name=request.deployment_name, keys=self._contents[secret_id])
        return api.SecretGetOrCreateResponse(secret_id=secret_id, metadata=metadata)


class Volumes:
    """Directories that outlive sandboxes. What is written into one is seen by all that have it, at once."""

    def __init__(self) -> None:
        self._named = _Named("Volume", "vo")
        self._ids: set[str] = set()

    def check(self, mount: api.VolumeMount) -> None:
        """Raise an error for a mount of what is not there, or that the emulator cannot make."""
        if mount.volume_id not in self._ids:
            raise GRPCError(Status.NOT_FOUND, f"Volume {mount.volume_id} not found")
        if mount.sub_path:
            raise GRPCError(Status.UNIMPLEMENTED, "The emulator mounts whole volumes only")
        if not PurePosixPath(mount.mount_path).is_absolute():
            raise GRPCError(Status.INVALID_ARGUMENT, f"{mount.mount_path} is no absolute path")

    @answers("VolumeGetOrCreate")
    async def get_or_create(self, request: api.VolumeGetOrCreateRequest) -> api.VolumeGetOrCreateResponse:
        """A volume by name (modal/volume.py, `_Volume.from_name`)."""
        if request.object_creation_type in _WITHOUT_NAME:
            raise GRPCError(Status.UNIMPLEMENTED, "The emulator has no volumes without names")
        volume_id, _ = self._named.get_or_create(request.deployment_name, request.object_creation_type)
        self._ids.add(volume_id)
        metadata = api.VolumeMetadata(name=request.deployment_name, version=request.version)
        return api.VolumeGetOrCreateResponse(volume_id=volume_id, version=request.version, metadata=metadata)

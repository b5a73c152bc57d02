"""Who calls, in which environment, and apps: the calls that come before all others."""

from __future__ import annotations

import secrets

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from tests.emulators.modal.calls import answers
from tests.emulators.modal.tokens import Tokens

BUILDER_VERSION = "2025.06"
"""What the client makes Dockerfiles for: the first without the client's own requirements in each image."""
CONTROL_PLANE = "control plane"
"""The purpose of the tokens that V2 calls carry."""


class Apps:
    """Apps by their names. There is one environment."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._ids: dict[str, str] = {}

    def check(self, app_id: str) -> None:
        """Raise NOT_FOUND for an app that is not there."""
        if app_id not in self._ids.values():
            raise GRPCError(Status.NOT_FOUND, f"App {app_id} not found")

    def find(self, name: str) -> str:
        """The id of an app. Raises NOT_FOUND."""
        if name not in self._ids:
            raise GRPCError(Status.NOT_FOUND, f"App '{name}' not found in environment 'main'")
        return self._ids[name]

    @answers("ClientHello")
    async def hello(self, request: Empty) -> api.ClientHelloResponse:
        """The account's token is good (modal/client.py, `_Client.hello`)."""
        return api.ClientHelloResponse(image_builder_version=BUILDER_VERSION)

    @answers("AuthTokenGet")
    async def get_token(self, request: api.AuthTokenGetRequest) -> api.AuthTokenGetResponse:
        """A short-lived token for V2 calls (modal/_utils/auth_token_manager.py)."""
        return api.AuthTokenGetResponse(token=self._tokens.issue(CONTROL_PLANE))

    @answers("EnvironmentGetOrCreate")
    async def get_environment(
        self, request: api.EnvironmentGetOrCreateRequest
    ) -> api.EnvironmentGetOrCreateResponse:
        """The one environment, whose builder version images are made for (modal/_image.py)."""
        settings = api.EnvironmentSettings(image_builder_version=BUILDER_VERSION)
        return api.EnvironmentGetOrCreateResponse(
            environment_id="en-emulated",
            metadata=api.EnvironmentMetadata(name=request.deployment_name or "main", settings=settings),
        )

    @answers("AppGetOrCreate")
    async def get_or_create(self, request: api.AppGetOrCreateRequest) -> api.AppGetOrCreateResponse:
        """An app by its name (modal/app.py, `_App.lookup`)."""
        if request.object_creation_type == api.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
            self._ids.setdefault(request.app_name, f"ap-{secrets.token_hex(11)}")
        app_id = self.find(request.app_name)
        metadata = api.AppHandleMetadata(app_id=app_id, environment_name="main")
        return api.AppGetOrCreateResponse(app_id=app_id, handle_metadata=metadata)

"""The two clients, with credentials of the environment, and calls that outlast what passes by itself."""

from __future__ import annotations

import copy
import os
import random
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_sandboxes.batch.runners.gcp.errors import (
    INSTALL,
    About,
    explained,
    grant,
    is_transient,
    member_of,
)
from pytest_sandboxes.batch.runners.gcp.naming import ROOT
from pytest_sandboxes.batch.runners.gcp.section import Section
from pytest_sandboxes.errors import BackendUnavailableError

if TYPE_CHECKING:
    from google.cloud import batch_v1, storage

CALL_TIMEOUT = 30.0
"""Seconds of one call."""
PATIENCE = 90.0
"""Seconds for which a call is repeated while the service does not answer."""
_CHECK_PATIENCE = 15.0
"""The same before there is anything to lose."""
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_ENDPOINT = "CLOUDSDK_API_ENDPOINT_OVERRIDES_BATCH"  # gcloud's; the client has an option, and no variable
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0
_PERMISSIONS = [f"storage.objects.{verb}" for verb in ("create", "get", "list", "delete")]
_Result = TypeVar("_Result")


class CancelledError(Exception):
    """Nobody wants to know any more what becomes of a call."""


class Service:
    """Batch and Cloud Storage for one section. May be used by several threads."""

    def __init__(self, section: Section) -> None:
        """Raises `BackendUnavailableError` where packages, credentials or a project are missing."""
        self.section = section
        self.cancelled = threading.Event()
        """Calls raise `CancelledError` in place of being begun once it is set."""
        if not _is_installed():
            raise BackendUnavailableError(
                f"backend gcp needs Google's clients, which are not installed: {INSTALL}"
            )
        import google.auth
        from google.api_core.client_options import ClientOptions
        from google.auth.exceptions import GoogleAuthError
        from google.cloud import batch_v1, storage

        about = About(section.project or "", "batch")
        try:
            credentials, found = google.auth.default(scopes=[_SCOPE])
        except GoogleAuthError as error:
            raise explained("it needs credentials", error, about) from None
        project = section.project or os.environ.get("GOOGLE_CLOUD_PROJECT") or found
        if not project:
            raise BackendUnavailableError(
                "backend gcp needs a project: export GOOGLE_CLOUD_PROJECT=ID, or gcp: {project: ID} in the profile"
            )
        self.project: str = project
        self.credentials = credentials
        endpoint = os.environ.get(_ENDPOINT)
        options = ClientOptions(api_endpoint=endpoint) if endpoint else None
        try:
            self.batch: batch_v1.BatchServiceClient = batch_v1.BatchServiceClient(
                transport="rest", credentials=credentials, client_options=options
            )
            self.storage: storage.Client = storage.Client(project=project, credentials=credentials)
        except GoogleAuthError as error:  # on a VM they ask its metadata server
            raise explained("it needs credentials", error, about) from None
        self.bucket: storage.Bucket = self.storage.bucket(section.bucket)

    def cancelled_by(self, event: threading.Event) -> Service:
        """The same with another event."""
        found = copy.copy(self)
        found.cancelled = event
        return found

    @property
    def parent(self) -> str:
        """Where jobs are."""
        return f"projects/{self.project}/locations/{self.section.region}"

    def about(self, service: str) -> About:
        """For messages on a call."""
        section = self.section
        member = member_of(self.credentials)
        return About(self.project, service, section.bucket, section.region, member, self.machine_account())

    def call(
        self,
        service: str,
        what: str,
        function: Callable[[], _Result],
        *,
        patience: float = PATIENCE,
        passes: tuple[type[Exception], ...] = (),
    ) -> _Result:
        """What `function` returns, which is called again where that may help.

        Errors of the client that are in `passes` are raised as they are. All others become `BackendUnavailableError`.
        """
        deadline, pause = time.monotonic() + patience, _FIRST_PAUSE
        while True:
            if self.cancelled.is_set():
                raise CancelledError
            try:
                return function()
            except (BackendUnavailableError, CancelledError):
                raise
            except passes:
                raise
            except Exception as error:  # noqa: BLE001 - whatever the client raises, it is told in our words
                if not is_transient(error) or time.monotonic() + pause > deadline:
                    raise explained(what, error, self.about(service)) from None
            self.cancelled.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - not all are to come back at once
            pause = min(2 * pause, _LONGEST_PAUSE)

    def check(self) -> None:
        """Raise `BackendUnavailableError` unless jobs can be looked at, and the bucket is there and can be used."""
        self.look_at_jobs()
        self.check_bucket()

    def authenticate(self) -> None:
        """Raise `BackendUnavailableError` where nobody accepts the credentials, as far as that is not known yet."""
        from google.auth.transport.requests import Request

        if not self.credentials.valid:
            self.call(
                "oauth2",
                "it cannot use the credentials",
                lambda: self.credentials.refresh(Request()),
                patience=_CHECK_PATIENCE,
            )

    def look_at_jobs(self) -> None:
        """Raise `BackendUnavailableError` where that cannot be done: who may not will not create any."""
        request: Any = {"parent": self.parent, "page_size": 1}
        self.call(
            "batch",
            f"it cannot look at jobs of project {self.project}",
            lambda: next(iter(self.batch.list_jobs(request=request, timeout=CALL_TIMEOUT, retry=None)), None),
            patience=_CHECK_PATIENCE,
        )

    def check_bucket(self) -> None:
        """Raise `BackendUnavailableError` unless the bucket is there, and its objects can be made, read and removed."""
        may: list[str] = self.call(
            "storage",
            f"it cannot look at bucket {self.section.bucket}",
            lambda: self.bucket.test_iam_permissions(_PERMISSIONS, timeout=CALL_TIMEOUT, retry=None),
            patience=_CHECK_PATIENCE,
        )
        missing = [each for each in _PERMISSIONS if each not in may]
        if missing:
            raise BackendUnavailableError(
                f"backend gcp: this account lacks {', '.join(missing)} in bucket {self.section.bucket}: "
                f"{grant(self.section.bucket, member_of(self.credentials))}"
            )

    def machine_account(self) -> str:
        """Whose VMs are, in words of a shell."""
        number = f"$(gcloud projects describe {self.project} --format='value(projectNumber)')"
        return self.section.service_account or f"{number}-compute@developer.gserviceaccount.com"

    def grant_to_machines(self) -> str:
        """The command that lets the account of VMs use what runs make in the bucket, and nothing else."""
        objects = f"projects/_/buckets/{self.section.bucket}/objects/{ROOT}"
        condition = f"""title=pytest-sandboxes,expression=resource.name.startsWith("{objects}")"""
        member = f'"serviceAccount:{self.machine_account()}"'
        return f"{grant(self.section.bucket, member)} --condition='{condition}'"

    def close(self) -> None:
        """Close connections."""
        self.storage.close()
        self.batch.transport.close()


def _is_installed() -> bool:
    try:
        return bool(find_spec("google.cloud.batch_v1") and find_spec("google.cloud.storage"))
    except ModuleNotFoundError:
        return False

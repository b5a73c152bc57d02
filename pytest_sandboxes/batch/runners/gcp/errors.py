"""What goes wrong with Google's services, in one sentence each, with the command that mends it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import BackendUnavailableError

_LONGEST = 400
_ACT_AS = re.compile(r"act\s?as", re.IGNORECASE)
LOGIN = "gcloud auth application-default login"
INSTALL = "python -m pip install 'pytest-sandboxes[gcp]'"
_SERVICES = {
    "batch": "Batch",
    "storage": "Cloud Storage",
    "cloudresourcemanager": "Resource Manager",
    "iam": "IAM",
    "compute": "Compute Engine",
    "oauth2": "who gives out access tokens",
}


@dataclass(frozen=True)
class About:
    """What a call was about, for messages."""

    project: str
    service: str
    """Its name before `.googleapis.com`."""
    bucket: str = ""
    region: str = ""
    member: str = "user:YOU"
    """Who this account is, in words of an IAM policy."""
    machines: str = ""
    """The account of VMs, in words of a shell."""


def explained(what: str, error: BaseException, about: About) -> BackendUnavailableError:
    """The error of ours for one of the clients', when it was to do `what`."""
    return BackendUnavailableError(f"backend gcp: {what}: {_why(error, about)}")


def _why(error: BaseException, about: About) -> str:  # noqa: PLR0911 - one for each kind
    from google.api_core import exceptions as theirs
    from google.auth import exceptions as auth

    said = one_line(str(getattr(error, "message", "") or error) or type(error).__name__, _LONGEST)
    if isinstance(error, auth.DefaultCredentialsError):
        return f"there are no Application Default Credentials: {LOGIN}"
    is_network = isinstance(error, auth.TransportError)  # on the way to where credentials are made good
    if isinstance(error, auth.GoogleAuthError | theirs.Unauthorized) and not is_network:
        return f"the credentials are not accepted ({said}): {LOGIN}"
    if isinstance(error, theirs.Forbidden):
        return _forbidden(error, about, said)
    if isinstance(error, theirs.NotFound):
        return _not_found(about, said)
    if isinstance(error, theirs.TooManyRequests):
        return f"{_SERVICES[about.service]} takes no more calls now ({said}): run fewer at a time"
    if is_transient(error):
        service = "oauth2" if is_network else about.service
        return f"{_SERVICES[service]} does not answer ({said}): see whether this machine may go there"
    return f"{_SERVICES[about.service]} refuses ({said})"


def _forbidden(error: BaseException, about: About, said: str) -> str:
    info = error_info(error)
    if info.get("reason") == "SERVICE_DISABLED":
        return (
            f"the API of {_SERVICES[about.service]} is not enabled in project {about.project}: gcloud services enable "
            f"{about.service}.googleapis.com --project={about.project}"
        )
    if about.service == "batch" and _ACT_AS.search(said):
        return f"this account may not have VMs that are another ({said}): {grant_machines(about)}"
    if about.service == "batch":
        return f"this account may not do that in project {about.project} ({said}): {grant_jobs(about)}"
    if about.service != "storage":
        return f"this account may not look at that in project {about.project} ({said})"
    return (
        f"this account may not do that in bucket {about.bucket}, or it is somebody else's ({said}): "
        f"{grant(about.bucket, about.member)}"
    )


def grant_jobs(about: About) -> str:
    """The command that lets this account have jobs."""
    return (
        f"gcloud projects add-iam-policy-binding {about.project} --member={about.member} "
        "--role=roles/batch.jobsEditor"
    )


def grant_machines(about: About) -> str:
    """The command that lets this account have VMs that are the account of VMs."""
    return (
        f'gcloud iam service-accounts add-iam-policy-binding "{about.machines}" --project={about.project} '
        f"--member={about.member} --role=roles/iam.serviceAccountUser"
    )


def grant(bucket: str, member: str) -> str:
    """The command that lets somebody use the bucket."""
    return (
        f"gcloud storage buckets add-iam-policy-binding gs://{bucket} --member={member} "
        "--role=roles/storage.objectUser"
    )


def create_bucket(about: About) -> str:
    """The command that makes the bucket."""
    return (
        f"gcloud storage buckets create gs://{about.bucket} --project={about.project} --location={about.region} "
        "--uniform-bucket-level-access --soft-delete-duration=0"
    )


def _not_found(about: About, said: str) -> str:
    if about.service == "storage":
        return f"there is no bucket {about.bucket}, or nothing of that name in it: {create_bucket(about)}"
    where = f"project {about.project} and {about.region}"
    return f"there is no such thing in {where} ({said}): correct gcp.project or gcp.region"


def member_of(credentials: Any) -> str:
    """Whose they are, in words of an IAM policy, as far as they say it; those of a VM do when they have been used."""
    machine = getattr(credentials, "service_account_email", None) or ""
    if "@" in machine:
        return f"serviceAccount:{machine}"
    person = getattr(credentials, "account", None) or ""
    return f"user:{person}" if "@" in person else About.member


def error_info(error: BaseException) -> Mapping[str, Any]:
    """The google.rpc.ErrorInfo of an error, as far as it has one. Its `reason` is no way to it: some versions raise."""
    for each in getattr(error, "details", None) or ():
        if isinstance(each, Mapping) and str(each.get("@type", "")).endswith("google.rpc.ErrorInfo"):
            return each
        if hasattr(each, "reason"):  # a message of protobuf
            return {"reason": each.reason}
    return {}


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later, and may have been carried out.

    Not where credentials are not accepted: the clients have got new ones then already.
    """
    import requests
    from google.api_core import exceptions as theirs
    from google.auth import exceptions as auth

    kinds: tuple[type[BaseException], ...] = (
        *(theirs.TooManyRequests, theirs.ServerError),
        *(requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError),
        auth.TransportError,
    )
    return isinstance(error, kinds)

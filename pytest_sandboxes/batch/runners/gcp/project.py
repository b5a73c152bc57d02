"""What a project allows, as `gcp-check` asks it: roles, the account of VMs, quota. Runs ask for their account's roles.

Who may not look at any of that may have jobs all the same: what is not answered stops nobody.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from typing import Any

from pytest_sandboxes.batch.runners.gcp.errors import grant_jobs, grant_machines
from pytest_sandboxes.batch.runners.gcp.naming import ROOT
from pytest_sandboxes.batch.runners.gcp.service import CALL_TIMEOUT, Service
from pytest_sandboxes.errors import BackendUnavailableError

_ENDPOINTS = "CLOUDSDK_API_ENDPOINT_OVERRIDES_"  # gcloud's
_PATIENCE = 10.0
_SHORT_PATIENCE = 5.0
PERMISSIONS = tuple(f"batch.jobs.{verb}" for verb in ("create", "delete", "get", "list"))
"""What this account does in the project."""
_STARTS = re.compile(r"""resource\.name\.startsWith\(["']([^"']*)["']\)""")
_ALL = frozenset({"roles/owner", "roles/editor"})
"""Roles that have those of VMs in them."""


def check_roles(service: Service) -> None:
    """Raise `BackendUnavailableError` where it is known that this account may not have jobs, or not such VMs."""
    about = service.about("batch")
    with closing(Project(service, _SHORT_PATIENCE)) as project:
        lacks: list[str] = []
        with contextlib.suppress(BackendUnavailableError):
            lacks = project.lacks(PERMISSIONS)
        if lacks:
            raise BackendUnavailableError(
                f"backend gcp: this account lacks {', '.join(lacks)} in project {service.project}: {grant_jobs(about)}"
            )
        may_run = True
        with contextlib.suppress(BackendUnavailableError):
            may_run = project.may_run_as(project.machine_account)
        if not may_run:
            account = project.machine_account
            raise BackendUnavailableError(
                f"backend gcp: this account may not have VMs that are {account}: "
                f"{grant_machines(replace(about, machines=account))}"
            )


class Project:
    """Of one service's section. Each question raises `BackendUnavailableError` where it is not answered."""

    def __init__(self, service: Service, patience: float = _PATIENCE) -> None:
        """`close` it. `patience`: seconds for a question that is not answered."""
        from google.auth.transport.requests import AuthorizedSession

        self._service = service
        self._patience = patience
        self._session: Any = AuthorizedSession(service.credentials)

    def close(self) -> None:
        """Close connections."""
        self._session.close()

    def lacks(self, permissions: Iterable[str]) -> list[str]:
        """Those of the permissions in the project that this account does not have."""
        path = f"v1/projects/{self._service.project}:testIamPermissions"
        return self._lacks("cloudresourcemanager", path, "the roles of this account", list(permissions))

    def may_run_as(self, account: str) -> bool:
        """Whether this account may have VMs that are another account."""
        path = f"v1/projects/{self._service.project}/serviceAccounts/{account}:testIamPermissions"
        return not self._lacks("iam", path, "whether VMs may be that account", ["iam.serviceAccounts.actAs"])

    @cached_property
    def machine_account(self) -> str:
        """Whose VMs are."""
        given = self._service.section.service_account
        if given is not None:
            return given
        path = f"v1/projects/{self._service.project}"
        number = self._ask("cloudresourcemanager", path, "the number of the project").get("projectNumber", "")
        return f"{number}-compute@developer.gserviceaccount.com"

    def machines_lack(self, roles: Iterable[str]) -> list[str]:
        """Those of the roles in the project that the account of VMs does not have."""
        path = f"v1/projects/{self._service.project}:getIamPolicy"
        policy = self._ask("cloudresourcemanager", path, "the roles of VMs", {})
        return _lacking(roles, policy.get("bindings", ()), self.machine_account)

    def machines_may_use_the_bucket(self) -> bool:
        """Whether the account of VMs has a role there that holds for what runs make."""
        bindings = self._service.call(
            "storage",
            f"it cannot look at who may use bucket {self._service.section.bucket}",
            lambda: (
                self._service.bucket.get_iam_policy(
                    requested_policy_version=3, timeout=CALL_TIMEOUT, retry=None
                ).bindings
            ),
        )
        wanted = ("roles/storage.objectUser", "roles/storage.objectAdmin", "roles/storage.admin")
        bucket = self._service.section.bucket
        own = [
            each
            for each in bindings
            if any(not _lacking([role], [each], self.machine_account) for role in wanted)
        ]
        found = [_holds(each.get("condition"), f"projects/_/buckets/{bucket}/objects/{ROOT}") for each in own]
        if None in found and True not in found:
            raise BackendUnavailableError("that role has a condition which only the service can judge")
        return True in found

    def free_cores(self) -> tuple[str, float, float] | None:
        """A quota of the section's region for the section's VMs: its name, what is free, and all."""
        section = self._service.section
        path = f"compute/v1/projects/{self._service.project}/regions/{section.region}"
        found = self._ask("compute", path, "the quota of VMs").get("quotas", ())
        quotas = {each.get("metric"): each for each in found}
        own = f"{section.machine_type.partition('-')[0].upper()}_CPUS"
        for name in (*(["PREEMPTIBLE_CPUS"] if section.spot else []), own, "CPUS"):
            quota = quotas.get(name)
            if quota is not None and quota.get("limit"):
                return name, quota["limit"] - quota.get("usage", 0), quota["limit"]
        return None

    def _lacks(self, api: str, path: str, what: str, permissions: list[str]) -> list[str]:
        has = self._ask(api, path, what, {"permissions": permissions}).get("permissions", ())
        return [each for each in permissions if each not in has]

    def _ask(self, api: str, path: str, what: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        from google.api_core.exceptions import from_http_response

        base = os.environ.get(_ENDPOINTS + api.upper()) or f"https://{api}.googleapis.com/"

        def ask() -> dict[str, Any]:
            method = "GET" if body is None else "POST"
            response = self._session.request(method, base + path, json=body, timeout=self._patience)
            if not response.ok:
                raise from_http_response(response)
            found: dict[str, Any] = response.json()
            return found

        return self._service.call(api, f"it cannot look at {what}", ask, patience=self._patience)


def _holds(condition: Mapping[str, Any] | None, objects: str) -> bool | None:
    """Whether a binding counts for all objects whose names begin so; None where nobody here can tell."""
    expression = (condition or {}).get("expression", "")
    if _STARTS.sub("", expression).replace("||", "").strip():
        return None
    return not expression or any(objects.startswith(start) for start in _STARTS.findall(expression))


def _lacking(roles: Iterable[str], bindings: Iterable[Mapping[str, Any]], account: str) -> list[str]:
    has = {each["role"] for each in bindings if f"serviceAccount:{account}" in each.get("members", ())}
    return [] if has & _ALL else [role for role in roles if role not in has]

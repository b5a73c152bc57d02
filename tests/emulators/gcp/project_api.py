"""What is asked about a project: its number, roles and quota, by the REST APIs of Resource Manager, IAM and Compute Engine.

Paths and answers are those of cloud.google.com/resource-manager/reference/rest/v1/projects,
cloud.google.com/iam/docs/reference/rest/v1/projects.serviceAccounts and cloud.google.com/compute/docs/reference/rest/v1/regions.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from tests.emulators.gcp import errors
from tests.emulators.gcp.calls import Call, Reply, answers

_PROJECT = "/v1/projects/{project}"
_NUMBER = "123456789012"
_QUOTA = 24.0
"""Cores in each region."""
_ROLES = {
    "roles/owner": "*",
    "roles/batch.jobsEditor": "batch.*",
    "roles/iam.serviceAccountUser": "iam.serviceAccounts.actAs",
}


class Projects:
    """The one that there is. Belongs to the emulator's loop."""

    def __init__(self, project: str, owner: str, machine_account: str) -> None:
        self._project = project
        self.roles: dict[str, list[str]] = {
            owner: ["roles/owner"],
            machine_account: ["roles/batch.agentReporter", "roles/logging.logWriter"],
        }
        """Of accounts."""

    @answers("cloudresourcemanager.projects.get", "GET", _PROJECT)
    async def get(self, call: Call) -> Reply:
        """What it is."""
        self._check(call)
        return Reply.of({"projectId": self._project, "projectNumber": _NUMBER, "lifecycleState": "ACTIVE"})

    @answers("cloudresourcemanager.projects.testIamPermissions", "POST", f"{_PROJECT}:testIamPermissions")
    @answers(
        "iam.serviceAccounts.testIamPermissions",
        "POST",
        f"{_PROJECT}/serviceAccounts/{{account}}:testIamPermissions",
    )
    async def test(self, call: Call) -> Reply:
        """Those of the permissions asked about that the caller has."""
        self._check(call)
        asked = call.request.json().get("permissions", [])
        granted = [each for each in asked if self.may(call.caller, each)]
        return Reply.of({"permissions": granted} if granted else {})

    @answers("cloudresourcemanager.projects.getIamPolicy", "POST", f"{_PROJECT}:getIamPolicy")
    async def policy(self, call: Call) -> Reply:
        """Who has which role."""
        self._check(call)
        bindings = [
            {"role": role, "members": [f"serviceAccount:{account}"]}
            for account, roles in self.roles.items()
            for role in roles
        ]
        return Reply.of({"version": 1, "bindings": bindings})

    @answers("compute.regions.get", "GET", "/compute/v1/projects/{project}/regions/{region}")
    async def region(self, call: Call) -> Reply:
        """Its quotas."""
        self._check(call)
        quotas = [{"metric": "CPUS", "limit": _QUOTA, "usage": 0.0}]
        return Reply.of({"name": call.names["region"], "status": "UP", "quotas": quotas})

    def may(self, account: str, permission: str) -> bool:
        """Whether an account has this permission in the project, and so on its service accounts."""
        patterns = [_ROLES.get(role, "") for role in self.roles.get(account, ())]
        return any(fnmatchcase(permission, pattern) for pattern in patterns)

    def _check(self, call: Call) -> None:
        if call.names["project"] != self._project:
            raise errors.denied(call.method, f"projects/{call.names['project']}")

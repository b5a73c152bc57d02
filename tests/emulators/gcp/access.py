"""Who may do what in a bucket: its owner all, a VM's service account what the bucket's policy says, if that is asked for.

Of conditions there is `resource.name.startsWith("projects/_/buckets/BUCKET/objects/PREFIX")`, alone or joined by `||`
(https://cloud.google.com/storage/docs/access-control/iam#conditions). Roles have the permissions of
https://cloud.google.com/storage/docs/access-control/iam-roles that the client's calls need.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.emulators.gcp import errors
from tests.emulators.gcp.calls import Call
from tests.emulators.gcp.errors import ServiceError
from tests.emulators.gcp.store import Bucket, Store

_READ = ("storage.objects.get", "storage.objects.list")
_ROLES = {
    "roles/storage.objectViewer": _READ,
    "roles/storage.objectCreator": ("storage.objects.create",),
    "roles/storage.objectUser": (
        *_READ,
        "storage.objects.create",
        "storage.objects.delete",
        "storage.objects.update",
    ),
    "roles/storage.objectAdmin": (
        *_READ,
        "storage.objects.create",
        "storage.objects.delete",
        "storage.objects.update",
    ),
    "roles/storage.legacyBucketReader": ("storage.buckets.get", "storage.objects.list"),
}
_STARTS = re.compile(r'resource\.name\.startsWith\(\s*(["\'])(.*?)\1\s*\)')


class Access:
    """Of the callers of one store."""

    def __init__(self, store: Store, machine_account: str, *, by_policies: bool) -> None:
        """`by_policies` has VMs do only what policies of buckets say; else they may do all, as an Editor of the project."""
        self._store = store
        self._machine_account = machine_account
        self._by_policies = by_policies

    def bucket(self, call: Call, permission: str, name: str | None = None, object_name: str = "") -> Bucket:
        """A bucket, for who has this permission there. Raises `ServiceError`."""
        name = call.names["bucket"] if name is None else name
        if name not in self._store.buckets:
            raise ServiceError(404, "The specified bucket does not exist.")
        bucket = self._store.buckets[name]
        if permission not in self.permissions(call.caller, bucket, object_name):
            what = f"projects/_/buckets/{name}" + (f"/objects/{object_name}" if object_name else "")
            refusal = errors.denied(permission, what)
            refusal.message = (
                f"{call.caller} does not have {permission} access to the Google Cloud Storage "
                + (f"object. {refusal.message}" if object_name else f"bucket. {refusal.message}")
            )
            raise refusal
        return bucket

    def permissions(self, caller: str, bucket: Bucket, object_name: str = "") -> _Permissions:
        """What a caller may do there."""
        if bucket.owner != self._store.project:
            return _Permissions(frozenset())
        if caller != self._machine_account or not self._by_policies:
            return _Permissions(None)
        resource = f"projects/_/buckets/{bucket.name}" + (f"/objects/{object_name}" if object_name else "")
        granted = {
            permission
            for binding in bucket.policy["bindings"]
            if f"serviceAccount:{caller}" in binding.get("members", ())
            and _holds(binding.get("condition"), resource)
            for permission in _ROLES.get(binding["role"], ())
        }
        return _Permissions(frozenset(granted))


class _Permissions:
    """A set of them, or all."""

    def __init__(self, names: frozenset[str] | None) -> None:
        self._names = names

    def __contains__(self, name: str) -> bool:
        return self._names is None or name in self._names


def check_policy(policy: Mapping[str, Any]) -> None:
    """Raise 400 for a policy that the service does not take, and 501 for one that is not understood here."""
    for binding in policy.get("bindings", ()):
        if not binding.get("role") or not binding.get("members"):
            raise ServiceError(400, "Role and members of a binding have to be given.")
        if "condition" in binding and policy.get("version") != 3:
            raise ServiceError(400, "A policy with conditions has to have version 3.")
        rest = (
            _STARTS.sub("", binding.get("condition", {}).get("expression", ""))
            .replace("||", "")
            .strip(" ()\n")
        )
        if rest:
            raise errors.unimplemented(f"the condition {rest!r} of a bucket's policy")


def _holds(condition: Mapping[str, Any] | None, resource: str) -> bool:
    if condition is None:
        return True
    return any(resource.startswith(found[2]) for found in _STARTS.finditer(condition["expression"]))

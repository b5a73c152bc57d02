"""The JSON API of Storage: buckets and their policies.

Paths are those of google/cloud/storage/{bucket,client}.py, answers those of
https://cloud.google.com/storage/docs/json_api/v1/buckets.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from tests.emulators.events import EventLog
from tests.emulators.gcp import errors
from tests.emulators.gcp.access import Access, check_policy
from tests.emulators.gcp.calls import Call, Reply, answers
from tests.emulators.gcp.errors import ServiceError
from tests.emulators.gcp.store import Bucket, Store, check_conditions

_ALL = "/storage/v1/b"
_ONE = f"{_ALL}/{{bucket}}"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_PAGE = 1000


class Buckets:
    """The part of the API. Belongs to the emulator's loop."""

    def __init__(self, store: Store, access: Access, events: EventLog) -> None:
        self._store = store
        self._access = access
        self._events = events

    @answers("storage.buckets.insert", "POST", _ALL, lambda _, request: str(request.json().get("name", "")))
    async def insert(self, call: Call) -> Reply:
        """Create a bucket; all projects share one space of names."""
        fields = call.request.json()
        name = fields.pop("name", "")
        self._check_project(call)
        if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name or name.startswith("goog"):
            raise ServiceError(400, f"Invalid bucket name: '{name}'")
        taken = self._store.buckets.get(name)
        if taken is not None:
            raise ServiceError(
                409,
                "Your previous request to create the named bucket succeeded and you already own it."
                if taken.owner == self._store.project
                else "The requested bucket name is not available. The bucket namespace is shared by all users of the system. "
                "Please select a different name and try again.",
            )
        _check_fields(fields)
        bucket = self._store.buckets[name] = Bucket(name, self._store.project, fields)
        self._events.record("bucket_created", bucket=name)
        return Reply.of(bucket.resource(call.request.origin))

    @answers("storage.buckets.list", "GET", _ALL)
    async def list(self, call: Call) -> Reply:
        """List the project's."""
        self._check_project(call)
        prefix, after = call.request.query.get("prefix", ""), call.request.query.get("pageToken", "")
        own = [bucket for bucket in self._store.buckets.values() if bucket.owner == self._store.project]
        names = sorted(
            bucket.name for bucket in own if bucket.name.startswith(prefix) and bucket.name > after
        )
        limit = call.page("maxResults", _PAGE)
        items = [self._store.buckets[name].resource(call.request.origin) for name in names[:limit]]
        reply: dict[str, object] = {"kind": "storage#buckets", "items": items}
        if len(names) > limit:
            reply["nextPageToken"] = names[limit - 1]
        return Reply.of(reply)

    @answers("storage.buckets.get", "GET", _ONE, "{bucket}")
    async def get(self, call: Call) -> Reply:
        """Describe one."""
        bucket = self._access.bucket(call, "storage.buckets.get")
        check_conditions(call.request.query, bucket, reading=True)
        return Reply.of(bucket.resource(call.request.origin))

    @answers("storage.buckets.patch", "PATCH", _ONE, "{bucket}")
    @answers("storage.buckets.update", "PUT", _ONE, "{bucket}")
    async def change(self, call: Call) -> Reply:
        """Change labels, lifecycle, soft delete and the like."""
        bucket = self._access.bucket(call, "storage.buckets.update")
        check_conditions(call.request.query, bucket)
        fields = call.request.json()
        _check_fields(fields)
        bucket.change(fields)
        return Reply.of(bucket.resource(call.request.origin))

    @answers("storage.buckets.delete", "DELETE", _ONE, "{bucket}")
    async def delete(self, call: Call) -> Reply:
        """Delete an empty one."""
        bucket = self._access.bucket(call, "storage.buckets.delete")
        check_conditions(call.request.query, bucket)
        if len(bucket):
            raise ServiceError(409, "The bucket you tried to delete is not empty.")
        del self._store.buckets[bucket.name]
        self._events.record("bucket_deleted", bucket=bucket.name)
        return Reply(status=204)

    @answers("storage.buckets.getIamPolicy", "GET", f"{_ONE}/iam", "{bucket}")
    async def get_policy(self, call: Call) -> Reply:
        """Its policy, with conditions for who asks for version 3."""
        bucket = self._access.bucket(call, "storage.buckets.getIamPolicy")
        if bucket.policy["version"] == 3 and (call.number("optionsRequestedPolicyVersion") or 1) < 3:
            raise errors.unimplemented("a policy with conditions in an older version than 3")
        return Reply.of({**bucket.policy, "etag": _etag(bucket)})

    @answers("storage.buckets.setIamPolicy", "PUT", f"{_ONE}/iam", "{bucket}")
    async def set_policy(self, call: Call) -> Reply:
        """Replace its policy, unless that has changed since it was read."""
        bucket = self._access.bucket(call, "storage.buckets.setIamPolicy")
        policy = call.request.json()
        if policy.get("etag", _etag(bucket)) != _etag(bucket):
            raise ServiceError(412, "The policy has been changed since it was read.")
        check_policy(policy)
        version = policy.get("version") or 1
        bucket.policy = {"kind": "storage#policy", "version": version, "bindings": policy.get("bindings", [])}
        bucket.policy_number += 1
        return Reply.of({**bucket.policy, "etag": _etag(bucket)})

    @answers("storage.buckets.testIamPermissions", "GET", f"{_ONE}/iam/testPermissions", "{bucket}")
    async def test_permissions(self, call: Call) -> Reply:
        """Those of the permissions asked about that the caller has."""
        name = call.names["bucket"]
        if name not in self._store.buckets:
            raise ServiceError(404, "The specified bucket does not exist.")
        granted = self._access.permissions(call.caller, self._store.buckets[name])
        asked = call.request.lists.get("permissions", [])
        return Reply.of(
            {
                "kind": "storage#testIamPermissionsResponse",
                "permissions": [each for each in asked if each in granted],
            }
        )

    def _check_project(self, call: Call) -> None:
        project = call.request.query.get("project", "")
        if project != self._store.project:
            raise errors.denied(call.method, f"projects/{project}")


def _check_fields(fields: Mapping[str, Any]) -> None:
    if (fields.get("versioning") or {}).get("enabled"):
        raise errors.unimplemented("versioning of objects")


def _etag(bucket: Bucket) -> str:
    return base64.b64encode(str(bucket.policy_number).encode()).decode()

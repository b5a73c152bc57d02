"""Buckets and objects, strongly consistent, with generations and what requests may demand of them.

https://cloud.google.com/storage/docs/request-preconditions, https://cloud.google.com/storage/docs/soft-delete,
https://cloud.google.com/storage/docs/lifecycle.
"""

from __future__ import annotations

import base64
import bisect
import hashlib
import math
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote

import google_crc32c

from tests.emulators.gcp.calls import Call
from tests.emulators.gcp.errors import ServiceError
from tests.emulators.gcp.states import now

_DAY = 86_400
_SOFT_DELETED_FOR = 7 * _DAY
_WRITABLE = (
    "cacheControl",
    "contentDisposition",
    "contentEncoding",
    "contentLanguage",
    "contentType",
    "customTime",
)


@dataclass
class StoredObject:
    """One generation of an object."""

    bucket: str
    name: str
    content: bytes
    generation: int
    fields: dict[str, Any]
    """What the client has said of it."""
    metageneration: int = 1
    components: int = 0
    """Of how many it was composed; 0 for none."""
    created: float = field(default_factory=time.time)
    updated: str = field(default_factory=now)
    time_created: str = field(default_factory=now)

    @cached_property
    def checksums(self) -> dict[str, str]:
        """As `crc32c` and `md5Hash`; a composed object has no MD5."""
        crc = struct.pack(">I", google_crc32c.value(self.content))
        found = {"crc32c": base64.b64encode(crc).decode()}
        if not self.components:
            found["md5Hash"] = base64.b64encode(hashlib.md5(self.content).digest()).decode()
        return found

    @property
    def etag(self) -> str:
        """Changes with both generations."""
        return base64.b64encode(f"{self.generation}/{self.metageneration}".encode()).decode()

    def resource(self, origin: str) -> dict[str, Any]:
        """An Object, in JSON."""
        path = f"storage/v1/b/{quote(self.bucket, safe='')}/o/{quote(self.name, safe='')}"
        described = {
            "kind": "storage#object",
            "id": f"{self.bucket}/{self.name}/{self.generation}",
            "selfLink": f"{origin}/{path}",
            "mediaLink": f"{origin}/download/{path}?generation={self.generation}&alt=media",
            "name": self.name,
            "bucket": self.bucket,
            "generation": str(self.generation),
            "metageneration": str(self.metageneration),
            "contentType": "application/octet-stream",
            "storageClass": "STANDARD",
            "size": str(len(self.content)),
            "etag": self.etag,
            "timeCreated": self.time_created,
            "updated": self.updated,
            **self.checksums,
            **self.fields,
        }
        if self.components:
            described["componentCount"] = self.components
        return described


class Bucket:
    """A bucket, and what is in it."""

    def __init__(self, name: str, owner: str, fields: Mapping[str, Any]) -> None:
        self.name = name
        self.owner = owner
        self.fields: dict[str, Any] = {
            "location": "US",
            "locationType": "multi-region",
            "storageClass": "STANDARD",
            "softDeletePolicy": {"retentionDurationSeconds": str(_SOFT_DELETED_FOR), "effectiveTime": now()},
            **fields,
        }
        self.policy: dict[str, Any] = {"kind": "storage#policy", "version": 1, "bindings": []}
        self.policy_number = 1
        self.metageneration = 1
        self.created = now()
        self.updated = self.created
        self._names: list[str] = []
        self._objects: dict[str, StoredObject] = {}
        self.soft_deleted: list[StoredObject] = []
        self._mutated: dict[str, float] = {}

    def resource(self, origin: str) -> dict[str, Any]:
        """A Bucket, in JSON."""
        return {
            "kind": "storage#bucket",
            "id": self.name,
            "name": self.name,
            "selfLink": f"{origin}/storage/v1/b/{self.name}",
            "projectNumber": "123456789012",
            "metageneration": str(self.metageneration),
            "etag": base64.b64encode(str(self.metageneration).encode()).decode(),
            "timeCreated": self.created,
            "updated": self.updated,
            **self.fields,
        }

    def change(self, fields: Mapping[str, Any]) -> None:
        """Merge what a patch says; None takes a field away."""
        self.fields = merge(self.fields, fields)
        self.metageneration += 1
        self.updated = now()

    def get(self, name: str) -> StoredObject | None:
        """The live generation of an object."""
        return self._objects.get(name)

    def names(self, prefix: str = "", start: str = "") -> Iterator[str]:
        """Those with a prefix, from `start` on, in the order of their UTF-8."""
        for position in range(bisect.bisect_left(self._names, max(prefix, start)), len(self._names)):
            name = self._names[position]
            if name.startswith(prefix):
                yield name
            elif name > prefix:
                return

    def put(self, stored: StoredObject) -> None:
        """Make it the live generation."""
        if stored.name in self._objects:
            self.remove(stored.name)
        bisect.insort(self._names, stored.name)
        self._objects[stored.name] = stored

    def remove(self, name: str) -> None:
        """Have no live generation any more; it stays for as long as the bucket's policy says."""
        stored = self._objects.pop(name)
        del self._names[bisect.bisect_left(self._names, name)]
        if int(self.fields.get("softDeletePolicy", {}).get("retentionDurationSeconds", 0)):
            self.soft_deleted.append(stored)

    def hold_back(self, name: str, apart: float) -> None:
        """Raise 429 for a mutation that comes less than so many seconds after the last one of this object."""
        last, self._mutated[name] = self._mutated.get(name, -math.inf), time.monotonic()
        if self._mutated[name] - last < apart:
            self._mutated[name] = last
            raise ServiceError(
                429,
                f"The object {self.name}/{name} exceeded the rate limit for object mutation operations (create, update, and "
                "delete). Please reduce your request rate. See https://cloud.google.com/storage/docs/gcs429.",
            )

    def expired(self, at: float) -> list[str]:
        """The objects that a lifecycle rule deletes at a time; of conditions, `age`, `matchesPrefix`, `matchesSuffix`."""
        rules = [
            rule["condition"]
            for rule in self.fields.get("lifecycle", {}).get("rule", ())
            if rule.get("action", {}).get("type") == "Delete"
        ]
        return [
            stored.name
            for stored in self._objects.values()
            if any(_applies(rule, stored, at) for rule in rules)
        ]

    def __len__(self) -> int:
        return len(self._objects)


@dataclass
class Store:
    """All buckets, which share one space of names. Belongs to the emulator's loop."""

    project: str
    buckets: dict[str, Bucket] = field(default_factory=dict)
    mutations_apart: float | None = None
    """Seconds that an object has to be left alone between mutations; None where it takes any."""
    _generation: int = field(default_factory=lambda: time.time_ns() // 1000)

    def next_generation(self) -> int:
        """Higher than all before."""
        self._generation += 1
        return self._generation

    def write(
        self,
        call: Call,
        bucket: Bucket,
        name: str,
        content: bytes,
        said: Mapping[str, Any],
        *,
        conditions: Mapping[str, str] | None = None,
        components: int = 0,
    ) -> StoredObject:
        """A new generation, if what the request demands holds, and the content is what it says."""
        check_name(name)
        check_conditions(call.request.query if conditions is None else conditions, bucket.get(name))
        fields = {key: value for key, value in said.items() if key in _WRITABLE and value is not None}
        fields |= {"metadata": dict(said["metadata"])} if said.get("metadata") else {}
        stored = StoredObject(
            bucket.name, name, content, self.next_generation(), fields, components=components
        )
        for key, value in stored.checksums.items():
            if said.get(key, value) != value:
                raise ServiceError(
                    400, f"Provided {key} {said[key]!r} doesn't match calculated {key} {value!r}."
                )
        if self.mutations_apart is not None:
            bucket.hold_back(name, self.mutations_apart)
        bucket.put(stored)
        return stored

    def expire(self, days: float) -> list[str]:
        """Delete what lifecycle rules will have deleted in so many days; returns `bucket/object` of each."""
        at = time.time() + days * _DAY
        expired = [(bucket, name) for bucket in self.buckets.values() for name in bucket.expired(at)]
        for bucket, name in expired:
            bucket.remove(name)
        return [f"{bucket.name}/{name}" for bucket, name in expired]


def check_name(name: str) -> None:
    """Raise for a name that no object can have."""
    if not name or len(name.encode()) > 1024 or "\r" in name or "\n" in name or name in {".", ".."}:
        raise ServiceError(400, f"Invalid object name: {name!r}")


def check_conditions(
    query: Mapping[str, str], current: StoredObject | Bucket | None, *, reading: bool = False
) -> None:
    """Raise 412 if one of the request's preconditions does not hold; 304 where a reader has the same already."""
    generation = getattr(current, "generation", 0)
    metageneration = 0 if current is None else current.metageneration
    for name, actual in (("Generation", generation), ("Metageneration", metageneration)):
        wanted, unwanted = query.get(f"if{name}Match"), query.get(f"if{name}NotMatch")
        if wanted is not None and wanted != str(actual):
            raise _condition_error()
        if unwanted is not None and unwanted == str(actual):
            raise ServiceError(304, "") if reading else _condition_error()


def _condition_error() -> ServiceError:
    return ServiceError(412, "At least one of the pre-conditions you specified did not hold.")


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What a patch makes of a resource (RFC 7396)."""
    merged = dict(old)
    for name, value in new.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(old.get(name), Mapping):
            merged[name] = merge(old[name], value)
        else:
            merged[name] = value
    return merged


def _applies(condition: Mapping[str, Any], stored: StoredObject, at: float) -> bool:
    prefixes, suffixes = condition.get("matchesPrefix"), condition.get("matchesSuffix")
    return (
        at - stored.created >= condition.get("age", 0) * _DAY
        and (not prefixes or stored.name.startswith(tuple(prefixes)))
        and (not suffixes or stored.name.endswith(tuple(suffixes)))
    )

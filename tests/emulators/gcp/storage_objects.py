"""The JSON API of Storage: objects, but for uploads.

Paths are those of google/cloud/storage/{blob,bucket,client}.py, answers those of
https://cloud.google.com/storage/docs/json_api/v1/objects, headers of downloads those that
google/cloud/storage/_media/requests/download.py looks for.
"""

from __future__ import annotations

import base64
import datetime as dt
import email.utils
import re
from typing import Any

from tests.emulators.gcp import errors
from tests.emulators.gcp.access import Access
from tests.emulators.gcp.calls import Call, Reply, answers
from tests.emulators.gcp.errors import ServiceError
from tests.emulators.gcp.states import now
from tests.emulators.gcp.store import Bucket, Store, StoredObject, check_conditions, merge

_ALL = "/storage/v1/b/{bucket}/o"
_ONE = f"{_ALL}/{{object}}"
_ABOUT = "{bucket}/{object}"
_PAGE = 1000
_MOST_COMPONENTS = 32
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_UNKNOWN = ("matchGlob", "includeFoldersAsPrefixes", "filter")
"""Parameters of lists that are not done here."""


class Objects:
    """The part of the API. Belongs to the emulator's loop."""

    def __init__(self, store: Store, access: Access) -> None:
        self._store = store
        self._access = access

    @answers("storage.objects.list", "GET", _ALL, "{bucket}")
    async def list(self, call: Call) -> Reply:
        """Objects, and prefixes up to the delimiter, in the order of their names. There are no noncurrent versions."""
        query = call.request.query
        prefix = query.get("prefix", "")
        bucket = self._access.bucket(call, "storage.objects.list", object_name=prefix)
        for name in _UNKNOWN:
            if query.get(name, "").lower() not in {"false", ""}:
                raise errors.unimplemented(f"{name} of lists of objects")
        if call.flag("softDeleted"):
            items = [
                each.resource(call.request.origin)
                for each in bucket.soft_deleted
                if each.name.startswith(prefix)
            ]
            return Reply.of({"kind": "storage#objects", "items": items})
        return Reply.of(_page(call, bucket, prefix))

    @answers("storage.objects.get", "GET", f"/download{_ONE}", _ABOUT)
    @answers("storage.objects.get", "GET", _ONE, _ABOUT)
    async def get(self, call: Call) -> Reply:
        """Describe one, or with `alt=media` its content or a range of that."""
        stored = self._find(call, "storage.objects.get")
        check_conditions(call.request.query, stored, reading=True)
        if call.request.query.get("alt") != "media":
            return Reply.of(stored.resource(call.request.origin))
        return _media(stored, call.request.headers.get("range"))

    @answers("storage.objects.patch", "PATCH", _ONE, _ABOUT)
    @answers("storage.objects.update", "PUT", _ONE, _ABOUT)
    async def change(self, call: Call) -> Reply:
        """Change what is said of it."""
        stored = self._find(call, "storage.objects.update")
        check_conditions(call.request.query, stored)
        stored.fields = merge(stored.fields, call.request.json())
        stored.metageneration += 1
        stored.updated = now()
        return Reply.of(stored.resource(call.request.origin))

    @answers("storage.objects.delete", "DELETE", _ONE, _ABOUT)
    async def delete(self, call: Call) -> Reply:
        """Delete the live generation."""
        stored = self._find(call, "storage.objects.delete")
        check_conditions(call.request.query, stored)
        bucket = self._store.buckets[stored.bucket]
        if self._store.mutations_apart is not None:
            bucket.hold_back(stored.name, self._store.mutations_apart)
        bucket.remove(stored.name)
        return Reply(status=204)

    @answers("storage.objects.compose", "POST", f"{_ONE}/compose", _ABOUT)
    async def compose(self, call: Call) -> Reply:
        """Put objects of a bucket together."""
        name = call.names["object"]
        bucket = self._access.bucket(call, "storage.objects.create", object_name=name)
        asked = call.request.json()
        parts = asked.get("sourceObjects", [])
        if not 1 <= len(parts) <= _MOST_COMPONENTS:
            raise ServiceError(
                400,
                f"The number of source components provided ({len(parts)}) is not between 1 and {_MOST_COMPONENTS}.",
            )
        sources = []
        for part in parts:
            self._access.bucket(call, "storage.objects.get", object_name=part["name"])
            source = _live(bucket, part["name"], str(part.get("generation", "")))
            conditions = part.get("objectPreconditions", {})
            check_conditions({key: str(value) for key, value in conditions.items()}, source)
            sources.append(source)
        content = b"".join(source.content for source in sources)
        components = sum(source.components or 1 for source in sources)
        said = asked.get("destination", {})
        stored = self._store.write(call, bucket, name, content, said, components=components)
        return Reply.of(stored.resource(call.request.origin))

    @answers("storage.objects.copy", "POST", f"{_ONE}/copyTo/b/{{to_bucket}}/o/{{to}}", "{to_bucket}/{to}")
    async def copy(self, call: Call) -> Reply:
        """Copy one."""
        return Reply.of(self._copy(call).resource(call.request.origin))

    @answers(
        "storage.objects.rewrite", "POST", f"{_ONE}/rewriteTo/b/{{to_bucket}}/o/{{to}}", "{to_bucket}/{to}"
    )
    async def rewrite(self, call: Call) -> Reply:
        """Copy one, all at once."""
        stored = self._copy(call)
        size = str(len(stored.content))
        done = {
            "kind": "storage#rewriteResponse",
            "totalBytesRewritten": size,
            "objectSize": size,
            "done": True,
        }
        return Reply.of({**done, "resource": stored.resource(call.request.origin)})

    def _copy(self, call: Call) -> StoredObject:
        source = self._find(call, "storage.objects.get", parameter="sourceGeneration")
        prefix = "ifSource"
        conditions = {
            f"if{name.removeprefix(prefix)}": value
            for name, value in call.request.query.items()
            if name.startswith(prefix)
        }
        check_conditions(conditions, source)
        bucket = self._access.bucket(
            call, "storage.objects.create", call.names["to_bucket"], call.names["to"]
        )
        said = {**source.fields, **call.request.json()}
        return self._store.write(
            call, bucket, call.names["to"], source.content, said, components=source.components
        )

    def _find(self, call: Call, permission: str, parameter: str = "generation") -> StoredObject:
        name = call.names["object"]
        bucket = self._access.bucket(call, permission, object_name=name)
        if bucket.get(name) is None:  # which only those are told who could list it
            self._access.bucket(call, "storage.objects.list")
        return _live(bucket, name, call.request.query.get(parameter))


def _live(bucket: Bucket, name: str, generation: str | None) -> StoredObject:
    stored = bucket.get(name)
    if stored is None or generation not in {None, "", str(stored.generation)}:
        raise ServiceError(404, f"No such object: {bucket.name}/{name}")
    return stored


def _page(call: Call, bucket: Bucket, prefix: str) -> dict[str, Any]:
    query = call.request.query
    delimiter, end = query.get("delimiter", ""), query.get("endOffset", "")
    after = base64.urlsafe_b64decode(query["pageToken"]).decode() if query.get("pageToken") else ""
    limit = call.page("maxResults", _PAGE)
    items: list[dict[str, Any]] = []
    prefixes: list[str] = []
    last = ""
    reply: dict[str, Any] = {"kind": "storage#objects"}
    for name in bucket.names(prefix, max(query.get("startOffset", ""), after)):
        if end and name >= end:
            break
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        shown = name if cut < 0 else name[: cut + len(delimiter)]
        if shown <= after or shown in prefixes[-1:]:
            continue
        if len(items) + len(prefixes) == limit:
            reply["nextPageToken"] = base64.urlsafe_b64encode(last.encode()).decode()
            break
        last = shown
        stored = bucket.get(name)
        assert stored is not None
        if shown == name:
            items.append(stored.resource(call.request.origin))
        else:
            prefixes.append(shown)
    return {**reply, **({"items": items} if items else {}), **({"prefixes": prefixes} if prefixes else {})}


def _media(stored: StoredObject, wanted: str | None) -> Reply:
    checksums = stored.checksums
    hashes = [
        f"{header}={checksums[key]}"
        for key, header in (("crc32c", "crc32c"), ("md5Hash", "md5"))
        if key in checksums
    ]
    size = len(stored.content)
    headers = {
        "Content-Type": stored.fields.get("contentType", "application/octet-stream"),
        "ETag": stored.etag,
        "Last-Modified": email.utils.format_datetime(dt.datetime.fromisoformat(stored.updated), usegmt=True),
        "X-Goog-Generation": str(stored.generation),
        "X-Goog-Metageneration": str(stored.metageneration),
        "X-Goog-Hash": ",".join(hashes),
        "X-Goog-Storage-Class": "STANDARD",
        "X-Goog-Stored-Content-Encoding": stored.fields.get("contentEncoding", "identity"),
        "X-Goog-Stored-Content-Length": str(size),
    }
    if "contentEncoding" in stored.fields:
        headers["Content-Encoding"] = stored.fields["contentEncoding"]
    found = _RANGE.fullmatch(wanted or "")
    if found is None or found.groups() == ("", ""):
        return Reply(stored.content, headers=headers)
    first, last = found.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1, size) if first and last else size
    if start >= size or stop <= start:
        raise ServiceError(
            416, "The requested range cannot be satisfied.", headers={"Content-Range": f"bytes */{size}"}
        )
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Reply(stored.content[start:stop], 206, headers)

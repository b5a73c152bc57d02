"""The JSON API of Storage: the three ways of writing an object.

As google/cloud/storage/blob.py does them: `_do_multipart_upload`, and `_do_resumable_upload` for what is larger than 8 MiB or
has no known size, with google/cloud/storage/_media/_upload.py; media uploads are for clients of our own.
https://cloud.google.com/storage/docs/performing-resumable-uploads.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from tests.emulators.gcp.access import Access
from tests.emulators.gcp.calls import Call, Reply, Request, answers
from tests.emulators.gcp.errors import ServiceError
from tests.emulators.gcp.store import Store, check_conditions

_PATH = "/upload/storage/v1/b/{bucket}/o"
_RANGE = re.compile(r"bytes (?:(?P<first>\d+)-(?P<last>\d+)|\*)/(?P<total>\d+|\*)")
_HASHES = {"crc32c": "crc32c", "md5": "md5Hash"}


@dataclass
class _Session:
    bucket: str
    name: str
    said: Mapping[str, Any]
    conditions: Mapping[str, str]
    caller: str
    content: bytearray


def _about(names: Mapping[str, str], request: Request) -> str:
    return f"{names['bucket']}/{_object_name(request)}"


def _about_session(names: Mapping[str, str], request: Request) -> str:
    """The name of a session begins with that of its object."""
    return f"{names['bucket']}/{unquote(request.query.get('upload_id', '').rpartition('.')[0])}"


class Uploads:
    """The part of the API. Belongs to the emulator's loop."""

    def __init__(self, store: Store, access: Access) -> None:
        self._store = store
        self._access = access
        self._sessions: dict[str, _Session] = {}

    @answers("storage.objects.insert", "POST", _PATH, _about)
    async def insert(self, call: Call) -> Reply:
        """Write an object, or begin to."""
        request = call.request
        name = _object_name(request)
        bucket = self._access.bucket(call, "storage.objects.create", object_name=name)
        kind = request.query.get("uploadType")
        if kind == "resumable":
            return self._begin(call, name)
        if kind == "multipart":
            said, content = _parts(request)
        elif kind == "media":
            said, content = {"contentType": request.headers.get("content-type")}, request.body
        else:
            raise ServiceError(400, f"Invalid value for parameter uploadType: {kind!r}")
        stored = self._store.write(call, bucket, name, content, said)
        return Reply.of(stored.resource(request.origin))

    @answers("storage.objects.insert", "PUT", _PATH, _about_session)
    async def resume(self, call: Call) -> Reply:
        """Take a piece of an upload, or with `bytes */…` say how much has come."""
        upload_id = call.request.query.get("upload_id", "")
        session = self._sessions.get(upload_id)
        if session is None:
            raise ServiceError(404, f"Upload session {upload_id!r} does not exist or has ended")
        wanted = call.request.headers.get("content-range", f"bytes */{len(call.request.body)}")
        found = _RANGE.fullmatch(wanted)
        if found is None:
            raise ServiceError(400, f"Invalid Content-Range: {wanted!r}")
        _take(session, found, call.request)
        if found["total"] == "*" or int(found["total"]) > len(session.content):
            have = {"Range": f"bytes=0-{len(session.content) - 1}"} if session.content else {}
            return Reply(status=308, headers=have)
        hashes = dict(
            each.split("=", 1) for each in call.request.headers.get("x-goog-hash", "").split(",") if each
        )
        said = {**session.said, **{_HASHES[name.strip()]: value for name, value in hashes.items()}}
        bucket = self._access.bucket(call, "storage.objects.create", object_name=session.name)
        stored = self._store.write(
            call, bucket, session.name, bytes(session.content), said, conditions=session.conditions
        )
        del self._sessions[upload_id]
        return Reply.of(stored.resource(call.request.origin))

    @answers("storage.objects.cancelUpload", "DELETE", _PATH, _about_session)
    async def cancel(self, call: Call) -> Reply:
        """Give an upload up."""
        self._sessions.pop(call.request.query.get("upload_id", ""), None)
        return Reply(status=499)

    def _begin(self, call: Call, name: str) -> Reply:
        request = call.request
        bucket = self._store.buckets[call.names["bucket"]]
        check_conditions(request.query, bucket.get(name))
        said = {"contentType": request.headers.get("x-upload-content-type"), **request.json()}
        upload_id = f"{quote(name, safe='')}.{secrets.token_hex(16)}"
        self._sessions[upload_id] = _Session(bucket.name, name, said, request.query, call.caller, bytearray())
        place = f"{request.origin}/upload/storage/v1/b/{bucket.name}/o"
        location = f"{place}?uploadType=resumable&upload_id={quote(upload_id, safe='')}"
        return Reply(headers={"Location": location, "X-GUploader-UploadID": upload_id})


def _take(session: _Session, found: re.Match[str], request: Request) -> None:
    """Add a piece; what has come already may come again."""
    if found["first"] is None:
        if "content-range" not in request.headers:  # all of it at once
            session.content[:] = request.body
        return
    first, last = int(found["first"]), int(found["last"])
    if last - first + 1 != len(request.body) or first > len(session.content):
        raise ServiceError(503, f"Bytes {len(session.content)} and on were expected")
    session.content[first:] = request.body


def _object_name(request: Request) -> str:
    """The query has it, or what is said of the object."""
    name = request.query.get("name")
    if name is None:
        kind = request.query.get("uploadType")
        said = _parts(request)[0] if kind == "multipart" else request.json() if kind == "resumable" else {}
        name = said.get("name")
    if not isinstance(name, str) or not name:
        raise ServiceError(400, "Required parameter: name", reason="required")
    return name


def _parts(request: Request) -> tuple[dict[str, Any], bytes]:
    """What is said of an object, and its content: multipart/related of RFC 2387 with two parts."""
    found = re.search(r'boundary="?([^";]+)"?', request.headers.get("content-type", ""))
    pieces = request.body.split(b"--" + found[1].encode(), 2) if found else []
    if len(pieces) != 3:
        raise ServiceError(400, "A multipart upload has to have two parts")
    heads_and_bodies = [piece.partition(b"\r\n\r\n") for piece in pieces[1:]]
    try:
        said = json.loads(heads_and_bodies[0][2])
    except ValueError as error:
        raise ServiceError(400, f"Invalid JSON payload received: {error}", reason="parseError") from error
    media = heads_and_bodies[1]
    # the content may hold the boundary of the parts only after the last line's end
    end = media[2].rfind(b"\r\n--" + found[1].encode() + b"--") if found else -1
    kind = re.search(rb"(?i)content-type:\s*([^\r\n]+)", media[0])
    if kind is not None:
        said.setdefault("contentType", kind[1].decode())
    return said, media[2][:end]

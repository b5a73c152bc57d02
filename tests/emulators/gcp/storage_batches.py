"""The JSON API of Storage: several calls in one request, as google/cloud/storage/batch.py packs and unpacks them."""

from __future__ import annotations

import email.parser
import email.policy
import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from tests.emulators.gcp.calls import Call, Reply, Request, answers
from tests.emulators.gcp.errors import ServiceError

_MOST = 100
"""Calls in a batch: https://cloud.google.com/storage/docs/batch."""


class Batches:
    """The part of the API."""

    def __init__(self) -> None:
        self.answer: Callable[[Request], Awaitable[Reply]]
        """Answers one call."""

    @answers("storage.batch", "POST", "/batch/storage/v1")
    async def run(self, call: Call) -> Reply:
        """Do all, one after the other; each has its own answer."""
        kind = call.request.headers.get("content-type", "")
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
            b"Content-Type: " + kind.encode() + b"\r\n\r\n" + call.request.body
        )
        if not message.is_multipart():
            raise ServiceError(400, "Failed to parse batch request, error: no parts")
        parts = [part.get_payload(decode=True) for part in message.iter_parts()]
        if len(parts) > _MOST:
            raise ServiceError(
                400, f"The batch request has {len(parts)} calls, and can have {_MOST}.", reason="badRequest"
            )
        boundary = f"batch_{secrets.token_hex(16)}"
        answered = b""
        for number, part in enumerate(parts):
            assert isinstance(part, bytes)
            reply = await self.answer(_request(part, call.request))
            answered += f"--{boundary}\r\nContent-Type: application/http\r\n".encode()
            answered += f"Content-ID: <response-{number}>\r\n\r\n".encode() + _packed(reply) + b"\r\n"
        answered += f"--{boundary}--\r\n".encode()
        return Reply(answered, headers={"Content-Type": f"multipart/mixed; boundary={boundary}"})


def _request(part: bytes, outer: Request) -> Request:
    head, _, body = part.replace(b"\r\n", b"\n").partition(b"\n\n")
    first, _, rest = head.partition(b"\n")
    verb, target, _ = (first.decode() + "  ").split(" ", 2)
    headers = dict(email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(rest + b"\n\n").items())
    headers.setdefault("Authorization", outer.headers.get("authorization", ""))
    if not headers["Authorization"]:
        del headers["Authorization"]
    path = target.removeprefix(outer.origin)
    if path.startswith(("/upload/", "/download/", "/batch/")):
        raise ServiceError(400, "Uploads, downloads and batches cannot be in a batch.", reason="badRequest")
    return Request.parse(verb, path, headers, body.rstrip(b"\n"), outer.origin)


def _packed(reply: Reply) -> bytes:
    headers = {**reply.headers, "Content-Length": str(len(reply.body))}
    lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + reply.body

"""The metadata server of a VM, as google/auth/compute_engine/_metadata.py asks it.

What there is: https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys. Each VM has a server of its own, at a
port of its own, where the real one is at the same address for all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.emulators.gcp import errors
from tests.emulators.gcp.calls import Call, Reply, answers
from tests.emulators.gcp.tokens import Tokens

_TEXT = "application/text"
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_FLAVOR = {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"}
_PROJECT_NUMBER = 123456789012


@dataclass(frozen=True)
class Subject:
    """Whom a metadata server tells about: a VM, or whoever has its roles."""

    project: str
    account: str
    zone: str
    name: str
    number: int
    attributes: Mapping[str, str]


class Metadata:
    """Of one subject."""

    def __init__(self, subject: Subject, tokens: Tokens) -> None:
        self._subject = subject
        self._tokens = tokens

    @answers("metadata.ping", "GET", "/")
    async def ping(self, call: Call) -> Reply:
        """Whether this is a metadata server."""
        return Reply(b"computeMetadata/\n", headers={"Content-Type": _TEXT, **_FLAVOR})

    @answers("metadata.token", "GET", "/computeMetadata/v1/instance/service-accounts/{account}/token")
    async def token(self, call: Call) -> Reply:
        """An access token of the service account, with the seconds for which it is still good."""
        refusal = _refuse(call)
        if refusal is not None:
            return refusal
        if call.names["account"] not in {"default", self._subject.account}:
            return _not_found()
        token = self._tokens.of(self._subject.account)
        said = {
            "access_token": token.value,
            "expires_in": max(0, int(token.expires - time.time())),
            "token_type": "Bearer",
        }
        return Reply(json.dumps(said).encode(), headers={"Content-Type": "application/json", **_FLAVOR})

    @answers("metadata.get", "GET", "/computeMetadata/v1/")
    @answers("metadata.get", "GET", "/computeMetadata/v1/{path=}")
    async def get(self, call: Call) -> Reply:
        """A value, a directory's names, or with `recursive=true` all of a directory, as JSON."""
        refusal = _refuse(call)
        if refusal is not None:
            return refusal
        found: Any = self._tree()
        for part in filter(None, call.names.get("path", "").split("/")):
            if not isinstance(found, Mapping) or part not in found:
                return _not_found()
            found = found[part]
        query = call.request.query
        if "wait_for_change" in query:
            raise errors.unimplemented("wait_for_change of the metadata server")
        if query.get("recursive") == "true" or query.get("alt") == "json":
            body = json.dumps(_camel(found))
            return Reply(body.encode(), headers={"Content-Type": "application/json", **_FLAVOR})
        return Reply(_text(found).encode(), headers={"Content-Type": _TEXT, **_FLAVOR})

    def _tree(self) -> Mapping[str, Any]:
        subject = self._subject
        account = {"aliases": ["default"], "email": subject.account, "scopes": _SCOPES}
        return {
            "instance": {
                "attributes": dict(subject.attributes),
                "id": subject.number,
                "name": subject.name,
                "preempted": "FALSE",  # who could read TRUE is gone by then
                "service-accounts": {"default": account, subject.account: account},
                "zone": f"projects/{_PROJECT_NUMBER}/zones/{subject.zone}",
            },
            "project": {"numeric-project-id": _PROJECT_NUMBER, "project-id": subject.project},
            "universe": {"universe-domain": "googleapis.com"},
        }


def _refuse(call: Call) -> Reply | None:
    """Of requests that no program of the VM makes by mistake: a page in a browser, a proxy."""
    if call.request.headers.get("metadata-flavor") != "Google":
        return Reply(b"Missing Metadata-Flavor:Google header.", 403, {"Content-Type": "text/html", **_FLAVOR})
    if "x-forwarded-for" in call.request.headers:
        return Reply(b"X-Forwarded-For is not allowed.", 403, {"Content-Type": "text/html", **_FLAVOR})
    return None


def _not_found() -> Reply:
    return Reply(
        b"The requested URL was not found on this server.", 404, {"Content-Type": "text/html", **_FLAVOR}
    )


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "".join(
            f"{name}/\n" if isinstance(inner, Mapping) else f"{name}\n" for name, inner in value.items()
        )
    return "\n".join(value) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def _camel(value: Any) -> Any:
    """Names as recursive answers have them: `serviceAccounts` for `service-accounts`. Attributes keep theirs."""
    if not isinstance(value, Mapping):
        return value
    camel = {}
    for name, inner in value.items():
        first, *rest = name.split("-") if "@" not in name else [name]
        camel[first + "".join(word.capitalize() for word in rest)] = (
            inner if name == "attributes" else _camel(inner)
        )
    return camel

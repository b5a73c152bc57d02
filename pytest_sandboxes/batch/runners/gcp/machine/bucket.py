"""Objects of the run, over the JSON API, as the VM's own account."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

_CALL_TIMEOUT = 20.0
_PATIENCE = 120.0  # seconds for which a call is repeated
_SMALL = 64 << 20


class GoneError(Exception):
    """The service has not done what it was asked for, for as long as one may wait."""


class NoAccessError(GoneError):
    """It refuses."""


class Bucket:
    """Objects below the run's prefix."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._name = quote(config["bucket"], safe="")
        self._prefix = config["prefix"]
        base = urlsplit(os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com")
        self._kind = http.client.HTTPSConnection if base.scheme == "https" else http.client.HTTPConnection
        self._place = base.netloc
        self._connection: http.client.HTTPConnection | None = None
        self._token = ""

    def get(self, name: str) -> tuple[bytes, dict[str, str]] | None:
        """Content of an object, and headers of the answer; None where there is none, or none to be read.

        Who may not list a bucket is not told which.
        """
        status, headers, content = self._ask("GET", self._url(name) + "?alt=media")
        return None if status in {403, 404} else (content, headers)

    def fetch(self, name: str, path: Path) -> None:
        """Write an object's content to a file."""
        status, _, _ = self._ask("GET", self._url(name) + "?alt=media", into=path)
        if status in {403, 404}:
            raise GoneError(f"{name} is gone")

    def put(self, name: str, content: bytes, *, new: bool = True) -> None:
        """Write an object. One that has to be new may be there by a call of ours whose answer got lost."""
        query = {
            "uploadType": "media",
            "name": self._prefix + name,
            **({"ifGenerationMatch": 0} if new else {}),
        }
        self._ask("POST", f"/upload/storage/v1/b/{self._name}/o?{urlencode(query)}", content)

    def delete(self, name: str, generation: str = "") -> bool:
        """Remove an object, if it is there; False where it is another than that `generation`, and stays."""
        only = f"?ifGenerationMatch={quote(generation)}" if generation else ""
        status, _, _ = self._ask("DELETE", self._url(name) + only)
        return status != 412

    def close(self) -> None:
        """Close the connection, in place of which the next call takes another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _url(self, name: str) -> str:
        return f"/storage/v1/b/{self._name}/o/{quote(self._prefix + name, safe='')}"

    def _ask(
        self, method: str, url: str, body: bytes | None = None, into: Path | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        deadline, pause = time.monotonic() + _PATIENCE, 0.25
        while True:
            try:
                status, headers, content = self._ask_once(method, url, body, into)
                if status < 300 or status in {404, 412} or (status == 403 and method != "POST"):
                    return status, headers, content
                if status == 401:
                    self._token = ""
                elif status != 429 and status < 500:
                    kind = NoAccessError if status == 403 else GoneError
                    raise kind(f"{method} {url} is answered {status}: {content[:500]!r}")
                why = f"answered {status}"
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.close()
                why = repr(error)
            if time.monotonic() + pause > deadline:
                raise GoneError(f"{method} {url}: {why}")
            time.sleep(pause)
            pause = min(2 * pause, 8.0)

    def _ask_once(
        self, method: str, url: str, body: bytes | None, into: Path | None
    ) -> tuple[int, dict[str, str], bytes]:
        if not self._token:
            self._token = _token()
        if self._connection is None:
            self._connection = self._kind(self._place, timeout=_CALL_TIMEOUT)
        self._connection.request(method, url, body, {"Authorization": f"Bearer {self._token}"})
        response = self._connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        if into is None or response.status >= 300:
            content = response.read(_SMALL)
            if response.read(1):
                raise ValueError("an object that is too long")
            _check_whole(headers, len(content))
            return response.status, headers, content
        with into.open("wb") as file:
            shutil.copyfileobj(response, file, 1 << 20)
            _check_whole(headers, file.tell())
        return response.status, headers, b""


def _check_whole(headers: dict[str, str], size: int) -> None:
    """Raise OSError for a body that is cut off, which http.client does not when it is read in pieces."""
    promised = headers.get("content-length", "")
    if promised.isdecimal() and size != int(promised):
        raise OSError(f"{size} of {promised} bytes have come")


def _token() -> str:
    """An access token of the VM's account."""
    host = os.environ.get("GCE_METADATA_HOST") or "metadata.google.internal"
    connection = http.client.HTTPConnection(host, timeout=_CALL_TIMEOUT)
    try:
        path = "/computeMetadata/v1/instance/service-accounts/default/token"
        connection.request("GET", path, headers={"Metadata-Flavor": "Google"})
        response = connection.getresponse()
        content = response.read(_SMALL)
        if response.status != 200:
            raise OSError(f"the metadata server answers {response.status}")
        return str(json.loads(content)["access_token"])
    finally:
        connection.close()

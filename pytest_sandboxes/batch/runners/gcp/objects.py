"""The objects of one run: all below a prefix of its own, which says whose it is, and which nobody can guess."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import itertools
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_sandboxes.batch.runners.gcp.naming import ROOT, owner
from pytest_sandboxes.batch.runners.gcp.service import CALL_TIMEOUT, CancelledError, Service
from pytest_sandboxes.errors import BackendUnavailableError

if TYPE_CHECKING:
    from google.cloud.storage import Blob

_MOST_LISTED = 500_000
_UPLOAD_TIMEOUT = 300.0
_CHUNK = 8 << 20
_AT_ONCE = 100
"""Removals in one call, as many as the service takes."""
_PAUSE = 0.25
_Result = TypeVar("_Result")


def runs(service: Service) -> list[str]:
    """The runs of this user that have objects. Raises `BackendUnavailableError`."""

    def ask() -> list[str]:
        pager = service.bucket.list_blobs(
            prefix=f"{ROOT}{owner()}-", delimiter="/", timeout=CALL_TIMEOUT, retry=None
        )
        return [name for page in pager.pages for name in page.prefixes]

    found = service.call("storage", f"it cannot list bucket {service.section.bucket}", ask)
    return [name.removeprefix(ROOT).rstrip("/") for name in found]


class LostError(Exception):
    """An object is not as it was left: gone, or somebody else's."""


@dataclass(frozen=True)
class Version:
    """Of an object that is written again and again."""

    generation: int
    """0 before it is there."""
    written: datetime
    """When, by the service's clock."""


class _Reading(io.BufferedReader):
    """A file that is uploaded in pieces, of which none is begun any more once that is cancelled."""

    def __init__(self, path: Path, service: Service) -> None:
        super().__init__(path.open("rb", buffering=0))
        self._service = service

    def read(self, size: int | None = -1, /) -> bytes:
        """What comes next."""
        if self._service.cancelled.is_set():
            raise CancelledError
        return super().read(size)


class Objects:
    """Of one run."""

    def __init__(self, service: Service, run: str) -> None:
        self._service = service
        self._run = run
        self.prefix = f"{ROOT}{run}/"

    def cancelled_by(self, event: threading.Event) -> Objects:
        """The same, whose calls raise `CancelledError` in place of being begun once that is set."""
        return Objects(self._service.cancelled_by(event), self._run)

    def put(self, name: str, content: bytes) -> None:
        """Write a new object."""

        def upload(blob: Blob, more: dict[str, Any]) -> None:
            blob.upload_from_string(content, timeout=CALL_TIMEOUT, **more)

        self._write(name, _md5(content), upload)

    def put_file(self, name: str, path: Path) -> None:
        """Write a new object of a file."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))

        def upload(blob: Blob, more: dict[str, Any]) -> None:
            with _Reading(path, self._service) as file:
                blob.upload_from_file(file, size=path.stat().st_size, timeout=_UPLOAD_TIMEOUT, **more)

        self._write(name, base64.b64encode(digest.digest()).decode(), upload)

    def replace(
        self, name: str, content: bytes, before: int, own: Collection[bytes], timeout: float
    ) -> Version:
        """Write an object in place of its generation `before`, which is 0 where none is to be there.

        In place of a later one as well, if its content is in `own`: a call of ours may have been carried out and not
        answered. `timeout`: seconds after which a connection that says nothing is given up, and another one tried.
        Raises `LostError`.
        """
        from google.api_core.exceptions import NotFound, PreconditionFailed

        def write() -> Version:
            nonlocal before
            while True:
                blob = self._blob(name)
                try:
                    blob.upload_from_string(
                        content, timeout=timeout, if_generation_match=before, checksum="crc32c", retry=None
                    )
                    return Version(blob.generation, blob.updated)
                except PreconditionFailed:
                    try:
                        blob.reload(timeout=timeout, retry=None)
                    except NotFound:
                        raise LostError("is gone") from None
                if blob.md5_hash not in map(_md5, own):
                    raise LostError("has been written by somebody else")
                before = blob.generation

        return self._call(f"it cannot write to bucket {self._service.section.bucket}", write, (LostError,))

    def _write(self, name: str, md5: str, upload: Callable[[Blob, dict[str, Any]], None]) -> None:
        from google.api_core.exceptions import PreconditionFailed

        bucket = self._service.section.bucket
        more: dict[str, Any] = {"if_generation_match": 0, "checksum": "crc32c", "retry": None}

        def write() -> None:
            blob = self._blob(name, chunk_size=_CHUNK)
            try:
                upload(blob, more)
            except PreconditionFailed:
                # a call of ours may have been carried out and not answered
                blob.reload(timeout=CALL_TIMEOUT, retry=None)
                if blob.md5_hash != md5:
                    raise BackendUnavailableError(
                        f"backend gcp: {name} is in bucket {bucket} already, with other content: somebody else writes "
                        "there; use a bucket of your own"
                    ) from None

        self._call(f"it cannot write to bucket {bucket}", write)

    def list(self, folder: str, start: str = "") -> list[Blob]:
        """What there is in a folder, by name, from `start` on."""

        def ask() -> list[Blob]:
            found = self._service.bucket.list_blobs(
                prefix=self.prefix + folder,
                start_offset=self.prefix + folder + start,
                max_results=_MOST_LISTED,
                fields="items(name,size,generation,updated),nextPageToken",
                timeout=CALL_TIMEOUT,
                retry=None,
            )
            return list(found)

        return self._call(f"it cannot list bucket {self._service.section.bucket}", ask)

    def get(self, name: str, generation: int) -> bytes:
        """The content of an object, as it was listed; empty where it is gone."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        def ask() -> bytes:
            content: bytes = self._blob(name).download_as_bytes(
                if_generation_match=generation, timeout=CALL_TIMEOUT, retry=None
            )
            return content

        try:
            return self._call(
                f"it cannot read bucket {self._service.section.bucket}",
                ask,
                (NotFound, PreconditionFailed),
            )
        except (NotFound, PreconditionFailed):
            return b""

    def remove(self, name: str, patience: float) -> None:
        """Remove an object, if it is there."""
        from google.api_core.exceptions import NotFound

        with contextlib.suppress(NotFound):
            self._service.call(
                "storage",
                f"it cannot remove {name}",
                lambda: self._blob(name).delete(timeout=CALL_TIMEOUT, retry=None),
                patience=patience,
                passes=(NotFound,),
            )

    def remove_all(self, patience: float) -> None:
        """Remove all that is there; gives up when nothing more goes for so many seconds."""
        found = self.list("")
        fewest, deadline = len(found), time.monotonic() + patience
        while found:
            if len(found) < fewest:
                fewest, deadline = len(found), time.monotonic() + patience
            if time.monotonic() > deadline:
                bucket = self._service.section.bucket
                raise BackendUnavailableError(
                    f"backend gcp: {len(found)} objects of the run cannot be removed: gcloud storage rm --recursive "
                    f"gs://{bucket}/{self.prefix}"
                )
            remaining = iter(found)
            while some := list(itertools.islice(remaining, _AT_ONCE)):
                self._service.call("storage", "it cannot remove objects", partial(self._remove_some, some))
            found = self.list("")
            if found:
                time.sleep(_PAUSE)

    def _remove_some(self, blobs: Sequence[Blob]) -> None:
        # what is gone already is an error among the answers, and what is refused is listed once more
        with self._service.storage.batch(raise_exception=False):
            for blob in blobs:
                blob.delete(timeout=CALL_TIMEOUT, retry=None)

    def _blob(self, name: str, **more: Any) -> Blob:
        return self._service.bucket.blob(self.prefix + name, **more)

    def _call(
        self, what: str, function: Callable[[], _Result], passes: tuple[type[Exception], ...] = ()
    ) -> _Result:
        return self._service.call("storage", what, function, passes=passes)


def _md5(content: bytes) -> str:
    """As the service tells it."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()

"""Objects, as the Storage client sees them."""

from __future__ import annotations

import base64
import hashlib
import io
import random
import threading
from typing import TYPE_CHECKING

import pytest

from tests.emulators.gcp.conftest import Service

if TYPE_CHECKING:
    from google.cloud.storage import Bucket

MEBIBYTE = 1 << 20


@pytest.fixture
def bucket(service: Service) -> Bucket:
    return service.bucket()


def names(bucket: Bucket, **options: object) -> list[str]:
    return [blob.name for blob in bucket.list_blobs(**options)]


def test_written_and_read(bucket: Bucket) -> None:
    from google.api_core.exceptions import NotFound

    blob = bucket.blob("dir/a b ü/1?&#%2F")
    blob.metadata = {"key": "value"}
    blob.upload_from_string(b"content", content_type="text/plain")
    read = bucket.get_blob(blob.name)
    assert read is not None
    assert (read.size, read.content_type, read.metadata) == (7, "text/plain", {"key": "value"})
    assert read.generation == blob.generation
    assert read.md5_hash == base64.b64encode(hashlib.md5(b"content").digest()).decode()
    assert (
        read.download_as_bytes() == bucket.blob(blob.name).download_as_bytes(checksum="crc32c") == b"content"
    )
    assert bucket.get_blob("none") is None
    blob.delete()
    assert not blob.exists()
    for missing in (blob, bucket.blob("none")):
        with pytest.raises(NotFound, match="No such object"):
            missing.download_as_bytes()
    with pytest.raises(NotFound):
        blob.delete()


def test_empty(bucket: Bucket) -> None:
    blob = bucket.blob("empty")
    blob.upload_from_string(b"")
    assert blob.download_as_bytes() == b""


@pytest.mark.parametrize("chunk", [None, MEBIBYTE])
def test_larger_than_one_request(bucket: Bucket, chunk: int | None) -> None:
    content = random.Random(1).randbytes(9 * MEBIBYTE + 5)
    blob = bucket.blob("large", chunk_size=chunk)
    blob.upload_from_file(io.BytesIO(content), size=len(content))
    assert (
        hashlib.sha256(bucket.blob("large").download_as_bytes()).digest() == hashlib.sha256(content).digest()
    )
    blob.upload_from_file(io.BytesIO(content[:100]))  # of a size that is not known before
    assert blob.download_as_bytes() == content[:100]


def test_ranges(bucket: Bucket) -> None:
    from google.api_core.exceptions import RequestRangeNotSatisfiable

    blob = bucket.blob("part")
    blob.upload_from_string(b"0123456789")
    read = blob.download_as_bytes
    assert (read(start=2, end=4), read(start=8), read(start=8, end=99), read(start=-3)) == (
        b"234",
        b"89",
        b"89",
        b"789",
    )
    with pytest.raises(RequestRangeNotSatisfiable):
        read(start=10)


def test_a_checksum_that_is_wrong_is_refused(bucket: Bucket) -> None:
    from google.api_core.exceptions import BadRequest

    blob = bucket.blob("x")
    blob.crc32c = "AAAAAA=="
    with pytest.raises(BadRequest, match="doesn't match calculated"):
        blob.upload_from_string(b"content", checksum=None)
    assert not blob.exists()


def test_generations_and_preconditions(bucket: Bucket) -> None:
    from google.api_core.exceptions import NotModified, PreconditionFailed

    blob = bucket.blob("x")
    blob.upload_from_string(b"one", if_generation_match=0)
    first = blob.generation
    with pytest.raises(PreconditionFailed):
        bucket.blob("x").upload_from_string(b"two", if_generation_match=0)
    with pytest.raises(PreconditionFailed):
        bucket.blob("x").upload_from_file(io.BytesIO(b"two"), if_generation_match=0)
    assert blob.download_as_bytes() == b"one"
    blob.upload_from_string(b"two", if_generation_match=first)
    assert blob.generation > first
    with pytest.raises(PreconditionFailed):
        blob.delete(if_generation_match=first)
    with pytest.raises(PreconditionFailed):
        blob.download_as_bytes(if_generation_match=first)
    with pytest.raises(NotModified):
        blob.download_as_bytes(if_generation_not_match=blob.generation)
    blob.metadata = {"a": "b"}
    blob.patch(if_metageneration_match=1)
    assert blob.metageneration == 2
    with pytest.raises(PreconditionFailed):
        blob.patch(if_metageneration_match=1)
    blob.delete(if_generation_match=blob.generation)


def test_one_of_many_claims_wins(bucket: Bucket) -> None:
    from google.api_core.exceptions import PreconditionFailed

    won = []

    def claim(number: int) -> None:
        try:
            bucket.blob("claim").upload_from_string(str(number), if_generation_match=0, retry=None)
        except PreconditionFailed:
            return
        won.append(number)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert bucket.blob("claim").download_as_bytes() == str(won[0]).encode()


def test_lists(bucket: Bucket) -> None:
    for name in ("a/1", "a/2", "a/b/3", "b", "c/1", "c/2", "ä"):
        bucket.blob(name).upload_from_string(name)
    everything = ["a/1", "a/2", "a/b/3", "b", "c/1", "c/2", "ä"]
    assert names(bucket) == everything
    assert names(bucket, prefix="a/") == ["a/1", "a/2", "a/b/3"]
    assert names(bucket, start_offset="a/b") == everything[2:]
    assert names(bucket, prefix="a/", start_offset="a/2") == ["a/2", "a/b/3"]
    assert names(bucket, end_offset="b") == everything[:3]
    assert names(bucket, max_results=2) == everything[:2]
    pages = [[blob.name for blob in page] for page in bucket.list_blobs(page_size=3).pages]
    assert pages == [everything[:3], everything[3:6], everything[6:]]
    found = bucket.list_blobs(delimiter="/", page_size=1)
    assert ([blob.name for blob in found], found.prefixes) == (["b", "ä"], {"a/", "c/"})
    found = bucket.list_blobs(prefix="a/", delimiter="/")
    assert ([blob.name for blob in found], found.prefixes) == (["a/1", "a/2"], {"a/b/"})
    assert names(bucket, prefix="none") == []


def test_composed_and_copied(service: Service, bucket: Bucket) -> None:
    from google.api_core.exceptions import BadRequest, NotFound, PreconditionFailed

    parts = []
    for number in range(3):
        part = bucket.blob(f"part/{number}")
        part.upload_from_string(str(number), content_type="text/plain")
        parts.append(part)
    whole = bucket.blob("whole")
    whole.compose(parts, if_generation_match=0)
    assert whole.download_as_bytes() == b"012"
    assert (whole.component_count, whole.md5_hash) == (3, None)
    with pytest.raises(NotFound):
        whole.compose([bucket.blob("none")])
    with pytest.raises(BadRequest, match=r"\(33\)"):
        whole.compose([parts[0]] * 33)
    other = service.bucket()
    copy = bucket.copy_blob(parts[1], other, "copy")
    assert (copy.download_as_bytes(), copy.content_type) == (b"1", "text/plain")
    token, written, total = other.blob("again").rewrite(whole)
    assert (token, written, total, other.blob("again").download_as_bytes()) == (None, 3, 3, b"012")
    with pytest.raises(PreconditionFailed):
        other.blob("again").rewrite(whole, if_generation_match=0)


def test_several_calls_in_one_request(service: Service, bucket: Bucket) -> None:
    from google.api_core.exceptions import NotFound

    for number in range(5):
        bucket.blob(f"x/{number}").upload_from_string("")
    calls = len(service.control.events("call", method="storage.batch"))
    with service.storage.batch():
        for number in range(3):
            bucket.blob(f"x/{number}").delete()
    assert names(bucket) == ["x/3", "x/4"]
    with service.storage.batch(raise_exception=False) as batch:
        bucket.blob("none").delete()
        bucket.blob("x/3").delete()
    assert [response.status_code for response in batch._responses] == [404, 204]
    with pytest.raises(NotFound), service.storage.batch():
        bucket.blob("none").delete()
        bucket.blob("x/4").delete()
    assert names(bucket) == []
    assert len(service.control.events("call", method="storage.batch")) == calls + 3


def test_names_that_no_object_can_have(bucket: Bucket) -> None:
    from google.api_core.exceptions import BadRequest

    for name in ("a\nb", "x" * 1025, ".."):
        with pytest.raises(BadRequest, match="Invalid object name"):
            bucket.blob(name).upload_from_string("")


def test_what_it_does_not_do_is_unimplemented(bucket: Bucket) -> None:
    from google.api_core.exceptions import MethodNotImplemented

    with pytest.raises(MethodNotImplemented, match="matchGlob of lists"):
        names(bucket, match_glob="*")
    bucket.versioning_enabled = True
    with pytest.raises(MethodNotImplemented, match="versioning of objects"):
        bucket.patch()
    with pytest.raises(MethodNotImplemented, match="POST /storage/v1/b/.*/notificationConfigs"):
        bucket.notification("topic", "other").create()

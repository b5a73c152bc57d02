"""What a VM takes for an object: the whole of it, whatever becomes of a connection."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pytest_sandboxes.batch.runners.gcp.machine.bucket import Bucket

CONTENT = b'{"shard": 0, "job": {}}'


class Cutting(BaseHTTPRequestHandler):
    """A service that hangs up in the middle of the first object that it is asked for."""

    cut: list[str]

    def do_GET(self) -> None:
        is_token = "token" in self.path
        content = b'{"access_token": "secret"}' if is_token else CONTENT
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not is_token and not self.cut:
            self.cut.append(self.path)
            content = content[:-5]
        self.wfile.write(content)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    cut: list[str] = []
    handler = type("Handler", (Cutting,), {"cut": cut})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        place = f"127.0.0.1:{server.server_port}"
        monkeypatch.setenv("GCE_METADATA_HOST", place)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{place}")
        found = Bucket({"bucket": "mine", "prefix": "run/"})
        try:
            yield found
            assert cut == ["/storage/v1/b/mine/o/run%2Forder?alt=media"]
        finally:
            found.close()
            server.shutdown()
            thread.join()


def test_what_was_cut_off_is_read_once_more(bucket: Bucket) -> None:
    found = bucket.get("order")
    assert found is not None
    assert found[0] == CONTENT


def test_what_was_cut_off_is_fetched_once_more(bucket: Bucket, tmp_path: Path) -> None:
    bucket.fetch("order", tmp_path / "archive")
    assert (tmp_path / "archive").read_bytes() == CONTENT

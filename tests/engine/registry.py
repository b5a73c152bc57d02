"""A registry of the tests' own: Docker's API, version 2, as far as pulls need it, and what can go wrong with one.

It is at an address of this machine, from which a Docker Engine pulls without TLS.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import docker

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
USER, PASSWORD = "somebody", "secret"


class Registry:
    """What is served: images by name, all with the tag `latest`."""

    def __init__(self, address: str, *, private: bool) -> None:
        self.address = address
        self.private = private
        """Only who is `USER` may read it."""
        self.requests: list[str] = []
        """Paths that have been asked for."""
        self.stalls: set[str] = set()
        """Digests of which half is sent, and then nothing until `healed` is set."""
        self.healed = threading.Event()
        self.manifests: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}

    def name(self, repository: str) -> str:
        """What an Engine calls an image."""
        return f"{self.address}/{repository}"

    def add(
        self, repository: str, base: bytes, *, megabytes: int = 2, architecture: str | None = None
    ) -> str:
        """Serve the image of `base`, saved by an Engine, under another name and with a layer that nobody has yet.

        Returns the digest of that layer.
        """
        with tarfile.open(fileobj=io.BytesIO(base)) as saved:
            (described,) = json.loads(_content(saved, "manifest.json"))
            config = json.loads(_content(saved, described["Config"]))
            layers = [_content(saved, layer) for layer in described["Layers"]]
        layers.append(_layer(megabytes << 20))
        config["rootfs"]["diff_ids"] = [_digest(layer) for layer in layers]
        config.pop("history", None)
        config["architecture"] = architecture or config["architecture"]
        blobs = [gzip.compress(layer, 1) for layer in layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._blob(_CONFIG, json.dumps(config).encode()),
            "layers": [self._blob(_LAYER, blob) for blob in blobs],
        }
        self.manifests[repository] = json.dumps(manifest).encode()
        return _digest(blobs[-1])

    def add_list(self, repository: str, architecture: str) -> None:
        """Serve an image that is there for one architecture only, and say so."""
        entry = {
            "mediaType": _MANIFEST,
            "digest": _digest(b""),
            "size": 0,
            "platform": {"os": "linux", "architecture": architecture},
        }
        kind = "application/vnd.docker.distribution.manifest.list.v2+json"
        self.manifests[repository] = json.dumps(
            {"schemaVersion": 2, "mediaType": kind, "manifests": [entry]}
        ).encode()

    def _blob(self, kind: str, content: bytes) -> dict[str, Any]:
        digest = _digest(content)
        self.blobs[digest] = content
        return {"mediaType": kind, "size": len(content), "digest": digest}


@contextmanager
def serve(*, private: bool = False) -> Iterator[Registry]:
    """Run a registry, and end it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = False  # `server_close` waits for them
    registry = server.registry = Registry(f"127.0.0.1:{server.server_port}", private=private)  # type: ignore[attr-defined]
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield registry
    finally:
        registry.healed.set()
        server.shutdown()
        serving.join()
        server.server_close()


def save(client: docker.DockerClient, image: str) -> bytes:
    """An image of an Engine, for `Registry.add`."""
    return b"".join(client.api.get_image(image))


class _Handler(BaseHTTPRequestHandler):
    timeout = 60  # seconds for a request that does not come: an Engine tries TLS first

    def handle(self) -> None:
        """Serve one connection; an Engine ends it when it likes."""
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        registry: Registry = self.server.registry  # type: ignore[attr-defined]
        registry.requests.append(self.path)
        wanted = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if registry.private and self.headers.get("Authorization") != f"Basic {wanted}":
            challenge = {"WWW-Authenticate": 'Basic realm="registry"'}
            self._refuse(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", challenge)
        elif self.path == "/v2/":
            self._answer("application/json", b"{}")
        else:
            repository, _, reference = self.path.removeprefix("/v2/").partition("/manifests/")
            manifest = registry.manifests.get(repository)
            if manifest and reference in ("latest", _digest(manifest)):
                self._answer(json.loads(manifest)["mediaType"], manifest)
                return
            digest = self.path.rpartition("/blobs/")[2]
            if not (blob := registry.blobs.get(digest)):
                self._refuse(HTTPStatus.NOT_FOUND, "MANIFEST_UNKNOWN", {})
            elif digest in registry.stalls:
                self._answer("application/octet-stream", blob, half=True)
                registry.healed.wait()
            else:
                self._answer("application/octet-stream", blob)

    do_HEAD = do_GET  # noqa: N815 - the base has it so

    def _answer(self, kind: str, content: bytes, *, half: bool = False) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Docker-Content-Digest", _digest(content))
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if half else content)

    def _refuse(self, status: HTTPStatus, code: str, headers: dict[str, str]) -> None:
        content = json.dumps({"errors": [{"code": code, "message": code.lower().replace("_", " ")}]}).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    assert member is not None
    return member.read()


def _layer(size: int) -> bytes:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        entry = tarfile.TarInfo("filling")
        entry.size = size
        archive.addfile(entry, io.BytesIO(os.urandom(size)))
    return layer.getvalue()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"

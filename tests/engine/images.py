"""The images that the tests run, and how they are made: of Debian's packages, or of public images.

There are three. `python` has Python, git and certificates; `busybox` has nothing but a shell and its tools;
`testbed` is one of those that SWE-bench has for each of its tasks, see recipes/testbed.sh.
"""

from __future__ import annotations

import hashlib
import io
import platform
import shutil
import tarfile
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import docker
import docker.errors

from tests.engine.machine import (
    CONTAINED,
    MachineError,
    can_install,
    codename,
    install,
    locked,
    run,
    state_directory,
)

NAMES = ("python", "busybox", "testbed")
LABEL = "pytest-sandboxes.recipe"
"""The label that names the recipe by which an image was made."""

RECIPES = Path(__file__).parent / "recipes"
DEBIAN = (RECIPES / "debian.sh").read_bytes()
TESTBED = (RECIPES / "testbed.sh").read_bytes()

_TESTBED_DOCKERFILE = """
FROM {base}
{packages}
COPY testbed.sh /tmp/
RUN sh -e /tmp/testbed.sh && rm /tmp/testbed.sh
WORKDIR /testbed
"""


class ImageError(MachineError):
    """An image cannot be made; says why, and what would help."""


def full_name(name: str) -> str:
    """The name by which the engine knows an image."""
    return f"pytest-sandboxes/{name}"


class Source(ABC):
    """A way to make the images."""

    description: str

    @abstractmethod
    def recipe(self, name: str) -> Sequence[bytes]:
        """All that decides what the image will be."""

    @abstractmethod
    def make(self, client: docker.DockerClient, name: str, labels: Mapping[str, str]) -> None:
        """Make an image; `testbed` is made on top of `python` of the same source, which is there."""

    def digest(self, name: str) -> str:
        """A name for the recipe."""
        parts = hashlib.sha256()
        for part in (type(self).__name__.encode(), name.encode(), *self.recipe(name)):
            parts.update(b"%d:" % len(part))
            parts.update(part)
        return parts.hexdigest()[:16]


class DebianSource(Source):
    """Makes images of packages, from the mirror that this machine's apt uses; needs root on Debian, and no registry."""

    description = "Debian's packages"

    _packages = "COPY packages /tmp/packages\nRUN dpkg --install /tmp/packages/*.deb >/dev/null && rm -r /tmp/packages"
    _commands: Mapping[str, str] = {"python": 'CMD ["python3"]', "busybox": 'CMD ["sh"]'}

    def recipe(self, name: str) -> Sequence[bytes]:
        """The scripts, and what the engine is told."""
        if name == "testbed":
            return *self.recipe("python"), TESTBED, _TESTBED_DOCKERFILE.encode(), self._packages.encode()
        return DEBIAN, self._commands[name].encode()

    def make(self, client: docker.DockerClient, name: str, labels: Mapping[str, str]) -> None:
        """Import the root file system that debian.sh has made, or build on it."""
        parts = self._parts()
        if name == "testbed":
            dockerfile = _TESTBED_DOCKERFILE.format(base=full_name("python"), packages=self._packages)
            files = {f"packages/{each.name}": each.read_bytes() for each in (parts / "packages").iterdir()}
            _build(client, name, labels, dockerfile, {**files, "testbed.sh": TESTBED}, network="none")
            return
        changes = [self._commands[name], *(f"LABEL {key}={value}" for key, value in labels.items())]
        client.api.import_image_from_file(
            str(parts / f"{name}.tar"), repository=full_name(name), tag="latest", changes=changes
        )

    @staticmethod
    def _parts() -> Path:
        """What debian.sh makes, cached by what it says."""
        parts = state_directory() / f"debian-{hashlib.sha256(DEBIAN).hexdigest()[:16]}-{platform.machine()}"
        if not parts.exists():
            if not shutil.which("debootstrap"):
                install("debootstrap")
            for abandoned in parts.parent.glob("making-*"):  # nobody else makes any: the lock is ours
                shutil.rmtree(abandoned)
            with tempfile.TemporaryDirectory(dir=parts.parent, prefix="making-") as making:
                out = Path(making, "out")
                out.mkdir()
                run(*CONTAINED, "sh", str(RECIPES / "debian.sh"), _mirror(), str(out))
                out.rename(parts)
        return parts


class PublicSource(Source):
    """Makes images of public ones."""

    description = "public images"

    _dockerfiles: Mapping[str, str] = {
        "python": (
            "FROM python:3.12-slim-bookworm\n"
            "RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*\n"
        ),
        "busybox": "FROM busybox:stable-musl\n",  # busybox:stable has a libc, which busybox-static does without
        "testbed": _TESTBED_DOCKERFILE.format(
            base=full_name("python"),
            packages="RUN python3 -m pip install --no-cache-dir pytest setuptools wheel",
        ),
    }

    def recipe(self, name: str) -> Sequence[bytes]:
        """What the engine is told."""
        dockerfile = self._dockerfiles[name].encode()
        return (*self.recipe("python"), TESTBED, dockerfile) if name == "testbed" else (dockerfile,)

    def make(self, client: docker.DockerClient, name: str, labels: Mapping[str, str]) -> None:
        """Build it, and have the engine pull what it is built on."""
        _build(client, name, labels, self._dockerfiles[name], {"testbed.sh": TESTBED}, network=None)


SOURCES: Mapping[str, Source] = {"debian": DebianSource(), "public": PublicSource()}


def best_source() -> Source:
    """Debian's packages where this process can use them, because that needs no registry."""
    return SOURCES["debian" if can_install() else "public"]


def ensure(
    client: docker.DockerClient,
    name: str,
    source: Source | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> str:
    """Make sure that an image is there, made by today's recipe, and return the engine's name for it.

    Without a source given, an image of any source will do, and one that has to be made is of the best.
    """
    if name not in NAMES:
        raise ValueError(f"no image {name!r} is known; there are {', '.join(NAMES)}")
    welcome = [source] if source else list(SOURCES.values())
    if not _is_there(client, name, welcome):
        with locked("images"):
            if not _is_there(client, name, welcome):  # another process may have made it meanwhile
                _make(client, name, source or best_source(), report)
    return full_name(name)


def _make(client: docker.DockerClient, name: str, source: Source, report: Callable[[str], None]) -> None:
    if name == "testbed" and not _is_there(client, "python", [source]):
        _make(client, "python", source, report)
    report(f"Making {full_name(name)} of {source.description}")
    outdated = _find(client, name)
    try:
        source.make(client, name, {LABEL: source.digest(name)})
    except (docker.errors.DockerException, OSError) as error:
        raise ImageError(f"cannot make {full_name(name)} of {source.description}: {error}") from error
    if not _is_there(client, name, [source]):
        raise ImageError(f"the engine has taken {full_name(name)} without an error, but does not have it")
    if outdated:
        try:
            client.api.remove_image(outdated.id)
        except docker.errors.APIError:  # something still runs it, or stands on it
            pass


def _find(client: docker.DockerClient, name: str) -> docker.models.images.Image | None:
    try:
        return client.images.get(full_name(name))
    except docker.errors.ImageNotFound:
        return None


def _is_there(client: docker.DockerClient, name: str, sources: Sequence[Source]) -> bool:
    image = _find(client, name)
    return image is not None and image.labels.get(LABEL) in {source.digest(name) for source in sources}


def _build(
    client: docker.DockerClient,
    name: str,
    labels: Mapping[str, str],
    dockerfile: str,
    files: Mapping[str, bytes],
    *,
    network: str | None,
) -> None:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for path, content in {**files, "Dockerfile": dockerfile.encode()}.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    context.seek(0)
    try:
        client.images.build(
            fileobj=context,
            custom_context=True,
            tag=full_name(name),
            labels=dict(labels),
            network_mode=network,
            rm=True,
            forcerm=True,
        )
    except docker.errors.BuildError as error:
        said = "".join(line.get("stream") or line.get("error") or "" for line in error.build_log)
        raise ImageError(f"cannot build {full_name(name)}:\n{said}") from error


def _mirror() -> str:
    """Where apt on this machine has Debian's packages from, preferably those of the release that the images have."""
    listed = run(
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Identifier: Packages"
    )
    targets = [line.split() for line in listed.splitlines()]
    for release in ("bookworm", codename()):
        for uri, *rest in targets:
            if rest == [release, "main"]:
                return uri
    raise ImageError(f"apt on this machine is not set up to use a mirror of Debian; it has:\n{listed}")

"""Builds of images by the Engine, found again by what they are made of."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_sandboxes.backends.docker.context import Context, ContextError
from pytest_sandboxes.backends.docker.long_calls import LongCallError, long_call
from pytest_sandboxes.backends.docker.pulling import Layers, reading_credentials
from pytest_sandboxes.backends.owner import owner
from pytest_sandboxes.display import one_line, tail
from pytest_sandboxes.errors import BackendUnavailableError

if TYPE_CHECKING:
    import docker

    from pytest_sandboxes.backends.base import Progress
    from pytest_sandboxes.backends.docker.engine import Engine
    from pytest_sandboxes.backends.docker.recipe import Recipe

REPOSITORY = "pytest-sandboxes-build"
SILENCE = 1800.0
"""Seconds without a word from the Engine after which a build is given up. A step may compile for long, in silence."""
LONGEST = 7200.0
"""Seconds that a build may take."""
UNUSED = 14 * 24 * 3600.0
"""Seconds after which a build of this user's that no run has used is removed, when another is made."""

_FORMAT = 1  # of what a digest is made of
DIGITS = 32  # of a SHA-256
_DIGEST = "pytest-sandboxes.build"
_OWNER = "pytest-sandboxes.built-by"
_LONGEST_LOG = 1 << 16
_STEP = re.compile(r"Step (\d{1,4})/(\d{1,4}) : ")
_REMEDIES = (  # what is said, and what to do about it
    ("BuildKit", "build it by hand with docker build, and give its name as image: the Engine's API builds without"),
    ("build target", "correct docker.target"),
    ("returned a non-zero code", "correct the command"),
    ("nothing has come", "see what its last step waits for"),
    ("COPY failed", "correct the path, which counts from docker.context, or .dockerignore"),
    ("ADD failed", "correct the path, which counts from docker.context, or .dockerignore"),
    ("denied", "correct the image's name, or log in to its registry with docker login"),
)  # fmt: skip
_ELSE = "correct the Dockerfile"


def build(engine: Engine, recipe: Recipe, progress: Progress) -> str:
    """The name of the image of `recipe`, built unless the Engine has one of the same files, arguments and target.

    Raises `BackendUnavailableError` with the end of the build's log when it fails, `SandboxStartError` when the Engine
    is gone.
    """
    what = f"{recipe.where}: an image cannot be built from {_label(recipe.dockerfile)}"
    making = _Build(engine, recipe)
    try:
        return making.name(progress)
    except ContextError as error:
        raise BackendUnavailableError(
            f"{what}: {one_line(str(error), 300)}; correct that, or leave it out by .dockerignore"
        ) from None
    except LongCallError as error:
        whole = one_line(str(error), 300)
        remedy = next((remedy for sign, remedy in _REMEDIES if sign in whole), _ELSE)
        raise BackendUnavailableError(f"{what}: {whole}; {remedy}{making.log.shown()}") from None


class _Build:
    def __init__(self, engine: Engine, recipe: Recipe) -> None:
        self._engine = engine
        self._recipe = recipe
        self._context = Context(recipe.context, recipe.dockerfile)
        self.log = Log()

    def name(self, progress: Progress) -> str:
        made_of = self._digest()
        for part in self._context.archive():
            made_of.update(part)
        digest = made_of.hexdigest()[:DIGITS]
        with self._engine.errors_as_start_errors("cannot look up and tag what has been built"):
            api = self._engine.api()
            found = find(api, digest)
            image = found or self._make(digest, progress)
            api.tag(image, REPOSITORY, digest)  # again, where it is: that is how its last use is known
            if found is None:
                remove_unused(api)
        return f"{REPOSITORY}:{digest}"

    def _make(self, digest: str, progress: Progress) -> str:
        """Build the image, and return its id. It has no name yet."""
        api = self._engine.api()
        parameters = {
            "dockerfile": self._context.dockerfile,
            "buildargs": json.dumps(dict(self._recipe.build_args)),
            "labels": json.dumps(labels(digest)),
            "rm": "1",
            "forcerm": "1",
        }
        if self._recipe.target is not None:
            parameters["target"] = self._recipe.target
        headers = {"Content-Type": "application/tar"}
        with reading_credentials("for the registries of base images"):
            api._set_auth_headers(headers)  # noqa: SLF001 - as the SDK's own call for builds does
        sent = self._digest()
        image = ""
        with progress(f"building image from {_label(self._recipe.dockerfile)}") as say:
            files = self._files(sent, say)
            for event in long_call(
                self._engine, "/build", parameters, headers, silence=SILENCE, longest=LONGEST, data=files
            ):
                self.log.take(event)
                say(str(self.log))
                made = event.get("aux")
                if isinstance(made, dict):
                    image = str(made.get("ID") or image)
        if sent.hexdigest()[:DIGITS] != digest:
            raise ContextError("its files have changed meanwhile")
        if not image:
            raise LongCallError("the Engine does not say what it has built")
        return image

    def _files(self, sent: hashlib._Hash, say: Callable[[str], None]) -> Iterator[bytes]:
        size = 0
        for part in self._context.archive():
            sent.update(part)
            yield part
            size += len(part)
            say(f"{size / 1_000_000:.1f} MB of files")

    def _digest(self) -> hashlib._Hash:
        """The sum over all that decides what the image will be, but for the files."""
        said = [_FORMAT, self._context.dockerfile, self._recipe.build_args, self._recipe.target]
        return hashlib.sha256(json.dumps(said).encode())


class Log:
    """What a build says, and how far it is by that. Nothing in it is relied on: commands of the build write it."""

    def __init__(self) -> None:
        self._text = ""
        self._step = ""
        self._layers = Layers()

    def take(self, event: Mapping[str, object]) -> None:
        """One thing that the Engine has said."""
        said = event.get("stream")
        if not isinstance(said, str):
            self._layers.take(event)
            return
        self._text = (self._text + said)[-_LONGEST_LOG:]
        step = _STEP.match(said)
        if step:
            self._step = "step {} of {}".format(*step.groups())
            self._layers = Layers()  # those of another base image

    def shown(self) -> str:
        """Its end, to follow a sentence."""
        return f". The build's last lines:\n{tail(self._text)}" if self._text.strip() else ""

    def __str__(self) -> str:
        return ", ".join(filter(None, (self._step, str(self._layers))))


def _label(path: Path) -> str:
    """The path as it is shortest to read."""
    relative = os.path.relpath(path)
    return one_line(str(path) if relative.startswith(os.pardir) else relative)


def labels(digest: str) -> dict[str, str]:
    """What tells an image that was made here, by whom and of what."""
    return {_DIGEST: digest, _OWNER: owner()}


def find(api: docker.APIClient, digest: str) -> str | None:
    """The id of the image with this digest, unless somebody has given its name to another."""
    from docker.errors import ImageNotFound

    try:
        found = api.inspect_image(f"{REPOSITORY}:{digest}")
    except ImageNotFound:
        return None
    labels = (found.get("Config") or {}).get("Labels") or {}
    return str(found["Id"]) if labels.get(_DIGEST) == digest else None


def remove_unused(api: docker.APIClient) -> None:
    """Remove builds of this user's that nobody has used for long, so that a disk does not fill with old ones."""
    from docker.errors import APIError

    for image in api.images(filters={"label": [f"{_OWNER}={owner()}"]}):
        names = image.get("RepoTags") or []
        if not all(name.startswith(f"{REPOSITORY}:") for name in names):
            continue  # it is somebody's by another name
        with contextlib.suppress(APIError):  # it is gone, or a container has it
            used = api.inspect_image(image["Id"]).get("Metadata", {}).get("LastTagTime", "")
            if time.time() - max(_seconds(used), float(image["Created"])) > UNUSED:
                api.remove_image(image["Id"])


def _seconds(stamp: str) -> float:
    """A time as Engines write it, since 1970; 0 for what is none."""
    try:
        return datetime.fromisoformat(f"{stamp[:19]}+00:00").timestamp()
    except ValueError:
        return 0.0

"""Images in which a profile's `setup` has been run: files of a container, committed, and found again by their recipe.

The commands run as those of the profile's code would, hardened, limited and on the profile's network, but on a file
system that they may write to. No secret is given to them, so none can be in the image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from pytest_sandboxes.backends.docker import building, janitor
from pytest_sandboxes.backends.docker.long_calls import LongCallError, long_call
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import SandboxStartError
from pytest_sandboxes.io_thread import IOThread
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.sandbox import Sandbox
from pytest_sandboxes.setting_up import run_setup

if TYPE_CHECKING:
    from pytest_sandboxes.backends.base import Backend, Progress
    from pytest_sandboxes.backends.docker.containers import EngineContainer
    from pytest_sandboxes.backends.docker.engine import Engine
    from pytest_sandboxes.backends.docker.images import Image

TIMEOUT = 1800.0
"""Seconds that the commands may take together."""
_COMMIT_TIMEOUT = 600.0
_FORMAT = 1  # of what a digest is made of


@dataclass(frozen=True)
class Recipe:
    """How an image is prepared. Those with the same key are one image."""

    profile: Profile
    """Of the container in which the commands run."""
    base: Image
    user: str
    """Whom they run as."""

    @classmethod
    def of(cls, profile: Profile, base: Image) -> Recipe:
        """That of a profile with a `setup`."""
        # where code runs as a user that was made up for it, nobody but root could install anything for it
        user = (profile.user or base.user) if profile.isolation == "sandbox" else "0:0"
        plain = msgspec.structs.replace(
            profile,
            isolation="sandbox",
            user=user or None,
            slots_per_sandbox=1,
            disk=None,
            secrets=(),
            workspace_source=None,
        )
        return cls(plain, base, user)

    @property
    def key(self) -> str:
        """What decides the image, short."""
        profile = self.profile
        made_of = [_FORMAT, "setup", self.base.id, self.user, profile.setup, dict(profile.env_vars)]
        text = json.dumps([*made_of, profile.network, profile.gpu], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[: building.DIGITS]


def prepare(
    engine: Engine,
    recipe: Recipe,
    launch: Callable[[], EngineContainer],
    backend: Backend,
    progress: Progress,
) -> str:
    """The name of the image of `recipe`, made in a container that `launch` starts unless the Engine has it.

    Raises `SetupFailedError` when a command fails, `SandboxStartError` when the Engine does.
    """
    with engine.errors_as_start_errors("cannot look up what has been set up"):
        found = building.find(engine.api(), recipe.key)
    if found is None:
        with progress(f"setting up image {one_line(recipe.base.name)}") as say:
            found = _make(engine, recipe, launch, backend, say)
    with engine.errors_as_start_errors("cannot tag what has been set up"):
        api = engine.api()
        api.tag(
            found, building.REPOSITORY, recipe.key
        )  # again, where it is: that is how its last use is known
        building.remove_unused(api)
    return f"{building.REPOSITORY}:{recipe.key}"


def _make(
    engine: Engine,
    recipe: Recipe,
    launch: Callable[[], EngineContainer],
    backend: Backend,
    say: Callable[[str], None],
) -> str:
    """The id of the new image. It has no name yet, so nobody takes one that is half done."""
    io = IOThread()
    try:
        launched = launch()
        sandbox = Sandbox.of(backend, recipe.profile, launched, io)
        try:
            run_setup(sandbox, recipe.profile, TIMEOUT, say=say, is_over=engine.is_closing)
            say("keeping what has changed")
            return _commit(engine, recipe, launched.container)
        finally:
            sandbox.close()
    finally:
        io.close()


def _commit(engine: Engine, recipe: Recipe, container: str) -> str:
    config: dict[str, Any] = {
        "WorkingDir": recipe.base.workdir,
        "User": recipe.base.user,
        # the container's own are inherited, and say that it is a run's
        "Labels": {**dict.fromkeys(janitor.labels(""), ""), **building.labels(recipe.key)},
    }
    # without a pause, in which nobody would answer for the container; nothing runs in it any more
    parameters = {"container": container, "pause": "0", "comment": "setup of a pytest-sandboxes profile"}
    try:
        said = [
            event.get("Id")
            for event in long_call(
                engine,
                "/commit",
                parameters,
                {"Content-Type": "application/json"},
                silence=_COMMIT_TIMEOUT,
                longest=_COMMIT_TIMEOUT,
                data=json.dumps(config),
            )
        ]
    except LongCallError as error:
        raise SandboxStartError(
            f"what has been set up cannot be kept: {one_line(str(error), 300)}; free some of the Engine's disk, or see "
            "its log"
        ) from None
    if len(said) != 1 or not isinstance(said[0], str):
        raise SandboxStartError(
            "what has been set up cannot be kept: the Engine does not say what it has made"
        )
    return said[0]

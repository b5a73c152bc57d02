"""What the backend promises, and how its sandboxes come to be."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import PurePosixPath

from pytest_sandboxes.backends.base import Backend, BackendOptions, Checked, Progress, untold
from pytest_sandboxes.backends.docker import (
    containers,
    description,
    interpreters,
    janitor,
    preparing,
    recipe,
    sources,
)
from pytest_sandboxes.backends.docker.engine import Engine, EngineGoneError
from pytest_sandboxes.backends.docker.images import DEFAULT_IMAGE, Image, Images
from pytest_sandboxes.backends.docker.names import Names
from pytest_sandboxes.backends.docker.networks import Network
from pytest_sandboxes.backends.docker.parking import ParkableContainer, Parking
from pytest_sandboxes.backends.docker.shell import container as shell
from pytest_sandboxes.backends.promises import Promises
from pytest_sandboxes.backends.users import is_root
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import BackendUnavailableError, ConfigurationError, SandboxStartError
from pytest_sandboxes.profiles.profile import Profile

_RECIPES = ("app_name",)
_MOST_SLOTS = 256


class DockerBackend(Backend):
    """Containers of the Docker Engine that the `docker` command would use."""

    name = "docker"

    def __init__(self, options: BackendOptions) -> None:
        self._options = options
        self._engine = Engine()
        self._images = Images(self._engine)
        self._run = secrets.token_hex(6)
        self._labels = janitor.labels(self._run)
        self._interpreters = interpreters.Interpreters(
            self._engine, f"{janitor.PREFIX}{self._run}-python", self._labels
        )
        self._network = Network(self._engine, f"{janitor.PREFIX}{self._run}", self._labels)
        self._sources = sources.Sources(
            self._engine, f"{janitor.PREFIX}{self._run}-source", self._labels, options
        )
        self._names = Names(f"{janitor.PREFIX}{self._run}")
        self._sweeping = threading.Lock()
        self._swept = False
        self._launched = False
        self._parking: Parking | None = None
        if options.park_seconds is not None:
            self._parking = Parking(self._engine, options.park_seconds, str(options.directory))

    def check(self, profile: Profile) -> Checked:
        """See `Backend.check`."""
        promises = Promises(profile, self._options)
        promises.need_room_for_agent()
        promises.need_source_outside_workspaces()
        self.secrets(profile)
        made_of = recipe.read(profile, self._options.directory)
        if made_of is not None:
            made_of.check()
        if profile.gpu is not None and profile.gpu.partition(":")[0] != "any":
            promises.refuse(
                "gpu", "a Docker Engine knows only how many there are to be: say any, or any:2 for two"
            )
        unused = [*_RECIPES]
        if profile.isolation == "sandbox":
            unused += ["workspace_base"]  # the image's working directory is the workspace
            if profile.disk is not None:
                promises.refuse("disk", "the image's own file system has no limit with isolation sandbox")
        else:
            _check_slots(profile, promises)
            if profile.user is not None:
                promises.refuse("user", "with isolation slot, code runs as a user that nobody else has")
        if profile.isolation == "sandbox" and self._options.isolation is None:
            promises.refuse_slots()
        return promises.checked(unused, slots=self.slots_per_sandbox(profile))

    def secrets(self, profile: Profile) -> Mapping[str, str]:
        """See `Backend.secrets`."""
        return self._options.secrets.of(profile)

    def slots_per_sandbox(self, profile: Profile) -> int:
        """See `Backend.slots_per_sandbox`."""
        return description.slots_per_sandbox(profile)

    def check_machine(self, profile: Profile) -> None:
        """See `Backend.check_machine`."""
        try:
            self._check_cores(profile)
            image = self._image(profile, self._options.progress)
            _check_user(profile, image)
            if self._waits_for(profile, image):  # which shows that there can be one
                return
            self._sweep()
            self._sources.get(profile, image, self._options.progress)
            try:
                self._choose_interpreter(profile, image)
            except interpreters.NoAgentError as error:
                self._try_shell(profile, image, str(error))
        except SandboxStartError as error:
            raise BackendUnavailableError(str(error)) from None

    def _sweep(self) -> None:
        with self._sweeping:
            if not self._swept:
                janitor.sweep(self._engine)
                self._swept = True

    def _check_cores(self, profile: Profile) -> None:
        if profile.cpu is None:
            return
        with self._engine.errors_as_start_errors("cannot ask for the number of cores"):
            cores = self._engine.api().info()["NCPU"]
        if profile.cpu > cores:
            raise ConfigurationError(
                f"{profile.source('cpu')}: cpu of profile {profile.name!r} is {profile.cpu:g}, but the Docker Engine "
                f"at {self._engine.host} has {cores} cores: lower it"
            )

    def notes(self, profile: Profile) -> tuple[str, ...]:
        """See `Backend.notes`."""
        image = self._image(profile, untold)
        said = []
        if why := self._interpreters.why_none(image):
            name = one_line(image.name)
            said.append(
                f"its sandboxes are served by the sh of image {name}, because no agent can run there: {why}"
            )
        source = self._sources.get(profile, image, untold)
        if source is not None and source.note:
            said.append(source.note)
        return tuple(said)

    def why_not_parked(self, profile: Profile) -> str:
        """See `Backend.why_not_parked`."""
        if profile.isolation == "sandbox":
            return "with isolation sandbox, nobody can prove that nothing of its code is left"
        if not _can_be_parked(profile):
            return "their workspace_source is a directory of the project, whose files may change"
        if self._interpreters.why_none(self._image(profile, untold)):
            return "it takes an agent"
        return ""

    def take_over(self, profile: Profile) -> ParkableContainer | None:
        """See `Backend.take_over`."""
        if self._parking is None or not _can_be_parked(profile):
            return None
        taken = self._parking.take_over(profile, self._image(profile, untold))
        self._launched = self._launched or taken is not None
        return taken

    def _waits_for(self, profile: Profile, image: Image) -> bool:
        """Whether a container of this profile is on record as parked. One that is not there after all is started."""
        return self._parking is not None and _can_be_parked(profile) and self._parking.has_one(profile, image)

    def remove_parked(self) -> list[str]:
        """See `Backend.remove_parked`."""
        parking = self._parking or Parking(self._engine, 0.0, "")
        return [
            *parking.remove_all(),
            *(f"{each}, parked" for each in janitor.remove_parked(self._engine)),
            *(f"{each}, of a run that is dead" for each in janitor.sweep(self._engine)),
        ]

    def launch(self, profile: Profile) -> containers.EngineContainer:
        """See `Backend.launch`."""
        image = self._image(profile, untold)
        while True:
            try:
                return self._launch(profile, image)
            except EngineGoneError:
                if not self._engine.is_back():
                    raise

    def _launch(self, profile: Profile, image: Image) -> containers.EngineContainer:
        try:
            interpreter = self._interpreters.chosen(image) or self._choose_interpreter(profile, image)
        except interpreters.NoAgentError:
            shell.check(profile, image)
            return self._start_shell(profile, image)
        try:
            return self._start(profile, image, interpreter)
        except SandboxStartError:
            self._interpreters.forget(interpreter)
            raise

    def _choose_interpreter(self, profile: Profile, image: Image) -> containers.Interpreter:
        """Find by trial what can run the agent, in containers that are like those of `profile`."""

        def try_out(interpreter: containers.Interpreter) -> str:
            try:
                container = self._start(profile, image, interpreter, on_trial=True)
            except containers.NoInterpreterError as error:
                return str(error)
            return one_line(containers.greet(container), 300)

        return self._interpreters.choose(image, try_out)

    def _try_shell(self, profile: Profile, image: Image, why: str) -> None:
        """Raise `ConfigurationError` for a profile whose containers no shell can serve either."""
        shell.check(profile, image)
        try:
            complaint = one_line(containers.greet(self._start_shell(profile, image)), 300)
        except SandboxStartError as error:
            complaint = str(error)
        if complaint:
            raise BackendUnavailableError(
                f"image {image.name!r} cannot run a sandbox's agent: {why}; and its /bin/sh cannot stand in: "
                f"{complaint}: use an image with Python 3.8 or newer"
            )

    def _start_shell(self, profile: Profile, image: Image) -> shell.ShellContainer:
        self._launched = True
        with self._names.take(self._engine) as name:
            return shell.start(self._engine, profile, image, name=name, labels=self._labels)

    def _start(
        self,
        profile: Profile,
        image: Image,
        interpreter: containers.Interpreter,
        *,
        on_trial: bool = False,
    ) -> containers.Container:
        self._launched = True
        network = self._network.get() if profile.network == "outbound" else None
        make = None
        if self._parking is not None and _can_be_parked(profile) and not on_trial:
            recipe = self._parking.recipe(profile, image)
            make = partial(ParkableContainer, parking=self._parking, profile=profile, recipe=recipe)
        try:
            with self._names.take(self._engine) as name:
                return containers.start(
                    self._engine,
                    profile,
                    image,
                    interpreter,
                    network=network,
                    source=self._sources.get(profile, image, untold),
                    name=name,
                    labels=self._labels,
                    on_trial=on_trial,
                    make=make,
                )
        except SandboxStartError:
            if network is not None:
                self._network.forget_if_gone()
            raise

    def stop_waiting(self) -> None:
        """See `Backend.stop_waiting`."""
        self._engine.stop_waiting()

    def _image(self, profile: Profile, progress: Progress) -> Image:
        """The image of a profile's containers."""
        base = self._base_image(profile, progress)
        if not profile.setup:
            return base
        recipe = preparing.Recipe.of(profile, base)

        def make() -> str:
            return preparing.prepare(
                self._engine, recipe, lambda: self._launch(recipe.profile, base), self, progress
            )

        return self._images.derive(recipe.key, make)

    def _base_image(self, profile: Profile, progress: Progress) -> Image:
        made_of = recipe.read(profile, self._options.directory)
        if made_of is not None:
            return self._images.build(made_of, progress)
        self._engine.api()  # that nobody answers has nothing to do with the image
        try:
            return self._images.get(profile.image or DEFAULT_IMAGE, progress)
        except BackendUnavailableError as error:
            where = f"profile {profile.name!r}, which names no image"
            if profile.image is not None:
                where = f"{profile.source('image')}: image of profile {profile.name!r}"
            raise BackendUnavailableError(f"{where}: {error}") from None

    def close(self) -> None:
        """See `Backend.close`."""
        if self._parking is not None and self._launched:
            self._tidy_up(self._parking)
        if self._launched:
            janitor.remove_rest(self._engine, self._run)
            self._network.close()
            self._interpreters.close()
        self._engine.close()

    def _tidy_up(self, parking: Parking) -> None:
        """What a start has left for later, where it had no need of it."""
        with (
            contextlib.suppress(SandboxStartError, ConfigurationError),  # the next run tries again
            self._engine.errors_as_start_errors("cannot tidy up"),
        ):
            parking.remove_outdated()
            self._sweep()


def _can_be_parked(profile: Profile) -> bool:
    """Whether containers of a profile can be as new ones would be in the next run, where an agent runs."""
    source = profile.workspace_source
    return profile.isolation != "sandbox" and (source is None or source.startswith("/"))


def _check_user(profile: Profile, image: Image) -> None:
    """Raise `ConfigurationError` where the agent would not be root and has to be.

    Only root can tell the kernel what code may not reach, and with isolation sandbox the agent is whoever code is.
    """
    user = profile.user or image.user
    if profile.network == "outbound" and profile.isolation == "sandbox" and not is_root(user):
        raise ConfigurationError(
            f"{profile.source('network')}: network of profile {profile.name!r} is 'outbound', but with isolation "
            f"sandbox only root can be kept from what is near, and code is to run as {user}: set user to root, or "
            "isolation to slot"
        )


def _check_slots(profile: Profile, promises: Promises) -> None:
    """Raise `ConfigurationError` for slots, and places of theirs, that a container cannot have."""
    if profile.slots_per_sandbox > _MOST_SLOTS:
        raise promises.wrong("slots_per_sandbox", f"a container serves {_MOST_SLOTS} at most: lower it")
    if (place := _taken_place(profile)) is not None:
        raise promises.wrong(
            "workspace_base", f"{place} is no place for workspaces in a container: choose another"
        )


def _taken_place(profile: Profile) -> str | None:
    """What a container has another use for, where its workspaces are to be in it or to hold it.

    The only slot of a container may have a place of code's own, such as /tmp, as a whole.
    """
    base = PurePosixPath(profile.workspace_base)
    several = profile.slots_per_sandbox > 1
    home = str(PurePosixPath(description.HOME).parent)
    for place in (*description.SHARED, home, str(interpreters.DIRECTORY), sources.DIRECTORY):
        if base == PurePosixPath(place):
            is_taken = several or place not in description.SHARED
        else:
            holds_it = not several and PurePosixPath(place).is_relative_to(base)
            is_taken = holds_it or base.is_relative_to(place)
        if is_taken:
            return place
    return None

"""What the backend promises, and how its sandboxes come to be."""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
import threading
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pytest_sandboxes.backends import seccomp
from pytest_sandboxes.backends.base import (
    Backend,
    BackendOptions,
    Checked,
    Progress,
    Source,
    StartRate,
    untold,
)
from pytest_sandboxes.backends.modal import description, janitor, programs, sandboxes, section
from pytest_sandboxes.backends.modal.errors import MissingError
from pytest_sandboxes.backends.modal.images import DIRECTORY, SOURCE, Image, Images
from pytest_sandboxes.backends.modal.parking import Claimed, ParkableSandbox, Parking
from pytest_sandboxes.backends.modal.service import CALL_TIMEOUT, Service
from pytest_sandboxes.backends.once import Once
from pytest_sandboxes.backends.promises import Promises
from pytest_sandboxes.backends.staged_sources import COPY_TIMEOUT, project_files
from pytest_sandboxes.backends.users import users
from pytest_sandboxes.errors import (
    BackendUnavailableError,
    ConfigurationError,
    CredentialsRefusedError,
    RateLimitedError,
    SandboxStartError,
    ServiceUnavailableError,
)
from pytest_sandboxes.payload import bootstrap
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.project_files import ProjectFiles
from pytest_sandboxes.wording import shown

if TYPE_CHECKING:
    import modal

DEFAULT_APP = "pytest-sandboxes"
_MOST_SLOTS = 256
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LONGEST_NAME = 64
_CARRY_TIMEOUT = 600.0
"""Seconds for an interpreter of some 10 MB, which may travel to 40 sandboxes at once."""
_PATIENCE, _PAUSE = 20.0, 1.0
"""Seconds for which what fails at the start is tried again, and between two attempts."""


class ModalBackend(Backend):
    """Sandboxes of the account that Modal's own command would use."""

    name = "modal"
    start_rate = StartRate(5.0, burst=5)
    """The least that the service is said to allow, of which there is one count for the whole account."""
    at_once = 40
    """So that this rate is reached although each of them takes seconds."""

    def __init__(self, options: BackendOptions) -> None:
        self._options = options
        self._service = Service()
        self._creator = sandboxes.Creator(self._service)
        self._images = Images(self._service)
        self._files: Once[str, ProjectFiles] = Once()
        self._swept: Once[str, int] = Once()
        self._run = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self._parking: Parking | None = None
        if options.park_seconds is not None:
            self._parking = Parking(self._service, self._run, options.park_seconds, str(options.directory))
        self._handing_out = threading.Lock()  # of the next one
        self._claimed: dict[str, list[Claimed]] = {}
        """Sandboxes that were parked and have been explored, by recipe."""

    def check(self, profile: Profile) -> Checked:
        """See `Backend.check`."""
        promises = Promises(profile, self._options)
        promises.need_room_for_agent()
        promises.need_source_outside_workspaces()
        volumes = section.read(profile, self._options.directory).volumes
        if profile.app_name is not None and not _NAME.fullmatch(profile.app_name):
            raise promises.wrong(
                "app_name",
                "a name on Modal has letters, digits, '-', '_' and '.', at most 64: set app_name to such a one",
            )
        if profile.disk is not None:
            promises.refuse("disk", "Modal limits no slot's disk; backends local and docker do")
        if profile.max_lifetime is not None and profile.max_lifetime > sandboxes.LONGEST_LIFE:
            raise promises.wrong(
                "max_lifetime", f"Modal lets a sandbox live {sandboxes.LONGEST_LIFE} s at most: lower it"
            )
        if profile.slots_per_sandbox > _MOST_SLOTS:
            raise promises.wrong("slots_per_sandbox", f"a sandbox serves {_MOST_SLOTS} at most: lower it")
        if profile.user is not None:
            promises.refuse("user", _whose_code(profile))
        if profile.isolation == "sandbox":
            if profile.pids is not None:
                promises.refuse(
                    "pids", "with isolation sandbox code may be root, whom only a container's own limit binds"
                )
            if self._options.isolation is None:
                promises.refuse_slots()
        else:
            _check_place(profile, promises, volumes)
        return promises.checked((), slots=self.slots_per_sandbox(profile))

    def slots_per_sandbox(self, profile: Profile) -> int:
        """See `Backend.slots_per_sandbox`."""
        return 1 if profile.isolation == "sandbox" else profile.slots_per_sandbox

    def check_machine(self, profile: Profile) -> None:
        """See `Backend.check_machine`."""
        try:
            image = self._get_ready(profile)
        except SandboxStartError as error:
            raise BackendUnavailableError(f"backend modal: {error}") from None
        seccomp.program(image.architecture)  # which has none for some
        self._source(profile, image)
        if profile.isolation != "sandbox" and not image.is_root:
            raise ConfigurationError(
                f"{profile.source('image')}: commands in sandboxes of image {image.label} of profile {profile.name!r} "
                "are not root's, who has to keep the code of one lease from the next: set isolation to sandbox"
            )

    def _get_ready(self, profile: Profile) -> Image:
        """See to what comes before the first lease; the image of that. What fails for a moment only is tried again.

        All of it may be done twice. Raises `SandboxStartError`, `BackendUnavailableError`.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self._sweep(self._app(profile))
                self._find_named(profile)
                return self._image(profile, self._options.progress)
            except (RateLimitedError, ServiceUnavailableError, CredentialsRefusedError) as error:
                is_final = isinstance(error, CredentialsRefusedError) and not self._service.accepts_us()
                if is_final or time.monotonic() > deadline or self._creator.pause(_PAUSE):
                    raise

    def _find_named(self, profile: Profile) -> None:
        """Raise `ConfigurationError` for a secret or a volume that the account does not have."""
        import modal

        client = self._service.client()
        volumes = section.read(profile, self._options.directory).volumes.values()
        named: list[tuple[str, str, Any]] = [
            *(("secrets", name, modal.Secret.from_name(name)) for name in profile.secrets),
            *(("modal.volumes", name, modal.Volume.from_name(name)) for name in volumes),
        ]
        for field, name, thing in named:
            try:
                self._service.call(
                    partial(thing.hydrate.aio, client=client), f"{shown(name)} cannot be looked up"
                )
            except MissingError as error:
                raise ConfigurationError(
                    f"{profile.source(field)}: {field} of profile {profile.name!r} has {shown(name)}, which the "
                    f"account does not have ({error}): make it there, or correct the name"
                ) from None

    def _sweep(self, app: modal.App) -> None:
        self._swept.get(app.name or "", lambda: janitor.sweep(self._service, app), 4 * CALL_TIMEOUT)

    def launch(self, profile: Profile) -> sandboxes.ModalSandbox:
        """See `Backend.launch`."""
        image = self._image(profile, untold)
        uids = users.take(self.slots_per_sandbox(profile))
        return self._start(profile, image, self._create(profile, image.handle), uids)

    def _start(
        self, profile: Profile, image: Image, sandbox: modal.Sandbox, uids: Sequence[int]
    ) -> sandboxes.ModalSandbox:
        """Start an agent in a sandbox that waits for one; without an agent, it is ended."""
        carried = bool(image.carried)
        setup, directories = description.agent_setup(profile, image, uids, self._source(profile, image))
        try:
            if carried:
                self._unpack(sandbox, image.carried)
            command = [*image.python, "-c", bootstrap(same_interpreter=carried)]
            bridge = sandboxes.start_agent(
                self._service,
                sandbox,
                programs.agent_command(command, directories),
                description.secrets(profile),
            )
        except BaseException:
            sandboxes.end(self._service, sandbox)
            raise
        if self._parking is None or _why_not_parked(profile):
            return sandboxes.ModalSandbox(self._service, sandbox, bridge, setup, carried=carried)
        recipe = self._parking.recipe(profile, image.handle)
        return ParkableSandbox(
            self._service,
            sandbox,
            bridge,
            setup,
            carried=carried,
            parking=self._parking,
            profile=profile,
            recipe=recipe,
        )

    def why_not_parked(self, profile: Profile) -> str:
        """See `Backend.why_not_parked`."""
        return _why_not_parked(profile)

    def take_over(self, profile: Profile) -> sandboxes.ModalSandbox | None:
        """See `Backend.take_over`."""
        if self._parking is None or _why_not_parked(profile):
            return None
        image = self._image(profile, untold)
        while (claimed := self._claim(profile, image.handle)) is not None:
            with contextlib.suppress(SandboxStartError):  # it may have ended meanwhile
                taken = self._start(profile, image, claimed.handle, claimed.parked.users)
                taken.go_on_from(claimed.parked.started, claimed.parked.uses)
                return taken
        return None

    def _claim(self, profile: Profile, image: modal.Image) -> Claimed | None:
        """A sandbox that an earlier run has parked, and that nobody else has."""
        if self._parking is None or _why_not_parked(profile):
            return None
        recipe = self._parking.recipe(profile, image)
        with self._handing_out:
            if explored := self._claimed.get(recipe):
                return explored.pop()
        return self._parking.claim(profile, recipe)

    def _give_back(self, profile: Profile, image: modal.Image, claimed: Claimed) -> None:
        """Have the next who takes one over take this one."""
        assert self._parking is not None
        with self._handing_out:
            self._claimed.setdefault(self._parking.recipe(profile, image), []).append(claimed)

    def remove_parked(self) -> list[str]:
        """See `Backend.remove_parked`."""
        if not self._service.account():
            return []
        parking = self._parking or Parking(self._service, self._run, 0.0, "")
        return [*parking.end_all(), *janitor.remove_parked(self._service)]

    def stop_waiting(self) -> None:
        """See `Backend.stop_waiting`."""
        self._creator.stop_waiting()

    def close(self) -> None:
        """See `Backend.close`."""
        if self._parking is not None and self._swept.has_any:
            for claimed in itertools.chain.from_iterable(self._claimed.values()):
                sandboxes.end(self._service, claimed.handle)
            with contextlib.suppress(SandboxStartError, ConfigurationError):  # the next run tries again
                self._parking.end_outdated()
        self._service.close()

    def _app(self, profile: Profile) -> modal.App:
        return self._service.app(_app_name(profile))

    def _image(self, profile: Profile, progress: Progress) -> Image:
        """The image of a profile's sandboxes; who asks first has it built, and a sandbox of it explored."""

        def ask_in(sandbox: modal.Sandbox, command: Sequence[str], archive: bytes) -> tuple[int, bytes]:
            try:
                if archive:
                    self._unpack(sandbox, archive)
                return sandboxes.run(self._service, sandbox, command, "an image cannot be explored")
            except BaseException:
                sandboxes.end(self._service, sandbox)
                raise

        def ask(handle: modal.Image, command: Sequence[str], archive: bytes) -> tuple[int, bytes]:
            while (claimed := self._claim(profile, handle)) is not None:
                with contextlib.suppress(SandboxStartError):  # it has ended meanwhile
                    answer = ask_in(claimed.handle, command, archive)
                    self._give_back(profile, handle, claimed)
                    return answer
            sandbox = self._create(profile, handle, waits_for_turn=True)
            answer = ask_in(sandbox, command, archive)
            sandboxes.end(self._service, sandbox)
            return answer

        recipe = section.read(profile, self._options.directory).recipe
        return self._images.get(
            recipe,
            self._app(profile),
            ask,
            lambda: self._project_files(profile),
            is_reset=profile.isolation != "sandbox",
            progress=progress,
        )

    def _project_files(self, profile: Profile) -> ProjectFiles | None:
        """What workspaces of a profile have of the project, None if nothing. Raises `ConfigurationError`."""
        source = profile.workspace_source
        if source is None or source.startswith("/"):
            return None
        return self._files.get(source, lambda: project_files(profile, self._options), COPY_TIMEOUT)

    def _source(self, profile: Profile, image: Image) -> Source | None:
        """What workspaces are filled with, None if nothing. Raises `ConfigurationError` when the image has no such."""
        path = profile.workspace_source
        files = self._project_files(profile)
        if files is not None:
            return Source(SOURCE, (len(files.entries), files.size))
        if path is None or (
            profile.isolation == "sandbox" and PurePosixPath(path) == PurePosixPath(image.workdir)
        ):
            return None
        if not image.has_source:
            raise ConfigurationError(
                f"{profile.source('workspace_source')}: workspace_source of profile {profile.name!r} is {shown(path)}, "
                f"but image {image.label} has no such directory: correct the path, or name another image"
            )
        return Source(path)

    def notes(self, profile: Profile) -> tuple[str, ...]:
        """See `Backend.notes`."""
        files = self._project_files(profile)
        return (files.note(),) if files is not None and files.note() else ()

    def _create(self, profile: Profile, image: modal.Image, *, waits_for_turn: bool = False) -> modal.Sandbox:
        app_name = _app_name(profile)
        suffix = f"-{self._run}-{next(self._numbers)}"
        return self._creator.create(
            sandboxes.Order(
                app=self._app(profile),
                app_name=app_name,
                image=image,
                name=app_name[: _LONGEST_NAME - len(suffix)] + suffix,
                tags=janitor.tags(self._run, profile.digest),
                options=description.options(profile, section.read(profile, self._options.directory)),
            ),
            waits_for_turn=waits_for_turn,
        )

    def _unpack(self, sandbox: modal.Sandbox, archive: bytes) -> None:
        unpack = ("sh", "-c", 'mkdir -p "$1" && exec tar -x -f - -C "$1" 2>&1', "sh", str(DIRECTORY))
        code, said = sandboxes.run(
            self._service,
            sandbox,
            unpack,
            "an interpreter cannot be carried there",
            archive,
            seconds=_CARRY_TIMEOUT,
            ends_with_run=True,
        )
        if code != 0:
            why = said.decode(errors="replace")[:200] or f"tar has ended with code {code}"
            raise SandboxStartError(f"an interpreter cannot be carried there: {why}")


def _app_name(profile: Profile) -> str:
    return profile.app_name or DEFAULT_APP


def _whose_code(profile: Profile) -> str:
    if profile.isolation == "sandbox":
        return "with isolation sandbox, code runs as whoever Modal runs the image as"
    return "with isolation slot, code runs as a user that nobody else has"


def _check_place(profile: Profile, promises: Promises, volumes: Iterable[str]) -> None:
    """Raise `ConfigurationError` for workspaces in a place that a reset empties, or where nothing can be made."""
    for place in programs.SHARED:
        if PurePosixPath(profile.workspace_base).is_relative_to(place):
            raise promises.wrong("workspace_base", f"{place} is no place for workspaces: choose another")
    base = PurePosixPath(profile.workspace_base)
    for each in map(PurePosixPath, volumes):
        if each.is_relative_to(base) or base.is_relative_to(each):
            raise ConfigurationError(
                f"{profile.source('modal.volumes')}: modal.volumes of profile {profile.name!r} has {shown(str(each))}, "
                f"but the workspaces of slots are below {shown(str(base))}, and volumes are read-only: mount it "
                "elsewhere"
            )


def _why_not_parked(profile: Profile) -> str:
    """See `Backend.why_not_parked`."""
    if profile.isolation == "sandbox":
        return "with isolation sandbox, nobody can prove that nothing of its code is left"
    if profile.workspace_source is not None and not profile.workspace_source.startswith("/"):
        return "their workspace_source is a directory of the project, whose files may change"
    return ""

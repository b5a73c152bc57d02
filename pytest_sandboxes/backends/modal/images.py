"""Images: built, or found built, once for all sandboxes that are made of them, and what each turns out to have."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pytest_sandboxes.backends.base import Progress, untold
from pytest_sandboxes.backends.carried import CannotCarryError, CarriedPython
from pytest_sandboxes.backends.modal import programs
from pytest_sandboxes.backends.modal.section import Recipe
from pytest_sandboxes.backends.modal.service import Service
from pytest_sandboxes.backends.once import Once
from pytest_sandboxes.backends.ownership import new_scratch, remove_tree, sweep_scratch
from pytest_sandboxes.backends.project_archive import archive
from pytest_sandboxes.display import one_line, tail
from pytest_sandboxes.errors import BackendUnavailableError, SandboxStartError
from pytest_sandboxes.payload import trial
from pytest_sandboxes.project_files import ProjectFiles

if TYPE_CHECKING:
    import modal

LONGEST_BUILD = 7200.0
"""Seconds that a build may take."""
DIRECTORY = PurePosixPath("/.pytest-sandboxes")
"""Where a sandbox has an interpreter that its image has not."""
SOURCE = "/.pytest-sandboxes-source"
"""Where an image has a directory of the project."""
_OWN_PYTHON = ("python3", "-I", "-S", "-E")
_LONGEST_LOG = 1 << 16

Ask = Callable[["modal.Image", Sequence[str], bytes], tuple[int, bytes]]
"""Has a sandbox of an image run a command, once it has unpacked a tar in `DIRECTORY` if there is one."""


@dataclass(frozen=True)
class Image:
    """An image that the service has, and what a sandbox of it turned out to have."""

    label: str
    handle: modal.Image
    workdir: str
    is_root: bool
    """Commands in its sandboxes are root's."""
    architecture: str
    """What it runs on, as `uname -m` says it."""
    shared: tuple[str, ...]
    """Places that any code may write to."""
    has_source: bool
    """It has the directory from which workspaces are filled."""
    python: tuple[str, ...]
    """Starts the interpreter of the agent; `-c` and its program follow."""
    carried: bytes = b""
    """A tar of that interpreter, to be unpacked in `DIRECTORY`; empty where it is the image's own."""


class Images:
    """The images of a run."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._known: Once[tuple[Recipe, bool], Image] = Once()

    def get(
        self,
        recipe: Recipe,
        app: modal.App,
        ask: Ask,
        files: Callable[[], ProjectFiles | None],
        *,
        is_reset: bool,
        progress: Progress = untold,
    ) -> Image:
        """The image of `recipe`, with the project's `files` if there are any.

        With `is_reset`, its sandboxes serve one lease after another. Raises `BackendUnavailableError`, with the end of
        the build's log, when it cannot be had or runs no agent; `SandboxStartError` when the service fails; what
        `files` does.
        """

        def obtain() -> Image:
            with _archived(files(), 0o700 if is_reset else 0o755) as packed:
                built = self._build(recipe, app, progress, packed, is_reset=is_reset)
            return self._explore(recipe, built, ask)

        return self._known.get((recipe, is_reset), obtain, LONGEST_BUILD + 60)

    def _build(
        self, recipe: Recipe, app: modal.App, progress: Progress, packed: Path | None, *, is_reset: bool
    ) -> modal.Image:
        import modal.exception

        log = _Log()

        async def build() -> modal.Image:
            handle = _describe(recipe, packed, is_reset=is_reset)
            try:
                return await handle.build.aio(app)
            except (
                modal.exception.ImageBuildError,
                modal.exception.NotFoundError,
                modal.exception.InvalidError,
            ) as error:
                remedy = f"correct what its log complains of{log.shown()}"
                raise _BuildError(f"{one_line(str(error), 300)}; {remedy}") from None
            except OSError as error:
                if error.filename is None:  # about the service, and not about a file of the context
                    raise
                raise _BuildError(
                    f"{one_line(str(error.filename), 300)} cannot be read ({error.strerror}); correct that, or keep "
                    "it out of the context with .dockerignore"
                ) from None

        with progress(f"building image {recipe.label} on Modal") as say, log.kept(say):
            try:
                return self._service.call(build, f"image {recipe.label} was not built", LONGEST_BUILD)
            except _BuildError as error:
                raise BackendUnavailableError(
                    f"backend modal: image {recipe.label} cannot be built: {error}"
                ) from None

    def _explore(self, recipe: Recipe, handle: modal.Image, ask: Ask) -> Image:
        """See what a sandbox of the image has, and by which interpreter an agent runs there."""
        source = recipe.source
        if source is not None and not source.startswith("/"):
            source = SOURCE
        directories = (*programs.SHARED, *([source] if source else []))
        command = [*_OWN_PYTHON, "-c", trial()]
        code, said = ask(handle, programs.probe(command, directories), b"")
        found = _Findings.read(said)
        if found is None:
            raise BackendUnavailableError(
                f"backend modal: a sandbox of image {recipe.label} does not say what it has ({code}: "
                f"{one_line(said.decode(errors='replace'), 200)}): use an image with sh, mkfifo and uname"
            )
        image = Image(
            label=recipe.label,
            handle=handle,
            workdir=found.workdir,
            is_root=found.is_root,
            architecture=found.architecture,
            shared=tuple(place for place in programs.SHARED if place in found.directories),
            has_source=source in found.directories,
            python=_OWN_PYTHON,
        )
        if code == 0:
            return image
        complaint = found.rest or f"its python3 ends with {code}"
        try:
            packed = CarriedPython.pack(DIRECTORY, found.architecture)
        except CannotCarryError as error:
            raise _no_agent(
                recipe, f"{complaint}; and the Python that runs pytest cannot be carried there: {error}"
            ) from None
        code, said = ask(handle, programs.probe([*packed.command, "-c", trial()], ()), packed.archive)
        again = _Findings.read(said)
        if code != 0:
            why = again.rest if again else said.decode(errors="replace")
            raise _no_agent(
                recipe, f"{complaint}; and the Python that runs pytest, carried there: {one_line(why, 200)}"
            )
        return replace(image, python=packed.command, carried=packed.archive)


def _no_agent(recipe: Recipe, why: str) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"backend modal: image {recipe.label} cannot run a sandbox's agent: {why}: use an image with Python 3.8 or "
        "newer"
    )


@dataclass(frozen=True)
class _Findings:
    """What a probe has printed, as far as it is such."""

    workdir: str
    is_root: bool
    architecture: str
    directories: tuple[str, ...]
    rest: str

    @classmethod
    def read(cls, said: bytes) -> _Findings | None:
        head, separator, rest = said.decode(errors="replace").partition("--\n")
        lines = head.splitlines()
        if not separator or len(lines) < 3 or not lines[0].startswith("/"):
            return None
        workdir, user, architecture, *directories = lines
        return cls(workdir, user == "0", architecture, tuple(directories), one_line(rest.strip(), 300))


class _BuildError(SandboxStartError):
    """A build has failed: why, and what to do."""


class _Log:
    """What builds say while one of ours is under way. Nothing in it is relied on: commands of the build write it."""

    def __init__(self) -> None:
        self._text = ""
        self._say: Callable[[str], None] = lambda _: None

    def kept(self, say: Callable[[str], None]) -> _Listening:
        """A context in which it is kept, and its last line said."""
        self._say = say
        return _Listening(self)

    def take(self, text: str) -> None:
        """A piece of it."""
        self._text = (self._text + text)[-_LONGEST_LOG:]
        lines = self._text.rstrip().rsplit("\n", 1)
        self._say(one_line(lines[-1], 100))

    def shown(self) -> str:
        """Its end, to follow a sentence."""
        return f". The build's last lines:\n{tail(self._text)}" if self._text.strip() else ""


class _Listening:
    """Hears what the client shows of builds, for as long as one of ours takes; there is one such place in a process."""

    def __init__(self, log: _Log) -> None:
        self._log = log

    def __enter__(self) -> None:
        from modal.output import OutputManager

        manager = OutputManager.get()
        self._attributes = vars(manager)
        before = manager.put_streaming_log

        async def put(log: Any, prefix: str = "") -> None:
            self._log.take(log.data)
            await before(log, prefix)

        self._attributes["put_streaming_log"] = put

    def __exit__(self, *_: object) -> None:
        self._attributes.pop("put_streaming_log", None)


@contextlib.contextmanager
def _archived(files: ProjectFiles | None, mode: int) -> Iterator[Path | None]:
    """A file with a tar of the project's files, None without those. Raises `BackendUnavailableError`."""
    if files is None:
        yield None
        return
    sweep_scratch()
    with contextlib.ExitStack() as cleanup:
        try:
            scratch = new_scratch()
            cleanup.callback(scratch.release)
            cleanup.callback(remove_tree, scratch.path)
            path = scratch.path / "source.tar"
            with path.open("wb") as file:
                file.writelines(archive(files, mode))
        except OSError as error:
            raise BackendUnavailableError(
                f"backend modal: {one_line(str(files.top), 300)} cannot be packed for its sandboxes: "
                f"{one_line(str(error), 300)}"
            ) from None
        yield path


def _step(*argv: str) -> str:
    """A command as a step of a build, whatever is in it."""
    return json.dumps(argv)


def _describe(recipe: Recipe, packed: Path | None, *, is_reset: bool) -> modal.Image:
    """The image as the client describes it, before it is built; `packed` has what is to be at `SOURCE`."""
    import modal

    if recipe.registry is not None:
        image = modal.Image.from_registry(recipe.registry)
    elif recipe.dockerfile is not None:
        image = modal.Image.from_dockerfile(
            recipe.dockerfile, context_dir=recipe.context, build_args=dict(recipe.build_args)
        )
    else:
        image = modal.Image.debian_slim(recipe.python)
    if recipe.apt:
        image = image.apt_install(*recipe.apt)
    if recipe.pip:
        image = image.pip_install(*recipe.pip)
    if recipe.setup:
        variables = (
            ["env", *(f"{name}={value}" for name, value in recipe.variables)] if recipe.variables else []
        )
        steps = [_step(*variables, "/bin/sh", "-c", command) for command in recipe.setup]
        image = image.run_commands(*steps, gpu=recipe.gpu)
    if packed is not None:
        unpack = 'mkdir "$1" && tar -x -p -f "$1.tar" -C "$1" && rm "$1.tar"'
        image = image.add_local_file(packed, f"{SOURCE}.tar", copy=True)
        image = image.run_commands(_step("/bin/sh", "-c", unpack, "sh", SOURCE))
    return image.run_commands(programs.CLOSE_PUBLIC_PLACES) if is_reset else image

"""What this user knows of parked sandboxes: one file for each, with the key that its agent answers to.

A file is a claim: who unlinks it has the sandbox, and of all who try, the kernel lets one succeed. So there are no
locks that could be left behind, and a key is used once. A run that dies between the two leaves a sandbox of which
nobody knows any more, and which ends by itself when its time is up.

The directory and the files are the user's alone, or they are refused: who can write there decides what code is trusted
to be gone, and who can read there can pass for a parked agent.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError

_LONGEST = 1 << 16  # bytes of a file; a slot takes a dozen
_SUFFIX = ".parked"
_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Parked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sandbox that waits for the next run."""

    backend: str
    host: str
    """Where the backend's service is, as the backend says it."""
    sandbox: str
    """Its id there."""
    recipe: str
    """Digest of all that has gone into it: who wants just that can have it."""
    profile: str
    directory: str
    """Profile and project of the run that parked it; under another recipe, it is out of date."""
    users: tuple[int, ...]
    """Who the code of each slot is."""
    interpreter: tuple[str, ...]
    """What starts a Python in it; a program follows."""
    started: float
    """When it was started, by this machine's clock."""
    uses: int
    """Leases that it has had."""
    key: bytes
    """What its agent answers to, once; empty where none waits, and the backend itself says which sandbox is which."""
    expires: float
    """When it ends by itself, by this machine's clock."""

    def __repr__(self) -> str:
        return f"<Parked {self.backend} {self.sandbox[:12]}>"  # never the key


class Records:
    """The records of a user. Its methods may be called from any thread."""

    def __init__(self, directory: Path | None = None) -> None:
        """`directory`: made when it is needed; by default, below the directory for programs' state."""
        self.directory = directory or _usual_directory()

    def add(self, parked: Parked) -> str:
        """Have others find a sandbox, and claim it by the name that is returned.

        Raises `ConfigurationError` for a directory that is not this user's alone.
        """
        with self._opened(make=True) as top:
            name = secrets.token_hex(8)
            new = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=top)
            try:
                with os.fdopen(new, "wb") as file:
                    file.write(msgspec.json.encode(parked))
                os.rename(name, name + _SUFFIX, src_dir_fd=top, dst_dir_fd=top)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=top)
                raise
        return name + _SUFFIX

    def list(self) -> dict[str, Parked]:
        """What is parked, by the names under which to claim it, those that end last first.

        Raises `ConfigurationError` for a directory or a file that is not this user's alone.
        """
        found: dict[str, Parked] = {}
        with self._opened() as top:
            for name in () if top < 0 else os.listdir(top):  # noqa: PTH208 - this directory, whatever its name is
                if not name.endswith(_SUFFIX):
                    continue
                with contextlib.suppress(FileNotFoundError):  # claimed by another meanwhile
                    found[name] = self._read(name, top)
        return dict(sorted(found.items(), key=lambda each: -each[1].expires))

    def claim(self, name: str) -> bool:
        """Take what is parked under a name: from now on it is the caller's, or, if not true, another's."""
        with self._opened() as top:
            if top < 0:
                return False
            try:
                os.unlink(name, dir_fd=top)
            except FileNotFoundError:
                return False
            return True

    def _read(self, name: str, top: int) -> Parked:
        where = self.directory / name
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=top)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _refused(where, f"cannot be opened ({error.strerror})") from None
        try:
            _check(os.fstat(file), stat.S_ISREG, "regular file", where)
            return msgspec.json.decode(os.read(file, _LONGEST), type=Parked)
        except msgspec.MsgspecError as error:
            raise _refused(where, f"is no record of a parked sandbox ({one_line(str(error))})") from None
        finally:
            os.close(file)

    @contextmanager
    def _opened(self, *, make: bool = False) -> Iterator[int]:
        """A descriptor of the directory, -1 if there is none."""
        try:
            if make:
                self.directory.parent.mkdir(0o700, parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError):
                    self.directory.mkdir(0o700)
            top = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            top = -1
        except OSError as error:
            raise ConfigurationError(
                f"{self.directory}, where keys of parked sandboxes are, cannot be used ({error.strerror}): make it a "
                "directory of yours with mode 0700, or set XDG_STATE_HOME to another place"
            ) from None
        try:
            if top >= 0:
                _check(os.fstat(top), stat.S_ISDIR, "directory", self.directory)
            yield top
        finally:
            if top >= 0:
                os.close(top)


class Claims:
    """What of a user's parked sandboxes on one backend a run may have. Its methods may be called from any thread.

    Those that yield something have claimed it: who does not use that has to remove it. All raise `ConfigurationError`
    for records that cannot be trusted.
    """

    def __init__(self, backend: str, host: Callable[[], str], directory: str) -> None:
        """`host`: as in `Parked`. `directory`: of the project; a profile of the same name there is the same profile."""
        self.records = Records()
        self.directory = directory
        self._backend = backend
        self._host = host
        self._lock = threading.Lock()  # of what is wanted
        self._wanted: dict[str, set[str]] = {}
        """The recipes of this run, by profile."""

    def want(self, profile: str, recipe: str) -> None:
        """Note that this run uses a recipe."""
        with self._lock:
            self._wanted.setdefault(profile, set()).add(recipe)

    def are_there(self, recipe: str) -> bool:
        """Whether any of just this recipe still wait. They are not claimed."""
        return any(each.recipe == recipe and each.expires >= time.time() for each in self._there().values())

    def of(self, recipe: str) -> Iterator[Parked]:
        """Those of just this recipe that still wait."""
        for name, parked in self._there().items():
            if parked.expires < time.time():
                self.records.claim(name)
            elif parked.recipe == recipe and self.records.claim(name):
                yield parked

    def outdated(self) -> Iterator[Parked]:
        """Those that nobody wants any more: of a profile of this run, as it was before it or its image was changed."""
        with self._lock:
            wanted = {profile: frozenset(recipes) for profile, recipes in self._wanted.items()}
        for name, parked in self._there().items():
            recipes = wanted.get(parked.profile)
            is_outdated = recipes is not None and parked.recipe not in recipes
            if is_outdated and parked.directory == self.directory and self.records.claim(name):
                yield parked

    def all(self) -> Iterator[Parked]:
        """All of them."""
        for name, parked in self._there().items():
            if self.records.claim(name):
                yield parked

    def _there(self) -> dict[str, Parked]:
        here = self._backend, self._host()
        return {name: each for name, each in self.records.list().items() if (each.backend, each.host) == here}


def _usual_directory() -> Path:
    """As the XDG Base Directory Specification has it; a path that is not absolute counts for nothing there."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():
        state = Path.home() / ".local/state"
    return state / "pytest-sandboxes" / "parked"


def _check(status: os.stat_result, is_kind: Callable[[int], bool], kind: str, where: Path) -> None:
    """Raise `ConfigurationError` unless something is of a kind, this user's, and nobody else's."""
    if not is_kind(status.st_mode):
        raise _refused(where, f"is no {kind}")
    if status.st_uid != os.geteuid():
        raise _refused(where, f"belongs to user {status.st_uid} and not to you")
    if status.st_mode & _FOR_OTHERS:
        raise _refused(where, f"is open to others (mode {stat.S_IMODE(status.st_mode):04o})")


def _refused(where: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{where}, which is to have keys of parked sandboxes that nobody else can read or put there, {why}: see how "
        f"that came, and remove it (rm -r {where}); what is parked then ends when its time is up"
    )

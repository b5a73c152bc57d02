"""Which files of the project a sandbox may have: those that are tracked, and none that tells a secret or leads out."""

from __future__ import annotations

import errno
import fnmatch
import os
import stat
import subprocess
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError

_GIT_TIMEOUT = 120
_CONFIDENTIAL = "may hold a secret"
_PRIVATE_FOLDERS = frozenset({".git", ".aws", ".azure", ".docker", ".gcloud", ".gnupg", ".kube", ".ssh"})
_SECRETS = (
    "_netrc",
    "application_default_credentials.json",
    "credentials.json",
    "service[-_]account*.json",
    ".env*",
    ".boto",
    ".dockercfg",
    ".git-credentials",
    ".modal.toml",
    ".netrc",
    ".npmrc",
    ".pgpass",
    ".pypirc",
    "*.jks",
    "*.kdbx",
    "*.key",
    "*.keystore",
    "*.p12",
    "*.pem",
    "*.pfx",
    "*.ppk",
    "id_dsa",
    "id_ecdsa",
    "id_ecdsa_sk",
    "id_ed25519",
    "id_ed25519_sk",
    "id_rsa",
)
"""Names of files and directories, in any case."""


@dataclass(frozen=True)
class ProjectFiles:
    """Files and links below a directory."""

    top: Path
    entries: Mapping[str, os.stat_result]
    """Relative path, and what it was when it was found, in order."""
    left_out: Mapping[str, str]
    """Relative path of what nobody gets, and why."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(each.st_size for each in self.entries.values() if stat.S_ISREG(each.st_mode))

    def note(self) -> str:
        """What has been left out, for people; empty if nothing."""
        if not self.left_out:
            return ""
        first = [f"{one_line(path, 80)} ({why})" for path, why in list(self.left_out.items())[:5]]
        more = len(self.left_out) - len(first)
        return f"workspace_source leaves out {', '.join(first)}{f' and {more} more' if more else ''}"

    def copy(self, destination: Path) -> None:
        """Make a copy that shares nothing with the project, but storage where the file system has reflinks.

        Everybody may read it who can pass the directory above it, whatever the umask says. Raises OSError when
        something cannot be read or written.
        """
        destination.mkdir()
        destination.chmod(0o755)
        made = {destination}
        for path, status in self.entries.items():
            target = destination / path
            for folder in reversed(target.parents):
                if folder not in made and folder.is_relative_to(destination):
                    folder.mkdir()
                    folder.chmod(0o755)
                    made.add(folder)
            if stat.S_ISLNK(status.st_mode):
                target.symlink_to((self.top / path).readlink())
                continue
            there = self.open(path)
            try:
                here = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    _copy_content(there, here, status.st_size)
                    os.fchmod(here, mode_of(status))
                    os.utime(here, ns=(status.st_atime_ns, status.st_mtime_ns))
                finally:
                    os.close(here)
            finally:
                os.close(there)

    def open(self, path: str) -> int:
        """A descriptor of a file; never waits, and follows no link in the place of a file."""
        return os.open(self.top / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def mode_of(status: os.stat_result) -> int:
    """Permissions of a copy: who may read the project is nobody's business in a sandbox, what can be run is."""
    return 0o755 if status.st_mode & stat.S_IXUSR else 0o644


def collect(top: Path, where: str, *, never: Path | None = None) -> ProjectFiles:
    """The files of a directory: those that git tracks, in a checkout of it, else all.

    `where` says in messages who asks for them, `never` is one that nobody gets. Raises `ConfigurationError` for a
    checkout that git does not list, and for a directory without files.
    """
    top = top.resolve()
    entries: dict[str, os.stat_result] = {}
    left_out: dict[str, str] = {}
    inside: dict[str, bool] = {}
    for path in sorted(_tracked(top, where) if is_checkout(top) else _all(top)):
        try:
            status = (top / path).lstat()
        except OSError:  # deleted, and not committed yet
            continue
        folder = os.path.dirname(path)
        if folder not in inside:
            inside[folder] = (top / folder).resolve() == top / folder
        why = _why_not(top, path, status, is_inside=inside[folder])
        if why or top / path == never:
            left_out[path] = why or _CONFIDENTIAL
        else:
            entries[path] = status
    if not entries:
        tracked = "files that git tracks: git add some" if is_checkout(top) else "files: put some there"
        raise ConfigurationError(f"{where}, but that directory has no {tracked}")
    return ProjectFiles(top, entries, left_out)


def _why_not(top: Path, path: str, status: os.stat_result, *, is_inside: bool) -> str:
    """Why a sandbox must not have a file, empty if it may."""
    # some file systems take letters of either case, and compositions of Unicode, for the same
    parts = unicodedata.normalize("NFKC", path).casefold().split("/")
    if not _PRIVATE_FOLDERS.isdisjoint(parts) or any(
        fnmatch.fnmatchcase(part, pattern) for part in parts for pattern in _SECRETS
    ):
        return _CONFIDENTIAL
    if not is_inside:
        return "behind a link"
    if stat.S_ISDIR(status.st_mode):
        return "a submodule"
    if stat.S_ISLNK(status.st_mode):
        target = top / os.path.dirname(path) / (top / path).readlink()
        stays = not (top / path).readlink().is_absolute() and Path(os.path.normpath(target)).is_relative_to(
            top
        )
        stays = stays and not _is_loop(target) and target.resolve().is_relative_to(top)
        return "" if stays else "a link that leads out"
    return "" if stat.S_ISREG(status.st_mode) else "no regular file"


def _is_loop(path: Path) -> bool:
    """A link leads to itself. Whether resolving it raises depends on Python's version."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def is_checkout(top: Path) -> bool:
    """Whether git knows the directory, or one above it."""
    return any((folder / ".git").exists() for folder in (top, *top.parents))


def _tracked(top: Path, where: str) -> list[str]:
    # a checkout can name programs of its own that git would start
    command = ["git", "-c", "core.fsmonitor=false", "ls-files", "-z", "--cached", "--", "."]
    # whoever runs pytest from a hook of git has variables that name another checkout, or parts of one
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        listed = subprocess.run(
            command, cwd=top, env=environment, capture_output=True, timeout=_GIT_TIMEOUT, check=True
        ).stdout
    except subprocess.CalledProcessError as error:
        said = one_line(error.stderr.decode(errors="replace").strip(), 300)
        raise ConfigurationError(f"{where}, but git does not list its files: {said}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(
            f"{where}, a checkout of git, which cannot tell what is tracked: {one_line(str(error), 300)}; install git"
        ) from None
    return list(dict.fromkeys(os.fsdecode(name) for name in listed.split(b"\0") if name))


def _all(top: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(top):
        here = os.path.relpath(folder, top)
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in (*names, *links):
            yield os.path.normpath(os.path.join(here, name))


def _copy_content(source: int, target: int, size: int) -> None:
    """Have the kernel copy, which shares storage where it can."""
    done = 0
    by_range = True
    while done < size:
        piece = 0
        if by_range:
            try:
                piece = os.copy_file_range(source, target, size - done, done, done)
            except OSError:  # across file systems, say
                by_range = False
        if not by_range:
            os.lseek(target, done, os.SEEK_SET)
            piece = os.sendfile(target, source, done, size - done)
        if not piece:
            raise OSError("a file of the project has become shorter while it was copied")
        done += piece

"""Directories that belong to a running process: claimed while it lives, swept once it is gone.

The claim is a lock of the kernel on the directory itself, so it ends with its owner, whatever namespace or container
that lived in, and there is no file that could survive.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

_SCRATCH_PREFIX = "pytest-sandboxes-"


class Claim:
    """A directory of ours, until `release` or the end of this process.

    Others may have a claim as well if it `is_shared` by all of them.
    """

    def __init__(self, path: Path, *, is_shared: bool = False) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Give the directory up, which is usually gone by now."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def claimed(make: Callable[[], Path], *, is_shared: bool = False) -> Claim:
    """A directory that `make` makes, with a claim; another if a sweep has come between the two.

    Raises what `make` does.
    """
    while True:
        path = make()
        try:
            claim = Claim(path, is_shared=is_shared)
        except (BlockingIOError, FileNotFoundError):
            continue
        if path.is_dir():  # a sweep whose claim ended just before ours has removed what ours is on
            return claim
        claim.release()


def new_scratch(prefix: str = _SCRATCH_PREFIX, *, is_shared: bool = False) -> Claim:
    """A new directory in the system's temporary one, with a claim. Raises OSError when there is no room for it."""
    return claimed(lambda: Path(tempfile.mkdtemp(prefix=prefix)), is_shared=is_shared)


def sweep_scratch(prefix: str = _SCRATCH_PREFIX) -> None:
    """Remove what killed runs have left there."""
    sweep(Path(tempfile.gettempdir()), prefix, remove_tree)


def sweep(parent: Path, prefix: str, remove: Callable[[Path], None]) -> int:
    """Remove the directories in `parent` whose names begin with `prefix`, that are this user's, and nobody's claim.

    Returns how many. What cannot be removed stays, for a later sweep.
    """
    removed = 0
    try:
        entries = list(os.scandir(parent))
    except OSError:
        return 0
    for entry in entries:
        if not entry.name.startswith(prefix) or not entry.is_dir(follow_symlinks=False):
            continue
        try:
            if entry.stat(follow_symlinks=False).st_uid != os.geteuid():
                continue
            claim = Claim(Path(entry.path))
        except OSError:  # somebody's, or gone
            continue
        try:
            remove(Path(entry.path))
            removed += 1
        except OSError:
            pass
        finally:
            claim.release()
    return removed


def remove_tree(path: Path) -> None:
    """Remove a directory and all in it: what its owner made unreadable, and what is deeper than a path can name.

    Folders are moved up before they are emptied, so that no depth takes recursion, descriptors or long paths.
    """
    unique = (path / f"{secrets.token_hex(8)}-{number}" for number in itertools.count())
    folders = [path]
    while folders:
        folder = folders.pop()
        folder.chmod(0o700)
        for entry in list(os.scandir(folder)):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)  # or it could not be moved
            above = next(unique)
            os.rename(entry.path, above)
            folders.append(above)
        if folder != path:
            folder.rmdir()
    path.rmdir()

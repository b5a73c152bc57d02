"""Reaching files of root's own on behalf of a user who may not.

As root a sandbox is started under an unprivileged user id, which cannot pass directories such as a 0700 /root that the
interpreter may lie below. The thread that starts sandboxes therefore gets a mount namespace of its own with a small
tree of bind mounts that everybody may pass. Nobody else sees it, and it ends with the thread.
"""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path

from pytest_sandboxes.errors import IsolationUnavailableError

_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_POINTS = ("/mnt", "/media", "/srv", "/opt")


class Stage:
    """Makes paths of root's passable, on and for the calling thread only."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._point: Path | None = None
        self._count = 0

    def passable(self, *paths: Path) -> Path:
        """The directory that holds `paths`, which are beside each other, for an unprivileged user.

        It is their own parent if everybody can pass it, else one that holds nothing but them.
        Raises `IsolationUnavailableError` when there is none and none can be made.
        """
        for path in paths:
            if not path.stat().st_mode & stat.S_IXOTH:
                raise IsolationUnavailableError(
                    f"{path} is closed to all but its owner, and sandboxes run unprivileged: chmod o+rx {path}"
                )
        parent = paths[0].parent
        if _everybody_can_pass(parent):
            return parent
        if self._point is None:
            self._point = self._make_namespace(parent)
        substitute = self._point / str(self._count)
        self._count += 1
        for path in paths:
            (substitute / path.name).mkdir(parents=True)
            self._mount(str(path), str(substitute / path.name), None, _MS_BIND | _MS_REC)
        return substitute

    def _make_namespace(self, path: Path) -> Path:
        point = next((Path(each) for each in _POINTS if _is_free(Path(each), path)), None)
        if point is None:
            raise IsolationUnavailableError(
                f"no directory to mount on: one of {', '.join(_POINTS)} has to exist"
            )
        if self._libc.unshare(_CLONE_NEWNS):
            reason = os.strerror(ctypes.get_errno())
            raise IsolationUnavailableError(
                f"{path} can only be reached by root, sandboxes run unprivileged, and this process may not bridge that "
                f"({reason}): use a Python that everybody may run, or run pytest as an ordinary user"
            )
        self._mount("none", "/", None, _MS_REC | _MS_PRIVATE)
        self._mount("tmpfs", str(point), "tmpfs", 0)
        point.chmod(0o755)
        return point

    def _mount(self, source: str, target: str, kind: str | None, flags: int) -> None:
        kind_bytes = None if kind is None else kind.encode()
        if self._libc.mount(os.fsencode(source), os.fsencode(target), kind_bytes, flags, None):
            number = ctypes.get_errno()
            raise IsolationUnavailableError(f"cannot mount {source} on {target}: {os.strerror(number)}")


def _is_free(point: Path, needed: Path) -> bool:
    return point.is_dir() and not needed.is_relative_to(point)


def _everybody_can_pass(path: Path) -> bool:
    try:
        return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))
    except OSError:
        return False

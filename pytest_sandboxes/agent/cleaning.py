"""Removing every trace of a slot's code, and the proof that none is left.

It runs in a forked worker, as root, once no process of the code is left that could interfere.
"""

from __future__ import annotations

import errno
import os
import stat

from pytest_sandboxes.agent import processes

TYPE_CHECKING = False  # `typing` is not worth its import time here
if TYPE_CHECKING:
    from pytest_sandboxes.agent.identity import UserIdentity

_IPC_RMID = 0
_IPC_KINDS = (  # file, its column with the id, and how one is removed: function, arguments behind the id
    ("shm", 1, "shmctl", (_IPC_RMID, 0)),
    ("sem", 1, "semctl", (0, _IPC_RMID, 0)),
    ("msg", 1, "msgctl", (_IPC_RMID, 0)),
)
_MODES = {True: 0o1777, False: 0o700}
"""Permissions of a place by whether it is shared with the rest of the system, as /tmp is."""


def clean(
    workspace: bytes, shared: list[bytes], directories: list[bytes], identity: UserIdentity
) -> dict[str, object]:
    """Empty `workspace` and the `shared` places, remove System V objects, and make `directories` anew.

    Raises OSError with the name of what could not be removed.
    """
    for place in (workspace, *shared):
        empty(place)
    for place in shared:
        _restore(place, _MODES[True], 0, 0)
    _restore(workspace, _MODES[False], identity.uid, identity.gid)
    identity.become()  # only who made them, or an administrator, may remove them
    _remove_system_v()
    for path in directories:
        os.makedirs(path, 0o755, exist_ok=True)
    return {}


def empty(place: bytes) -> None:
    """Remove all that is in a directory, through no link, however deep it is or closed it has been made.

    Raises OSError for what stays.
    """
    top = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        prefix, moved = b".removed-" + os.urandom(8).hex().encode(), 0
        todo = _remove_files(top)
        while todo:
            name = todo.pop()
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
            try:
                for below in _remove_files(fd):
                    # up to the top, so that no depth takes recursion or descriptors
                    moved += 1
                    above = b"%s-%d" % (prefix, moved)
                    os.rename(below, above, src_dir_fd=fd, dst_dir_fd=top)
                    todo.append(above)
            finally:
                os.close(fd)
            os.rmdir(name, dir_fd=top)
        left = os.listdir(top)
        if left:
            raise OSError(
                errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), os.path.join(place, os.fsencode(left[0]))
            )
    finally:
        os.close(top)


def _remove_files(fd: int) -> list[bytes]:
    """Remove what is no directory; return the names of those that are."""
    folders = []
    for name in os.listdir(fd):
        path = os.fsencode(name)
        if stat.S_ISDIR(os.stat(path, dir_fd=fd, follow_symlinks=False).st_mode):
            folders.append(path)
        else:
            os.unlink(path, dir_fd=fd)
    return folders


def _restore(place: bytes, mode: int, uid: int, gid: int) -> None:
    """Give a directory the owner, permissions and attributes back that its last user may have changed."""
    os.chown(place, uid, gid)
    os.chmod(place, mode)
    for name in os.listxattr(place):
        if name.startswith("user."):
            os.removexattr(place, name)
    os.utime(place)


def _remove_system_v() -> None:
    for kind, column, function, arguments in _IPC_KINDS:
        for number in _system_v(kind, column):
            processes.call_library(function, number, *arguments)
        left = _system_v(kind, column)
        if left:
            raise OSError(errno.EBUSY, f"System V {kind} objects are left: {left[:3]}")


def _system_v(kind: str, column: int) -> list[int]:
    try:
        with open(f"/proc/sysvipc/{kind}", "rb") as file:
            return [int(line.split()[column]) for line in file.readlines()[1:]]
    except FileNotFoundError:  # a kernel without
        return []

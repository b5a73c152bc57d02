"""Removing every trace of a slot's code, and the proof that none is left.

It runs in a forked worker, as root, once every process of the code has been killed. Where others' code runs meanwhile,
it can meddle with nothing here but what is its own, and with what the slot's code has opened to it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
import sys
import time

from pytest_sandboxes.agent import processes

TYPE_CHECKING = False  # `typing` is not worth its import time here
if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_sandboxes.agent.identity import UserIdentity

_END_DEADLINE = 2.0  # seconds that killed processes may take to be gone
_LOOK_AGAIN = 0.001
_IPC_RMID = 0
_GET_FLAGS, _SET_FLAGS = (
    0x80086601,
    0x40086602,
)  # FS_IOC_GETFLAGS and FS_IOC_SETFLAGS, where a long has 8 bytes
_OWNERS_FLAGS = 0x40 | 0x80 | 0x40000000  # FS_NODUMP_FL, FS_NOATIME_FL, FS_CASEFOLD_FL
_IPC_KINDS = (  # file, and how one is removed: function, arguments behind the id
    ("shm", "shmctl", (_IPC_RMID, 0)),
    ("sem", "semctl", (0, _IPC_RMID, 0)),
    ("msg", "msgctl", (_IPC_RMID, 0)),
)
_DESTROYED = 0o1000  # a segment of shared memory that goes with the last process that has it attached
_TIME_WAIT = b"06"
_LOOPBACK = (  # addresses as /proc has them on little-endian machines
    b"0100007F:",
    b"0000000000000000FFFF00000100007F:",
    b"00000000000000000000000001000000:",
)
_NO_DIRECTORY = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ELOOP,
)  # not any more: its neighbours' code has been quicker
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def clean(
    workspace: bytes,
    directories: list[bytes],
    shared: list[bytes],
    identity: UserIdentity,
    fill: Callable[[], dict[str, object]],
) -> dict[str, object]:
    """Make the only slot of a sandbox as new: all places where code can leave anything are its own.

    `fill` puts into the workspace what is in each fresh one. Raises OSError with the name of what could not be removed.
    """
    _await_end(identity.uid)
    for place in (workspace, *shared):
        empty(place)
    for place in shared:
        _restore(place, 0o1777, 0, 0)
    filled = fill()
    _restore(workspace, 0o700, identity.uid, identity.gid)
    identity.become()  # only who made them, or an administrator, may remove them
    _remove_system_v(lambda _: True)
    for path in directories:
        os.makedirs(path, 0o755, exist_ok=True)
    return filled


def clean_beside_others(
    top: bytes,
    places: list[bytes],
    shared: list[bytes],
    identity: UserIdentity,
    fill: Callable[[], dict[str, object]],
) -> dict[str, object]:
    """Make one of several slots as new: `top` is its own, of what is in `shared` only what belongs to its user.

    Else as `clean`.
    """
    _await_end(identity.uid)
    empty(top)
    _restore(top, 0o750, 0, identity.gid)
    for place in places:
        os.mkdir(place, 0o700)
        os.chown(place, identity.uid, identity.gid)
    filled = fill()
    for place in shared:
        sweep(place, identity.uid)
    _check_ports()
    identity.become()
    _remove_system_v(lambda users: identity.uid in users)
    return filled


def _await_end(uid: int) -> None:
    """Wait until all processes of a user, which have been killed, are gone. Raises TimeoutError when one stays."""
    deadline = time.monotonic() + _END_DEADLINE
    while True:
        left = processes.processes_of(uid)
        if not left:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes do not end: {left[:3]}")
        time.sleep(_LOOK_AGAIN)


def empty(place: bytes) -> None:
    """Remove all that is in a directory, through no link, however deep it is or closed it has been made.

    Raises OSError for what stays.
    """
    top = os.open(place, _DIRECTORY)
    try:
        _empty(top, place)
    finally:
        os.close(top)


def _empty(top: int, place: bytes) -> None:
    prefix, moved = b".removed-" + os.urandom(8).hex().encode(), 0
    todo = _remove_files(top)
    while todo:
        name = todo.pop()
        fd = os.open(name, _DIRECTORY, dir_fd=top)
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


def sweep(place: bytes, uid: int) -> None:
    """Remove whatever belongs to a user in a directory that others use at the same time.

    What others have put into that user's directories goes with them. Raises OSError for what stays.
    """
    # one descriptor for each level: others may have made a deep tree, and nothing of theirs is to be moved
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    stack: list[tuple[int, list[bytes]]] = []
    try:
        top = os.open(place, _DIRECTORY)
        stack.append((top, _sweep_directory(top, place, uid)))
        while stack:
            here, below = stack[-1]
            if not below:
                os.close(stack.pop()[0])
                continue
            name = below.pop()
            try:
                fd = os.open(name, _DIRECTORY, dir_fd=here)
            except OSError as error:
                if error.errno not in _NO_DIRECTORY:
                    raise
                continue
            stack.append((fd, []))
            stack[-1][1].extend(_sweep_directory(fd, name, uid))
    finally:
        for fd, _ in stack:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _sweep_directory(fd: int, name: bytes, uid: int) -> list[bytes]:
    """Remove what is a user's; return the names of others' directories, in which there may be more."""
    others = []
    for entry in os.listdir(fd):
        path = os.fsencode(entry)
        try:
            found = os.stat(path, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                if found.st_uid == uid:
                    _remove_directory(fd, path, name)
                else:
                    others.append(path)
            elif found.st_uid == uid:
                os.unlink(path, dir_fd=fd)
        except FileNotFoundError:  # its neighbours' code has been quicker
            pass
    return others


def _remove_directory(parent: int, path: bytes, place: bytes) -> None:
    fd = os.open(path, _DIRECTORY, dir_fd=parent)
    try:
        os.fchown(fd, 0, 0)  # nobody puts anything into it any more
        os.fchmod(fd, 0o700)
        _empty(fd, os.path.join(place, path))
    finally:
        os.close(fd)
    os.rmdir(path, dir_fd=parent)


def _restore(place: bytes, mode: int, uid: int, gid: int) -> None:
    """Give a directory the owner, permissions and attributes back that its last user may have changed."""
    for name in _attributes(place):
        if name.startswith(("user.", "system.")):  # access control lists are of the latter kind
            os.removexattr(place, name)
    os.chown(place, uid, gid)
    os.chmod(place, mode)
    _clear_flags(place)
    os.utime(place)


def _attributes(place: bytes) -> list[str]:
    try:
        return os.listxattr(place)
    except OSError as error:  # a file system without
        if error.errno != errno.EOPNOTSUPP:
            raise
        return []


def _clear_flags(place: bytes) -> None:
    """Take back the inode flags that whoever owns a directory may set, where its file system has any."""
    fd = os.open(place, _DIRECTORY)
    try:
        flags = int.from_bytes(fcntl.ioctl(fd, _GET_FLAGS, bytes(8)), sys.byteorder)
        if flags & _OWNERS_FLAGS:
            fcntl.ioctl(fd, _SET_FLAGS, (flags & ~_OWNERS_FLAGS).to_bytes(8, sys.byteorder))
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(fd)


def _check_ports() -> None:
    """Raise OSError when a connection of code that has ended keeps a port busy, as it does for a minute.

    Whose it was, the kernel does not know any more. What code has opened to others, from a port that the kernel has
    chosen, keeps nobody from anything.
    """
    low, high = _chosen_ports()
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{name}", "rb") as file:
                rows = [line.split() for line in file][1:]
        except FileNotFoundError:  # a kernel without
            continue
        for row in rows:
            port = int(row[1].rpartition(b":")[2], 16)
            is_near = row[2].startswith(_LOOPBACK)
            if row[3] == _TIME_WAIT and (is_near or not low <= port <= high):
                raise OSError(errno.EADDRINUSE, f"port {port} stays busy after a connection")


def _chosen_ports() -> tuple[int, int]:
    """The lowest and the highest port that the kernel chooses by itself."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", "rb") as file:
            low, high = map(int, file.read().split())
    except FileNotFoundError:
        return 32768, 60999
    return low, high


def _remove_system_v(is_ours: Callable[[set[int]], bool]) -> None:
    """Remove the System V objects for whose owner and creator that holds."""
    for kind, function, arguments in _IPC_KINDS:
        for number in _system_v(kind, is_ours):
            processes.call_library(function, number, *arguments)
        left = _system_v(kind, is_ours)
        if left:
            raise OSError(errno.EBUSY, f"System V {kind} objects are left: {left[:3]}")


def _system_v(kind: str, is_ours: Callable[[set[int]], bool]) -> list[int]:
    try:
        with open(f"/proc/sysvipc/{kind}", "rb") as file:
            rows = [line.split() for line in file]
    except FileNotFoundError:  # a kernel without
        return []
    owner, creator, mode = (rows[0].index(name) for name in (b"uid", b"cuid", b"perms"))
    return [
        int(row[1])
        for row in rows[1:]
        if is_ours({int(row[owner]), int(row[creator])}) and not int(row[mode], 8) & _DESTROYED
    ]

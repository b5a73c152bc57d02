"""Removes what an emulator has made, after its end, however that comes: the end of standard input tells of it.

A process of its own, which nothing ends with the emulator. Run as a script, with a directory to remove and, for
emulators with containers, the label of all that they have made on the Engine.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from collections.abc import Callable
from typing import Any

FAREWELL = b"all has ended\n"
"""What an emulator says that has ended its sandboxes itself."""
_LATE = 2.0
"""Seconds within which an Engine does what it was asked for by an emulator that has been killed since."""


def main() -> None:
    """Wait, and remove."""
    directory, label = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    was_killed = sys.stdin.buffer.read() != FAREWELL
    remove_tree(directory)
    if label:
        import docker

        client = docker.from_env().api
        _remove(client, label)
        if was_killed:
            time.sleep(_LATE)
            _remove(client, label)


def remove_tree(path: str | os.PathLike[str]) -> None:
    """Remove a directory, whatever permissions code has given to what is in it."""
    for directory, names, _ in os.walk(path):
        for name in names:  # before the walk gets there, and not by links
            inner = os.path.join(directory, name)
            if stat.S_ISDIR(os.lstat(inner).st_mode):
                os.chmod(inner, 0o700)
    shutil.rmtree(path, ignore_errors=True)


def _remove(client: Any, label: str) -> None:
    of_ours = {"label": label}
    for container in client.containers(all=True, filters=of_ours):
        _try(client.remove_container, container["Id"])
    for volume in client.volumes(of_ours)["Volumes"] or ():
        _try(client.remove_volume, volume["Name"])
    # an image goes after all that are built on it, and a failed build has left some without a name
    removed = True
    while removed:
        images = client.images(all=True, filters=of_ours)
        removed = sum(_try(client.remove_image, image["Id"]) for image in images) > 0


def _try(remove: Callable[..., object], what: str) -> bool:
    import docker.errors

    try:
        remove(what, force=True)
    except docker.errors.APIError:  # gone meanwhile, or in use
        return False
    return True


if __name__ == "__main__":
    main()

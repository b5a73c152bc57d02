"""Copies of the Python that runs the tests, for users and containers that may not come to where it is.

`python -m tests.interpreters DIRECTORY` makes one where any user may not come, and says in two lines where it is, or
nothing, and where the Python itself is.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

PREFIX = Path(os.path.realpath(sys.base_prefix))
_NOT_NEEDED = shutil.ignore_patterns(
    *("site-packages", "test", "idlelib", "tkinter", "turtledemo", "lib2to3", "pydoc_data", "config-*"),
    *("*.a", "*.opt-?.pyc"),
    "*.pyc.*",  # what another process writes, which has its name only once it is complete
)


def is_public(path: Path) -> bool:
    """Whether any user may come there, and read it."""
    there = path.resolve()
    return all(each.stat().st_mode & 0o005 == 0o005 for each in (there, *there.parents))


def executable() -> str:
    """The path of the Python that runs here, without its virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def copy(folder: Path) -> None:
    """Make a copy of its installation, without what is installed in it; of hard links, where there can be some."""
    for name in ("bin", "lib"):
        shutil.copytree(PREFIX / name, folder / name, symlinks=True, ignore=_NOT_NEEDED, copy_function=_link)
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if not is_public(PREFIX):
        folder.mkdir()
        copy(folder)
    print(folder if folder.exists() else "", executable(), sep="\n")

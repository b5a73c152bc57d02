"""Runs of pytest on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PATIENCE = 60
_ERASE = "\x1b[K"


def on_terminal(directory: Path, columns: int, *arguments: str) -> str:
    """What a run of the tests in `directory` writes on a terminal so wide."""
    main, terminal = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns), "TERM": "xterm"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    said = b""
    try:
        while data := os.read(main, 65536):
            said += data
    except OSError:  # Linux' way to say that nobody has the terminal any more
        pass
    os.close(main)
    run.wait(_PATIENCE)
    return said.decode()


def screen(said: str) -> list[str]:
    """What stands there at the end, of text without colours."""
    lines = [""]
    column = 0
    for piece in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|.|\n", said, re.DOTALL):
        line = lines[-1]
        if piece == "\n":
            lines.append("")
            column = 0
        elif piece == "\r":
            column = 0
        elif piece == "\b":
            column -= 1
        elif piece == _ERASE:
            lines[-1] = line[:column]
        elif not piece.startswith("\x1b"):
            lines[-1] = line[:column].ljust(column) + piece + line[column + 1 :]
            column += 1
    return lines

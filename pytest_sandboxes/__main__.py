"""`python -m pytest_sandboxes COMMAND`: what there is to do outside of a run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pytest_sandboxes import gcp_check, purge
from pytest_sandboxes.errors import SandboxesError

_COMMANDS = (purge, gcp_check)
"""Modules, each with `add_command`, which adds a parser whose default `run` does it and returns the exit status."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pytest_sandboxes", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for each in _COMMANDS:
        each.add_command(commands)
    chosen = parser.parse_args(arguments)
    try:
        return int(chosen.run(chosen))
    except SandboxesError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())

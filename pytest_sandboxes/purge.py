"""The command `purge`: removes what `--sandbox-keep` has kept, and what killed runs have left."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pytest_sandboxes import registry
from pytest_sandboxes.backends.base import BackendOptions
from pytest_sandboxes.errors import SandboxesError
from pytest_sandboxes.parking_records import Records

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _SubParsersAction


def add_command(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add it to the command line."""
    text = "remove all sandboxes that earlier runs of yours have kept for the next one, or left when they were killed"
    commands.add_parser("purge", help=text, description=text).set_defaults(run=run)


def run(_: Namespace) -> int:
    """Purge every backend that is installed, a line for each thing removed; the status is 1 where one could not be."""
    status = 0
    for name in registry.installed():
        backend = registry.make(name, BackendOptions(), {})
        try:
            for line in backend.remove_parked():
                sys.stdout.write(f"{name}: removed {line}\n")
        except SandboxesError as error:
            sys.stderr.write(f"{name}: {error}\n")
            status = 1
        finally:
            backend.close()
    for parked in Records().list().values():
        sys.stderr.write(f"{parked.backend}: left {parked.sandbox[:12]}, which is at {parked.host}\n")
        status = 1
    return status

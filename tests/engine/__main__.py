"""`python -m tests.engine` sees to a Docker Engine and to the tests' images; with `stop`, it ends what it has started."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

from tests.engine import daemon, images
from tests.engine.machine import MachineError, state_directory

say = partial(print, flush=True)
"""What takes long is announced before it is done, in the log of CI as well."""


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.engine", description=__doc__)
    parser.add_argument(
        "command",
        nargs="?",
        choices=["start", "stop"],
        default="start",
        help="start: make sure that an engine answers, as root on Debian by installing and starting one, and that it has"
        " the images; stop: end the dockerd that start has started, and no other",
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIRECTORY",
        default=state_directory(),
        help="where a dockerd that has to be started is on record, and logs; by default %(default)s",
    )
    parser.add_argument(
        "--source",
        choices=list(images.SOURCES),
        help="what images are made of; by default of Debian's packages, as root on Debian, and else of public images",
    )
    parser.add_argument(
        "--dockerd",
        metavar="ARGUMENT",
        action="append",
        default=[],
        help="for a dockerd that has to be started",
    )
    arguments = parser.parse_args()
    try:
        if arguments.command == "stop":
            stop(arguments.state)
        else:
            start(arguments.state, arguments.source, arguments.dockerd)
    except MachineError as error:
        sys.exit(f"tests.engine: {error}")


def start(state: Path, source: str | None, dockerd: list[str]) -> None:
    """Make sure of an engine with the images."""
    client, started = daemon.ensure(state, dockerd)
    with closing(client):
        say(f"Docker Engine {client.version()['Version']} answers at {client.api.base_url}")
        if started:
            say(f"It was started for the tests and logs to {daemon.log(state)}")
            say(f"To end it: python -m tests.engine --state {state} stop")
        for name in images.NAMES:
            begin = time.monotonic()
            image = images.ensure(client, name, images.SOURCES[source] if source else None, say)
            say(f"{image} is there, after {time.monotonic() - begin:.1f} s")


def stop(state: Path) -> None:
    """End the dockerd that was started for the tests."""
    pid = daemon.stop(state)
    say(f"dockerd, process {pid}, has ended" if pid else "No dockerd runs that was started for the tests")


if __name__ == "__main__":
    main()

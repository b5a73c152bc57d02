"""`python -m tests.engine` sees to a Docker Engine and to the tests' images; `python -m tests.engine stop` ends what it started."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import closing
from functools import partial

from tests.engine import daemon, images
from tests.engine.machine import MachineError

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
            stop()
        else:
            start(arguments.source, arguments.dockerd)
    except MachineError as error:
        sys.exit(f"tests.engine: {error}")


def start(source: str | None, dockerd: list[str]) -> None:
    """Make sure of an engine with the images."""
    client, started = daemon.ensure(dockerd)
    with closing(client):
        say(f"Docker Engine {client.version()['Version']} answers at {client.api.base_url}")
        if started:
            say(
                f"It was started for the tests and logs to {daemon.log()}; end it by: python -m tests.engine stop"
            )
        for name in images.NAMES:
            begin = time.monotonic()
            image = images.ensure(client, name, images.SOURCES[source] if source else None, say)
            say(f"{image} is there, after {time.monotonic() - begin:.1f} s")


def stop() -> None:
    """End the dockerd that was started for the tests."""
    pid = daemon.stop()
    say(f"dockerd, process {pid}, has ended" if pid else "there is no dockerd that was started for the tests")


if __name__ == "__main__":
    main()

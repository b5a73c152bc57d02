"""`python -m tests.emulators.gcp` is an emulator until its standard input ends; says in one line of JSON how to get there.

`python -m tests.emulators.gcp … -- COMMAND` is one for as long as that command runs, in whose environment it is, and ends
with its code.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys

from tests.emulators.beside import run_beside
from tests.emulators.gcp.emulator import Emulator, run
from tests.emulators.gcp.starting import Options


def main() -> None:
    """Do what the command line says."""
    defaults = Options()
    parser = argparse.ArgumentParser(prog="python -m tests.emulators.gcp", description=__doc__)
    parser.add_argument("--project", default=defaults.project, help="the id of the one project")
    parser.add_argument("--containers", action="store_true", help="run those of jobs, on the Docker Engine")
    parser.add_argument("--host", default=defaults.host, help="the address to listen on")
    parser.add_argument("--log", default=defaults.log, help="a file of JSON lines for events")
    parser.add_argument("--token-lifetime", type=float, default=defaults.token_lifetime, help="seconds")
    parser.add_argument("--queue-delay", type=float, default=defaults.queue_delay, help="seconds")
    parser.add_argument("--machine-delay", type=float, default=defaults.machine_delay, help="seconds")
    parser.add_argument("--python", default=defaults.python, help="a copy of this Python for VMs")
    parser.add_argument(
        "--machines-by-policies", action="store_true", help="VMs may do what policies of buckets say"
    )
    parser.add_argument("--bucket", default=defaults.bucket, help="the name of one that is there")
    parser.add_argument("command", nargs="*", help="what to run beside it, after --")
    arguments = vars(parser.parse_args())
    command = arguments.pop("command")
    sys.exit(asyncio.run(_serve(Options(**arguments), command)))


async def _serve(options: Options, command: list[str]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if command:
        return await run(options, lambda emulator: run_beside(command, emulator.environment, stop))
    transport, _ = await loop.connect_read_pipe(lambda: _UntilTheEnd(stop), sys.stdin)
    try:
        return await run(options, lambda emulator: _until(emulator, stop))
    finally:
        transport.close()


async def _until(emulator: Emulator, stop: asyncio.Event) -> int:
    words = {"environment": dict(emulator.environment), "control": str(emulator.control_path)}
    print(json.dumps(words), flush=True)
    await stop.wait()
    return 0


class _UntilTheEnd(asyncio.Protocol):
    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop.set()


if __name__ == "__main__":
    main()

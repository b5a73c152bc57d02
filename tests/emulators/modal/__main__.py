"""`python -m tests.emulators.modal` is an emulator until it is interrupted; says in one line of JSON how to get there.

`python -m tests.emulators.modal … -- COMMAND` is one for as long as that command runs, in whose environment it is, and ends
with its code.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from concurrent.futures import Future
from pathlib import Path

from tests.emulators.beside import run_beside
from tests.emulators.modal.emulator import Emulator, Options, run

CONTROL = "MODAL_EMULATOR_CONTROL"
"""The variable that tells a command beside an emulator where its control is."""


def main() -> None:
    """Do what the command line says."""
    defaults = Options()
    parser = argparse.ArgumentParser(prog="python -m tests.emulators.modal", description=__doc__)
    parser.add_argument(
        "--mode", choices=["process", "docker"], default=defaults.mode, help="what sandboxes are"
    )
    parser.add_argument("--host", default=defaults.host, help="the address to listen on")
    parser.add_argument("--certificates", type=Path, help="a directory with cert.pem and key.pem, for TLS")
    parser.add_argument("--log", type=Path, help="a file of JSON lines for events")
    parser.add_argument("--token-lifetime", type=float, default=defaults.token_lifetime, help="seconds")
    parser.add_argument(
        "--debian-slim", default=defaults.debian_slim, help="image for Image.debian_slim, of the Engine"
    )
    parser.add_argument("command", nargs="*", help="what to run beside it, after --")
    arguments = vars(parser.parse_args())
    command = arguments.pop("command")
    sys.exit(asyncio.run(_serve(Options(**arguments), command)))


async def _serve(options: Options, command: list[str]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    started: Future[Emulator] = Future()
    if not command:
        started.add_done_callback(_say)
        await run(options, started, stop)
        return 0
    serving = asyncio.create_task(run(options, started, stop))
    try:
        emulator = await asyncio.wrap_future(started)
        environment = {**emulator.environment, CONTROL: str(emulator.control_path)}
        return await run_beside(command, environment, stop)
    finally:
        stop.set()
        await serving


def _say(started: Future[Emulator]) -> None:
    emulator = started.result()
    words = {"environment": dict(emulator.environment), "control": str(emulator.control_path)}
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    main()

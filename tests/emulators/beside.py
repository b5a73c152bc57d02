"""A command that runs beside an emulator, as its client."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping


async def run_beside(command: list[str], environment: Mapping[str, str], stop: asyncio.Event) -> int:
    """The exit code of a command with `environment` on top of this process's, which is interrupted at `stop`."""
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **environment})
    interrupted = asyncio.create_task(stop.wait())
    ended = asyncio.create_task(process.wait())
    await asyncio.wait([interrupted, ended], return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        process.send_signal(signal.SIGINT)
    code = await ended
    interrupted.cancel()
    return 128 - code if code < 0 else code

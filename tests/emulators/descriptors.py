"""Waiting for descriptors, such as those of processes, which can be read when they have ended."""

from __future__ import annotations

import asyncio


async def until_readable(descriptor: int) -> None:
    """Wait until a descriptor has something to say."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)

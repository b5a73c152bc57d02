"""A command that runs in a sandbox, as the command router sees it: input by offsets, output that can be read again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from grpclib import GRPCError, Status

from tests.emulators.modal.hosts import Child

_CHUNK = 256 * 1024
_UNREAD = 8 << 20
"""Bytes of an output that are kept while nobody reads them."""
_READ = 4 << 20
"""Bytes that are kept after somebody has read them, for a client that has lost its connection."""


class Output:
    """One output. The client reads it from any offset, and again after an error (`_stream_stdio_with_retries`)."""

    def __init__(self, *, stalls: bool) -> None:
        """Of what nobody reads, the oldest is dropped, or, with `stalls`, the command has to wait."""
        self._stalls = stalls
        self._kept = bytearray()
        self._start = 0
        """The offset of the first byte that is kept."""
        self._taken = 0
        """The offset up to which somebody has read."""
        self._ended = False
        self._changed = asyncio.Condition()

    async def fill(self, source: asyncio.StreamReader) -> None:
        """Keep what comes until the end of it."""
        while data := await source.read(_CHUNK):
            async with self._changed:
                self._kept += data
                self._changed.notify_all()
                if self._stalls:
                    await self._changed.wait_for(lambda: not self._stalls or self._unread() < _UNREAD)
                elif self._unread() > _UNREAD:
                    self._forget(self._start + len(self._kept) - _UNREAD)
        await self.end()

    async def end(self) -> None:
        """Let readers see an end."""
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def drop_unread(self) -> None:
        """Let all come: nobody reads it, or there is no command any more that could wait."""
        async with self._changed:
            self._stalls = False
            self._changed.notify_all()

    async def read(self, offset: int) -> AsyncIterator[tuple[int, bytes]]:
        """What comes from `offset` on, each piece with the offset at which it starts; later, if it is kept no more."""
        while True:
            async with self._changed:
                while offset >= self._start + len(self._kept) and not self._ended:
                    await self._changed.wait()
                offset = max(offset, self._start)
                begin = offset - self._start
                data = bytes(self._kept[begin : begin + _CHUNK])
                if not data:
                    return
                self._taken = max(self._taken, offset + len(data))
                self._forget(self._taken - _READ)
                self._changed.notify_all()
            yield offset, data
            offset += len(data)

    def _unread(self) -> int:
        return self._start + len(self._kept) - max(self._start, self._taken)

    def _forget(self, until: int) -> None:
        if until > self._start:
            del self._kept[: until - self._start]
            self._start = until


class Exec:
    """A command with its input and outputs."""

    def __init__(self, child: Child, *, output_stalls: bool = True) -> None:
        self.child = child
        self.stdout, self.stderr = Output(stalls=output_stalls), Output(stalls=output_stalls)
        self.written = 0
        """Bytes of input that it has been given."""
        self.input_is_closed = False
        self.ending = asyncio.create_task(child.wait())
        """Ends with its exit code, or -N for signal N."""
        self._input = asyncio.Lock()
        self._pumps = [
            asyncio.create_task(self.stdout.fill(child.stdout)),
            asyncio.create_task(self.stderr.fill(child.stderr)),
        ]

    async def write(self, offset: int, data: bytes, *, eof: bool) -> None:
        """Give it what it does not have yet of these bytes; a second end of input is none (modal/io_streams.py, `drain`)."""
        async with self._input:
            if offset > self.written:
                raise GRPCError(
                    Status.OUT_OF_RANGE, f"Input from {self.written} on is missing before {offset}"
                )
            left = memoryview(data)[self.written - offset :]
            if left and self.input_is_closed:
                raise GRPCError(Status.FAILED_PRECONDITION, "The input is closed")
            try:
                while left:
                    count = await self.child.write(left)
                    self.written += count
                    left = left[count:]
            except (BrokenPipeError, ConnectionResetError) as error:
                raise GRPCError(Status.FAILED_PRECONDITION, "The command does not read its input") from error
            if eof:
                self.input_is_closed = True
                self.child.close_stdin()

    def swallow(self, data: bytes) -> None:
        """Count input as if it had been given."""
        self.written += len(data)

    async def close(self) -> None:
        """Let go of it, after its end and that of all that it has started."""
        await self.stdout.drop_unread()
        await self.stderr.drop_unread()
        await asyncio.gather(self.ending, *self._pumps)
        self.child.close_stdin()

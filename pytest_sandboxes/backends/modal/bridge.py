"""From a command's streams, as the client has them, to a socket, as the connection to an agent has it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, cast

from pytest_sandboxes.backends.modal.errors import classify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from modal.container_process import ContainerProcess
    from modal.io_streams import StreamReader

_PIECE = 1 << 20
"""Bytes of input in one call, of which the client takes 16 MiB."""
_LONGEST_COMPLAINT = 4096
_FLOOD = 1 << 20
"""Bytes on standard error that no interpreter complains of, and that an agent, which uses none of it, does not say."""
_FAREWELL = 5.0  # seconds to tell the command that its input has ended


class Bridge:
    """Carries input and both outputs, each in a task of its own on the loop that makes it: none waits for another.

    What waits at the socket goes over in one call, however many frames it is. Nothing is kept here: an output that
    nobody takes from the socket is not asked for any more, and stops the command as a full pipe does.
    """

    def __init__(self, process: ContainerProcess[bytes]) -> None:
        self.near, self._far = socket.socketpair()
        """The socket for the connection, which closes it."""
        self._far.setblocking(False)  # noqa: FBT003 - socket has it so
        self._process = process
        self._complaint = bytearray()
        self.reason = ""
        """Why the streams have broken, empty where they have not."""
        self._tasks = [
            asyncio.create_task(each)
            for each in (self._carry_input(), self._carry_output(), self._keep_complaint())
        ]

    @property
    def is_open(self) -> bool:
        """Nothing has ended the command's output yet, nor this."""
        return self._far.fileno() >= 0

    @property
    def complaint(self) -> str:
        """What has come on standard error, cut: what an interpreter complains of at the start."""
        return bytes(self._complaint).decode(errors="replace")

    async def finish(self) -> None:
        """Have the command read the end of its input, and wait until it has ended."""
        with contextlib.suppress(OSError):  # it may have ended before
            self._far.shutdown(socket.SHUT_RD)
        await asyncio.wait(self._tasks)
        await self._process.wait.aio()

    async def close(self) -> None:
        """Give up all streams. May be called twice."""
        self._hang_up()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _carry_input(self) -> None:
        stdin = self._process.stdin
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._far, _PIECE):
                stdin.write(data)
                await stdin.drain.aio()
        except OSError as error:
            if self._far.fileno() >= 0:
                self._break(error)
        except Exception as error:  # noqa: BLE001 - whatever the client raises, the stream is of no use any more
            self._break(error)
        else:
            with contextlib.suppress(Exception):  # it may have ended, which was the aim
                async with asyncio.timeout(_FAREWELL):
                    stdin.write_eof()
                    await stdin.drain.aio()

    async def _carry_output(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async for piece in _pieces(self._process.stdout):
                await loop.sock_sendall(self._far, piece)
        except Exception as error:  # noqa: BLE001 - as for the input
            self._break(error)
        self._hang_up()

    async def _keep_complaint(self) -> None:
        read = 0
        with contextlib.suppress(Exception):  # it is told of by the other streams
            async for piece in _pieces(self._process.stderr):
                self._complaint += piece[: _LONGEST_COMPLAINT - len(self._complaint)]
                read += len(piece)
                if read > _FLOOD:
                    self.reason = self.reason or "its standard error is flooded"
                    self._hang_up()
                    break

    def _break(self, error: BaseException) -> None:
        self.reason = self.reason or f"its stream broke: {classify(error)[1]}"
        self._hang_up()

    def _hang_up(self) -> None:
        """Let the connection see the end, in whatever forked child a copy of this end may be."""
        with contextlib.suppress(OSError):
            self._far.shutdown(socket.SHUT_RDWR)
        self._far.close()


def _pieces(stream: StreamReader[bytes]) -> AsyncIterator[bytes]:
    return cast("AsyncIterator[bytes]", stream.__aiter__())

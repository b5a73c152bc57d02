"""The stream of a container whose input and outputs are attached to a hijacked connection of the Engine."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

from pytest_sandboxes.agent.wire import ProtocolError

if TYPE_CHECKING:
    import docker

_HEADER = struct.Struct(">BxxxL")  # which output, and how many bytes of it follow
_STDIN, _STDOUT, _STDERR = range(3)
_LONGEST_LAST_WORDS = 4096


def attach(api: docker.APIClient, container: str) -> socket.socket:
    """A socket of ours to a container that has not been started yet."""
    everything = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
    attached = api.attach_socket(container, params=everything)
    shared = attached._sock  # noqa: SLF001 - the SDK gives out a file of it, whose end would not be its own
    try:
        return socket.socket(fileno=os.dup(shared.fileno()))
    finally:  # of all that would otherwise keep the container's input open until it happens to be collected
        attached._response.close()  # noqa: SLF001 - put there by the SDK for this
        attached.close()
        shared.close()


class Demultiplexer:
    """Takes the two outputs of a container apart that come on one stream.

    The agent's standard output is its channel; its standard error is what its interpreter complains of at the start.
    """

    def __init__(self) -> None:
        self._header = bytearray()
        self._kind = _STDOUT
        self._left = 0
        self.complaint = bytearray()
        """What has come on standard error, cut."""

    def feed(self, data: memoryview) -> list[memoryview]:
        """The pieces of standard output in `data`. Raises `ProtocolError` for what no Engine sends."""
        pieces = []
        while data:
            if not self._left:
                missing = _HEADER.size - len(self._header)
                self._header += data[:missing]
                data = data[missing:]
                if len(self._header) < _HEADER.size:
                    break
                self._kind, self._left = _HEADER.unpack(self._header)
                self._header.clear()
                if self._kind not in (_STDIN, _STDOUT, _STDERR):
                    raise ProtocolError(f"no output of a container has the number {self._kind}")
                continue
            piece = data[: self._left]
            data = data[self._left :]
            self._left -= len(piece)
            if self._kind == _STDOUT:
                pieces.append(piece)
            elif self._kind == _STDERR and len(self.complaint) < _LONGEST_LAST_WORDS:
                self.complaint += piece
        return pieces

"""The stream of a container whose input and outputs are attached to a hijacked connection of the Engine."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Any

from pytest_sandboxes.agent.wire import ProtocolError
from pytest_sandboxes.backends.docker.removal import remove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import docker

_HEADER = struct.Struct(">BxxxL")  # which output, and how many bytes of it follow
_STDIN, _STDOUT, _STDERR = range(3)
_LONGEST_LAST_WORDS = 4096


def start_attached(
    api: docker.APIClient,
    image: str,
    entrypoint: Sequence[str],
    *,
    name: str,
    labels: Mapping[str, str],
    host_config: Mapping[str, Any],
    ends_with_input: bool = True,
    before_start: Callable[[str], None] = lambda _: None,
    **config: Any,
) -> tuple[str, socket.socket]:
    """Start a container; return its id and a socket of ours to its input and outputs. When that fails, nothing is left.

    `ends_with_input`: its input ends when nobody is attached any more, and so does what reads it. Otherwise others can
    attach themselves after us. `before_start` is called with the id of the container, which has not started yet.
    """
    made: str = api.create_container(
        image,
        entrypoint=list(entrypoint),
        stdin_open=True,
        detach=not ends_with_input,  # which is what the SDK calls it
        use_config_proxy=False,  # which may have a password, and is for whoever trusts what runs in there
        stop_signal="SIGKILL",  # an agent has nothing to wind up, and ignores the others as any first process
        name=name,
        labels=dict(labels),
        host_config=api.create_host_config(**host_config),
        **config,
    )["Id"]
    stream = None
    try:
        before_start(made)
        stream = attach(api, made)
        api.start(made)
    except BaseException:
        if stream is not None:
            stream.close()
        remove(api, made)
        raise
    return made, stream


def attach(api: docker.APIClient, container: str) -> socket.socket:
    """A socket of ours to a container, of which nothing is missed that it says from now on."""
    everything = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
    return _own(api.attach_socket(container, params=everything))


def start_exec(api: docker.APIClient, made: str) -> tuple[socket.socket, bytes]:
    """Start an exec that has been created; return a socket of ours to its input and outputs, and what has come already.

    Output may come right behind the Engine's answer, and would stay in the buffer that the SDK has read that with.
    """
    started = api.exec_start(made, socket=True)
    buffered = started._response.raw._fp.fp  # noqa: SLF001 - see `_own`
    started._sock.setblocking(False)  # noqa: SLF001, FBT003 - see `_own`; and socket has it so
    early = bytes(buffered.peek())
    return _own(started), early


def _own(attached: Any) -> socket.socket:
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
        for is_error, piece in self.split(data):
            if not is_error:
                pieces.append(piece)
            elif len(self.complaint) < _LONGEST_LAST_WORDS:
                self.complaint += piece
        return pieces

    @property
    def is_between(self) -> bool:
        """Nothing has been begun and not ended."""
        return not self._left and not self._header

    def split(self, data: memoryview) -> Iterator[tuple[bool, memoryview]]:
        """The pieces of `data`, each with whether it is of standard error. Raises as `feed`."""
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
            if self._kind != _STDIN:
                yield self._kind == _STDERR, piece

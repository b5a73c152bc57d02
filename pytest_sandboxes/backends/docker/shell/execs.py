"""One exec of the Engine's: a process in a container with pipes to it, and its end."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_sandboxes.agent.wire import CHUNK
from pytest_sandboxes.backends.docker.attached import Demultiplexer, start_exec
from pytest_sandboxes.backends.docker.bridge import close_in_forked_children

if TYPE_CHECKING:
    import docker

_SIGNALS = range(129, 193)  # how an Engine says that a signal has ended a process: 128 and its number
_START_TIMEOUT = 20.0  # seconds that an exec may have been asked for and not run
_SHORTEST_LOOK, _LONGEST_LOOK = 0.01, 0.25  # seconds between two questions whether a process has ended


class ExecError(Exception):
    """What the Engine says of an exec cannot be; says what."""


class Exec:
    """A process that the Engine has started in a container. Its stream does not block."""

    def __init__(
        self,
        api: docker.APIClient,
        container: str,
        argv: Sequence[bytes],
        *,
        user: str,
        environment: Mapping[bytes, bytes],
        stdin: bool,
    ) -> None:
        """Start it; raises what calls of the SDK raise. Everything is UTF-8: see `as_text`."""
        self._api = api
        self._id: str = api.exec_create(
            container,
            [word.decode() for word in argv],
            stdin=stdin,
            environment={name.decode(): value.decode() for name, value in environment.items()},
            user=user,
        )["Id"]
        self.stream, self._early = start_exec(api, self._id)
        close_in_forked_children(self.stream)
        self.stream.setblocking(False)  # noqa: FBT003 - socket has it so
        self._outputs = Demultiplexer()
        self._pause = _SHORTEST_LOOK
        self._next_look = time.monotonic() + self._pause
        self._unknown_since: float | None = None
        self.status: int | None = None
        """Its wait status, once it has ended."""

    def read(self, size: int) -> Iterator[tuple[bool, bytes]] | None:
        """The next pieces of output, each with whether it is of standard error; None at the end of both.

        Raises BlockingIOError when there is nothing now, `ProtocolError` for what no Engine sends.
        """
        try:
            data, self._early = self._early, b""
            data = data or self.stream.recv(min(size, CHUNK))
        except ConnectionError:
            data = b""
        if not data:
            return None
        return ((is_error, bytes(piece)) for is_error, piece in self._outputs.split(memoryview(data)))

    def end_input(self) -> None:
        """Close its standard input."""
        with contextlib.suppress(OSError):  # it has ended
            self.stream.shutdown(socket.SHUT_WR)

    @property
    def next_look(self) -> float:
        """When it is to be asked for again whether it has ended."""
        return self._next_look

    def look_soon(self) -> None:
        """It should end now."""
        self._pause = _SHORTEST_LOOK
        self._next_look = 0.0

    def has_ended(self) -> bool:
        """Whether it has ended, as far as is known; asks the Engine when it is time to.

        Raises `ExecError` when nobody can say how it ended, and what calls of the SDK raise.
        """
        now = time.monotonic()
        if self.status is None and now >= self._next_look:
            said = self._api.exec_inspect(self._id)
            self._next_look = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_LOOK)
            if said.get("Running") is not False:
                self._unknown_since = None
            elif said.get("ExitCode") is not None:
                self.status = _wait_status(said["ExitCode"])
            else:  # it does not run yet; or nobody knows how it ended, which is never taken for a good end
                self._unknown_since = self._unknown_since or now
                if now > self._unknown_since + _START_TIMEOUT:
                    raise ExecError("the Engine does not know how a command ended")
        return self.status is not None

    def close(self) -> None:
        """Let go of its stream."""
        self.stream.close()


def _wait_status(code: object) -> int:
    if type(code) is not int or not 0 <= code <= 255:
        raise ExecError(f"the Engine does not know how a command ended: exit code {code!r}")
    return code - 128 if code in _SIGNALS else code << 8

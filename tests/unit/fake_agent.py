"""The other end of a connection, scripted: an agent that says whatever a test wants it to say."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from pytest_sandboxes.agent import wire
from pytest_sandboxes.io_thread import IOThread
from pytest_sandboxes.request import Request
from pytest_sandboxes.streams import Kept, Piped
from tests.unit.fake_port import FakePort
from tests.waiting import DEADLINE

LIMIT = 10
HOUR = 3600.0

junk: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.integers(-1, 70000)
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=3)
    | st.lists(st.none(), max_size=1)
)
"""Whatever a lying agent may put in a field of its answer."""

RESULT: Mapping[str, object] = {
    "status": 0,
    "duration": 0.5,
    "timed_out": False,
    "late": 0.0,
    "stdout_cut": False,
    "stderr_cut": False,
    "streams_open": False,
    "cpu": 0.25,
    "peak": 4096,
}
"""What an honest agent answers to the end of a command."""
FILE_RESULT: Mapping[str, object] = {**RESULT, "truncated": False, "size": 3}
"""All that an honest agent may answer."""


class FakeAgent:
    """Reads the controller's frames and answers as it is told to."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._reader = wire.FrameReader()
        self.numbers = wire.Numbering()
        self._frames: list[tuple[int, int, bytes]] = []
        stream.settimeout(DEADLINE)

    def send(self, kind: int, number: int = 0, payload: bytes = b"") -> None:
        """Send one frame."""
        self.send_frames(wire.frame(kind, number, payload))

    def send_frames(self, data: bytes) -> None:
        """Send frames, or what begins like them, each with the number that is its."""
        self.send_raw(self.numbers.number(data))

    def send_raw(self, data: bytes) -> None:
        """Send any bytes; nothing happens when nobody takes them any more."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._stream.sendall(data)

    def greet(self) -> None:
        """Introduce itself."""
        self.send(wire.HELLO, 0, wire.encode({"protocol": 1}))

    def answer(self, number: int, changes: Mapping[str, object] | None = None) -> None:
        """Answer a request as an honest agent does, with `changes`."""
        self.send(wire.RESULT, number, wire.encode({**RESULT, **(changes or {})}))

    def receive(self, kind: int) -> tuple[int, bytes]:
        """Number and content of the next frame of this kind; pings on the way are answered, others dropped."""
        while True:
            while self._frames:
                found, number, payload = self._frames.pop(0)
                if found == kind:
                    return number, payload
                if found == wire.PING:
                    self.send(wire.PONG, number, payload)
            data = self._stream.recv(1 << 16)
            assert data, f"the controller hung up before it sent a frame of type {kind}"
            self._frames += self._reader.feed(data)

    def receive_request(self) -> tuple[int, dict[str, Any]]:
        """Number and content of the next request."""
        number, payload = self.receive(wire.REQUEST)
        return number, wire.decode_dict(payload)

    def hung_up_on(self) -> bool:
        """Wait until the controller has closed its end; what it had still to say is dropped."""
        try:
            while self._stream.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        return True

    def close(self) -> None:
        """Hang up."""
        self._stream.close()


class Line(FakePort):
    """A port with a scripted agent at the other end."""

    def __init__(self, io: IOThread) -> None:
        ours, theirs = socket.socketpair()
        self.agent = FakeAgent(theirs)
        super().__init__(ours, io)

    def ask(self, *, timeout: float | None = None) -> tuple[Request, int]:
        """A request of which at most `LIMIT` bytes of output are wanted, and its number, once the agent has it."""
        request = self.request("exec", {}, timeout=timeout, sinks=(Kept(LIMIT), Piped()))
        return request, self.agent.receive_request()[0]

    def tick(self, count: int = 1) -> None:
        """Let the connection's clock tick."""
        for _ in range(count):
            done = threading.Event()

            def run(done: threading.Event = done) -> None:
                self.connection._tick()
                done.set()

            self.io.submit(run)
            assert done.wait(DEADLINE)

    def answer_pings(self, count: int) -> None:
        """Let the clock tick with an agent that is well."""
        for _ in range(count):
            self.tick()
            if self.connection.alive:
                self.agent.receive(wire.PING)
                self.agent.send(wire.PONG)


@contextlib.contextmanager
def line() -> Generator[Line]:
    """A connection to a fake agent, on an I/O thread of its own."""
    io = IOThread()
    line = Line(io)
    try:
        yield line
    finally:
        line.connection.close()
        io.close()
        line.agent.close()


def file_answer(**changes: object) -> dict[str, object]:
    """What an honest agent says of a file operation: there is no wait status then."""
    return {name: value for name, value in {**FILE_RESULT, **changes}.items() if name != "status"}


def error_of(request: Request) -> BaseException | None:
    """What a request came to, if that is an error."""
    return request.future.exception(DEADLINE)


def open_descriptors() -> int:
    """How many descriptors this process holds. Those of earlier tests may go at any time, so that it may be fewer later."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))

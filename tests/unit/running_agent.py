"""The real agent as a plain child process, not isolated, and the controller's end of its stream, frame by frame."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_sandboxes.agent import wire
from pytest_sandboxes.commands import command_message
from pytest_sandboxes.io_thread import IOThread
from pytest_sandboxes.payload import bootstrap, payload
from tests.processes import carrying
from tests.unit.fake_port import FakePort
from tests.waiting import DEADLINE

PATH = "/usr/local/bin:/usr/bin:/bin"
UNLIMITED = 1 << 40
KINDS = ["exec", "supervised", "popen"]
"""Ways in which a command runs: an exec alone, an exec beside others, a popen."""


class RunningAgent:
    """An agent and what has come from it so far. Credit goes back for all that comes, unless it is withheld."""

    def __init__(self, interpreter: str = sys.executable, *, same_interpreter: bool = True) -> None:
        self._stream, theirs = socket.socketpair()
        self._stream.settimeout(DEADLINE)
        self._process = launch(interpreter, theirs, same_interpreter=same_interpreter)
        self.pid = self._process.pid
        self._reader = wire.FrameReader()
        self._frame_numbers = wire.Numbering()
        self._numbers = 0
        self.frames: list[tuple[int, int, bytes]] = []
        """All that came, of output only its ends."""
        self.output: dict[tuple[int, int], bytes] = {}
        """What came on each stream of each request."""
        self.ended: set[tuple[int, int]] = set()
        """Streams whose end was announced."""
        self.withheld: set[int] = set()
        """Requests whose output is not read: no credit goes back."""
        self._stream.sendall(payload(same_interpreter=same_interpreter))
        self.hello = wire.decode_dict(self.wait_for(wire.HELLO, 0))

    def configure(self, workspace: Path, **changes: object) -> dict[str, Any]:
        """Set it up with some defaults."""
        return self.result(self.request("configure", configuration(workspace, **changes)))

    # -- requests

    def send(self, kind: int, number: int = 0, content: bytes = b"") -> None:
        """Send one frame."""
        self.send_frames(wire.frame(kind, number, content))

    def send_frames(self, data: bytes) -> None:
        """Send frames, or what begins like them, each with the number that is its."""
        self._stream.sendall(self._frame_numbers.number(data))

    def number_anew(self) -> None:
        """As who takes it over, of whose frames none has come."""
        self._frame_numbers, self._reader = wire.Numbering(), wire.FrameReader()

    def send_bare(self, data: bytes, *, or_else_gone: bool = False) -> None:
        """Send bytes that are no frame; `or_else_gone`, it may have ended."""
        with contextlib.suppress(*([OSError] if or_else_gone else [])):
            self._stream.sendall(data)

    def receive_bare(self, size: int) -> bytes:
        """Exactly so many bytes that are no frame."""
        data = b""
        while len(data) < size:
            piece = self._stream.recv(size - len(data))
            assert piece, "the agent hung up"
            data += piece
        return data

    def request(self, operation: str, message: Mapping[str, object], *, timeout: float | None = None) -> int:
        """Send a request; return its number."""
        self._numbers += 1
        encoded = wire.encode({"op": operation, "slot": 0, "timeout": timeout, **message})
        self.send(wire.REQUEST, self._numbers, encoded)
        return self._numbers

    def start(
        self,
        *argv: str,
        kind: str = "exec",
        timeout: float | None = None,
        limit: int = UNLIMITED,
        stdin: bool = False,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Start a command; return the number of the request."""
        words: Sequence[bytes] = [os.fsencode(word) for word in argv]
        message = command_message(list(words), env, cwd, stdin=stdin, limit=limit)
        return self.request(kind, message, timeout=timeout)

    def start_as(self, kind: str, *argv: str, **options: Any) -> int:
        """Start a command in one of the three ways."""
        if kind == "supervised":
            beside = self.start("sh", "-c", "echo ready; read line", stdin=True)
            self.wait_for_output(beside, b"ready")
        return self.start(*argv, kind="popen" if kind == "popen" else "exec", **options)

    def run(self, *argv: str, **options: Any) -> tuple[dict[str, Any], str]:
        """Run a command to its end; return the answer and its standard output."""
        number = self.start(*argv, **options)
        answer = self.result(number)
        return answer, self.output.get((number, wire.STDOUT), b"").decode()

    # -- what comes

    def result(self, number: int) -> dict[str, Any]:
        """The answer to a request."""
        return wire.decode_dict(self.wait_for(wire.RESULT, number))

    def wait_for(self, kind: int, number: int) -> bytes:
        """Content of the first frame of this kind for this request."""
        while True:
            for found, whose, content in self.frames:
                if (found, whose) == (kind, number):
                    return content
            assert self.receive(), "the agent hung up"

    def wait_for_output(self, number: int, text: bytes, kind: int = wire.STDOUT) -> None:
        """Return once this has been printed."""
        while text not in self.output.get((number, kind), b""):
            assert self.receive(), "the agent hung up"

    def wait_for_ends(self, number: int, answer: Mapping[str, Any]) -> None:
        """Return once all output of a command has come, which of a popen may come after its answer."""
        while answer["streams_open"] and {(number, wire.STDOUT), (number, wire.STDERR)} - self.ended:
            assert self.receive(), "the agent hung up"

    def settle(self) -> None:
        """Return once the agent has handled all that it was sent, and has said all about it."""
        for _ in range(2):  # what a frame leads to may take the agent another round
            self.send(wire.PING, 0, b"settle")
            self.wait_for(wire.PONG, 0)
            self.frames = [frame for frame in self.frames if frame[0] != wire.PONG]

    def peek(self) -> None:
        """Take what is there already, if anything."""
        if select.select([self._stream], [], [], 0)[0]:
            self.receive()

    def receive(self) -> bool:
        """Take what comes next; false when nothing comes any more."""
        try:
            data = self._stream.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        for kind, number, content in self._reader.feed(data):
            if kind in {wire.STDOUT, wire.STDERR}:
                self._take_output(kind, number, content)
            else:
                self.frames.append((kind, number, content))
        return bool(data)

    def _take_output(self, kind: int, number: int, content: bytes) -> None:
        assert (number, kind) not in self.ended, "output after the end of a stream"
        if not content:
            self.ended.add((number, kind))
            self.frames.append((kind, number, content))
            return
        self.output[number, kind] = self.output.get((number, kind), b"") + content
        if number not in self.withheld:
            self.grant(number, len(content), kind)

    def grant(self, number: int, amount: int, kind: int = wire.STDOUT) -> None:
        """Allow more output."""
        self.send(wire.CREDIT, number, bytes((kind,)) + amount.to_bytes(4, "big"))

    # -- its end

    def hang_up(self) -> None:
        """End the stream, as the end of the controller does."""
        self._stream.close()

    def end_sending(self) -> None:
        """End our half of the stream."""
        self._stream.shutdown(socket.SHUT_WR)

    def wait(self) -> int:
        """Wait until it has ended; return its return code."""
        return self._process.wait(DEADLINE)

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def descriptors(self) -> int:
        """How many descriptors it holds; only before it has been configured."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def kill(self) -> None:
        """Kill it alone."""
        self._process.kill()

    def close(self) -> None:
        """End it, whatever it does."""
        self._stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(DEADLINE)
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def running_agent(workspace: Path, **changes: object) -> Generator[RunningAgent]:
    """An agent that has been set up."""
    agent = RunningAgent()
    try:
        answer = agent.configure(workspace, **changes)
        assert answer == {"pid": agent.pid}
        yield agent
    finally:
        agent.close()


def launch(interpreter: str, stream: socket.socket, *, same_interpreter: bool) -> subprocess.Popen[bytes]:
    """Start an interpreter that waits for the agent's program on `stream`."""
    no_environment: dict[str, str] = {}
    with stream:
        return subprocess.Popen(
            [interpreter, "-I", "-S", "-E", "-c", bootstrap(same_interpreter=same_interpreter)],
            stdin=stream.fileno(),
            stdout=subprocess.DEVNULL,
            env=no_environment,
            start_new_session=True,  # a signal to the group of the tests would end it, and not what it runs
        )


def configuration(workspace: Path, **changes: object) -> dict[str, object]:
    """What an agent is told first."""
    return {
        "slots": [[os.fsencode(workspace), [], [os.fsencode(workspace)], None]],
        "environment": [[b"PATH", PATH.encode()]],
        "heartbeat_deadline": 3600.0,
        "process_limit": 0,
        "sacrifice_children": False,
        "source": b"",
        "shared": [],
        "counts_oom_kills": False,
        "filter": b"",
        "internet_only": False,
        "comes_first": False,
        **changes,
    }


@contextlib.contextmanager
def agent_port(workspace: Path) -> Generator[FakePort]:
    """A port with a real agent at the other end, spoken to through a real connection."""
    ours, theirs = socket.socketpair()
    process = launch(sys.executable, theirs, same_interpreter=True)
    io = IOThread()
    port = FakePort(ours, io)
    try:
        port.connection.send_bare(payload(same_interpreter=True))
        port.connection.hello.result(DEADLINE)
        port.request("configure", configuration(workspace), timeout=None).future.result(DEADLINE)
        yield port
    finally:
        port.connection.close()
        io.close()
        process.wait(DEADLINE)


class Marked:
    """Processes that carry a mark in their command line, which this tells apart from all others."""

    def __init__(self, number: int) -> None:
        self.seconds = f"{number}"
        """An argument for `sleep` that serves as the mark."""

    def pids(self) -> set[int]:
        """Those that are there and not just waiting to be buried."""
        return carrying(self.seconds, "cmdline")

    def kill(self) -> None:
        """End whatever a failed test has left, and what that starts meanwhile."""
        while found := self.pids():
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

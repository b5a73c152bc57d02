"""The controller's end of a container's main command: orders to it, and its answers."""

from __future__ import annotations

import secrets
import socket
import threading
from concurrent.futures import Future

from pytest_sandboxes.agent.wire import ProtocolError
from pytest_sandboxes.backends.docker.attached import Demultiplexer
from pytest_sandboxes.backends.docker.shell.place import ENDED

_LONGEST_LINE = 64
_MOST_ORDERS = 1000  # under way: beats while nothing answers


class MainLoop:
    """Orders from any thread to `scripts.MAIN_LOOP`; whoever reads its stream hands over what comes."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._orders: dict[bytes, Future[int]] = {}
        self._outputs = Demultiplexer()
        self._line = bytearray()
        self._ended = False

    @property
    def complaint(self) -> str:
        """What it has said on standard error, cut."""
        return bytes(self._outputs.complaint).decode(errors="replace")

    def order(self, order: str) -> Future[int]:
        """Give an order; the future has the count that answers it, or raises ConnectionError at the loop's end."""
        number = secrets.token_hex(8).encode()
        answer: Future[int] = Future()
        answer.set_running_or_notify_cancel()
        line = b"%s %s\n" % (number, order.encode())
        failure = None
        with self._lock:  # lines are short, and a pipe that is full of them loses the container
            try:
                if self._ended or len(self._orders) >= _MOST_ORDERS:
                    raise ConnectionError("it takes no orders any more")
                if self._stream.send(line, socket.MSG_DONTWAIT) != len(line):
                    raise ConnectionError("it does not take its orders")
                self._orders[number] = answer
            except (BrokenPipeError, ConnectionResetError):  # seen here before it is seen where answers come
                failure = ConnectionError(ENDED)
            except OSError as error:
                failure = ConnectionError(str(error))
        if failure is not None:
            answer.set_exception(failure)
        return answer

    def feed(self, data: memoryview) -> None:
        """Take what has come. Raises `ProtocolError` for what is no answer."""
        for piece in self._outputs.feed(data):
            self._line += piece
        *lines, rest = self._line.split(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise ProtocolError("its main command sent a line that is too long")
        self._line = bytearray(rest)
        for line in lines:
            number, _, count = bytes(line).partition(b" ")
            with self._lock:
                answer = self._orders.pop(number, None)
            if answer is None or not count.isdigit() or len(count) > 9:
                raise ProtocolError("its main command answered what it was not asked")
            answer.set_result(int(count))

    def end(self) -> None:
        """No more answers come."""
        with self._lock:
            self._ended = True
            orders = list(self._orders.values())
            self._orders.clear()
        for answer in orders:
            if not answer.done():
                answer.set_exception(ConnectionError(ENDED))

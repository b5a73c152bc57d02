"""A proxy in front of an Engine's socket that loses answers: what was asked for has been done, and nobody is told."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 1 << 16


class LosingProxy:
    """Passes everything on, but for the answers to the next few requests of a kind."""

    def __init__(self, path: Path, engine: str, *, silent: bool) -> None:
        """`silent`: the connection stays open without a word; otherwise it ends."""
        self.lost = 0
        self._engine = engine
        self._silent = silent
        self._lock = threading.Lock()
        self._to_lose = 0
        self._what = b""
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._begin(self._accept)

    def lose(self, what: bytes, times: int) -> None:
        """Lose the answers to the next requests whose first line has `what`."""
        with self._lock:
            self._what, self._to_lose = what, times

    def _begin(self, function: object, *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments)  # type: ignore[arg-type]
        thread.start()
        with self._lock:
            self._threads.append(thread)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._engine)
                with self._lock:
                    self._sockets += [near, far]
                losing = threading.Event()
                self._begin(self._ask, near, far, losing)
                self._begin(self._answer, near, far, losing)

    def _ask(self, near: socket.socket, far: socket.socket, losing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(_CHUNK):
                with self._lock:
                    if self._to_lose and self._what in data.partition(b"\r\n")[0]:
                        self._to_lose -= 1
                        losing.set()
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)

    def _answer(self, near: socket.socket, far: socket.socket, losing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(_CHUNK):
                if losing.is_set():
                    self.lost += 1
                    if self._silent:
                        continue
                    break
                near.sendall(data)
            near.shutdown(socket.SHUT_RDWR if losing.is_set() else socket.SHUT_WR)

    def close(self) -> None:
        """End all connections and threads."""
        with self._lock:
            sockets = [self._listener, *self._sockets]
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in [*sockets, *self._sockets]:
            each.close()


@contextlib.contextmanager
def losing_proxy(path: Path, engine: str, *, silent: bool) -> Iterator[LosingProxy]:
    """A proxy for the length of a block."""
    proxy = LosingProxy(path, engine, silent=silent)
    try:
        yield proxy
    finally:
        proxy.close()

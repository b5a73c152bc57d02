"""A command that outlives the call that started it: `Slot.popen`, and its async twin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from types import TracebackType
from typing import Self

from pytest_sandboxes import arguments
from pytest_sandboxes.errors import ExecTimeoutError
from pytest_sandboxes.operations import Pending
from pytest_sandboxes.results import ExecResult
from pytest_sandboxes.streams import Piped

__tracebackhide__ = True  # a failing test shows its own line, not ours

_MAX_LINE = 1 << 20
_START_TIMEOUT = 60.0


class _Lines:
    """Cuts bytes into lines, overlong ones into pieces."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._searched = 0

    def next(self) -> bytes | None:
        cut = self._rest.find(b"\n", self._searched, _MAX_LINE) + 1
        if not cut and len(self._rest) >= _MAX_LINE:
            cut = _MAX_LINE
        if not cut:
            self._searched = len(self._rest)
            return None
        return self._cut(cut)

    def add(self, data: bytes) -> None:
        self._rest += data

    def flush(self) -> bytes:
        return self._cut(len(self._rest))

    def _cut(self, size: int) -> bytes:
        line = bytes(self._rest[:size])
        del self._rest[:size]  # moves nothing: a piece may hold thousands of lines
        self._searched = 0
        return line


class Output:
    """Standard output or standard error of a running process, read as it comes.

    Bytes that nobody reads stop the process, as a full pipe does, and nothing else.
    """

    def __init__(self, stream: Piped) -> None:
        self._stream = stream
        self._lines = _Lines()

    def read(self, timeout: float | None = None) -> bytes:
        """The next bytes, as soon as there are any; empty at the end of the stream.

        Raises TimeoutError when nothing comes for `timeout` seconds.
        """
        return self._lines.flush() or self._stream.read(arguments.patience(timeout))

    def readline(self, timeout: float | None = None) -> str:
        """The next line with its newline, as text (UTF-8, with replacement); empty at the end of the stream.

        A line longer than 1 MiB comes in pieces. Raises TimeoutError when nothing comes for `timeout`
        seconds.
        """
        timeout = arguments.patience(timeout)
        while (line := self._lines.next()) is None:
            data = self._stream.read(timeout)
            if not data:
                line = self._lines.flush()
                break
            self._lines.add(data)
        return line.decode("utf-8", "replace")

    def __iter__(self) -> Iterator[str]:
        """Iterate over lines until the end of the stream."""
        return iter(self.readline, "")


class AsyncOutput:
    """The async twin of `Output`: reads are coroutines without a `timeout`, for which there is `asyncio.timeout`.

    A read that is cancelled takes nothing away from the next.
    """

    def __init__(self, stream: Piped) -> None:
        self._stream = stream
        self._lines = _Lines()

    async def read(self) -> bytes:
        """See `Output.read`."""
        return self._lines.flush() or await self._stream.read_async()

    async def readline(self) -> str:
        """See `Output.readline`."""
        while (line := self._lines.next()) is None:
            data = await self._stream.read_async()
            if not data:
                line = self._lines.flush()
                break
            self._lines.add(data)
        return line.decode("utf-8", "replace")

    async def __aiter__(self) -> AsyncIterator[str]:
        """Iterate over lines until the end of the stream."""
        while line := await self.readline():
            yield line


class _Running:
    """What both twins share."""

    def __init__(self, started: Pending[ExecResult], on_use: Callable[[], object]) -> None:
        self._started = started
        self._on_use = on_use
        self._result: ExecResult | None = None

    @property
    def _pending(self) -> Pending[ExecResult]:
        self._on_use()  # a process can outlive the test that started it, and meet its end in another one
        return self._started

    def poll(self) -> int | None:
        """The return code, or None while the process runs."""
        return self._finish().returncode if self._pending.request.future.done() else None

    @property
    def returncode(self) -> int | None:
        """As `poll`."""
        return self.poll()

    def kill(self) -> None:
        """Kill the process and all it has started; it has ended once `wait` returns."""
        if not self._pending.request.future.done():
            self._pending.request.kill()

    def _finish(self) -> ExecResult:
        """The result, without waiting. Raises `ExecTimeoutError` when the process was killed at its deadline."""
        if self._result is None:
            self._result = self._pending.convert(self._pending.request.future.result(0))
        if self._result.timed_out:
            command = self._result.argv[0]
            raise ExecTimeoutError(
                f"{command} was still running after {self._pending.timeout} s", self._result
            )
        return self._result

    def _discard(self) -> None:
        self._started.request.kill()  # whether there is anything left to kill concerns nobody


class Process(_Running):
    """A running command. As a context manager it is killed at the end of the block."""

    def __init__(
        self, pending: Pending[ExecResult], streams: tuple[Piped, Piped], on_use: Callable[[], object]
    ) -> None:
        super().__init__(pending, on_use)
        self.stdout = Output(streams[0])
        self.stderr = Output(streams[1])
        try:
            pending.request.started.result(_START_TIMEOUT)
        except BaseException:
            self._discard()  # nobody else can
            raise
        if pending.request.future.done():
            self._result = pending.convert(
                pending.request.future.result(0)
            )  # raises what kept it from starting

    def write(self, data: str | bytes, timeout: float | None = None) -> None:
        """Write to standard input; returns when all has been handed over to the sandbox.

        Raises BrokenPipeError when nobody reads any more, TimeoutError when it takes longer than `timeout`
        seconds, ValueError after `close_stdin`.
        """
        future = self._pending.request.write(arguments.text_or_content(data, "data"))
        _wait(future, timeout, "the process did not read its input within")

    def close_stdin(self) -> None:
        """Close standard input: the process reads its end."""
        self._pending.request.end_input()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the return code, -N for signal N.

        Raises `ExecTimeoutError` when the process was killed at the deadline that `popen` was given, and
        TimeoutError, the process still running, when it did not end within `timeout` seconds.
        """
        _wait(self._pending.request.future, timeout, "the process is still running after")
        return self._finish().returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()


class AsyncProcess(_Running):
    """The async twin of `Process`.

    What may have to wait is a coroutine without a `timeout`, for which there is `asyncio.timeout`: `write`, `wait`, and
    the reads of `stdout` and `stderr`. What never waits is the same: `poll`, `returncode`, `close_stdin` and `kill`.
    """

    def __init__(
        self, pending: Pending[ExecResult], streams: tuple[Piped, Piped], on_use: Callable[[], object]
    ) -> None:
        super().__init__(pending, on_use)
        self.stdout = AsyncOutput(streams[0])
        self.stderr = AsyncOutput(streams[1])

    async def started(self) -> AsyncProcess:
        """Wait for the start; raises what kept it from starting."""
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await asyncio.wrap_future(self._pending.request.started)
        except BaseException:
            self._discard()
            raise
        if self._pending.request.future.done():
            self._result = self._pending.convert(self._pending.request.future.result(0))
        return self

    async def write(self, data: str | bytes) -> None:
        """See `Process.write`. What a cancelled one has not handed over yet still follows."""
        await asyncio.wrap_future(self._pending.request.write(arguments.text_or_content(data, "data")))

    def close_stdin(self) -> None:
        """See `Process.close_stdin`."""
        self._pending.request.end_input()

    async def wait(self) -> int:
        """See `Process.wait`; limit it with `asyncio.timeout`."""
        await asyncio.wrap_future(self._pending.request.future)
        return self._finish().returncode

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()


def _wait(
    future: Future[object] | Future[None] | Future[dict[str, object]], timeout: float | None, complaint: str
) -> None:
    try:
        error = future.exception(arguments.patience(timeout))
    except FutureTimeoutError:
        raise TimeoutError(f"{complaint} {timeout} s") from None
    if error is not None:
        raise error.with_traceback(None)  # it may have been raised before, in another test

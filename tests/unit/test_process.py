from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes import commands, operations
from pytest_sandboxes import process as process_module
from pytest_sandboxes.agent import wire
from pytest_sandboxes.errors import ExecTimeoutError, SandboxLostError
from pytest_sandboxes.process import _MAX_LINE, AsyncOutput, AsyncProcess, Output, Process
from pytest_sandboxes.results import ExecResult
from pytest_sandboxes.streams import Piped
from tests.unit.fake_agent import Line
from tests.unit.fake_port import FakePort
from tests.waiting import DEADLINE, wait_until

NEVER = 0.001
"""Seconds to wait for what cannot come."""


def begin(
    port: FakePort,
    *argv: str,
    timeout: float | None = None,
    seen: Callable[[ExecResult], None] = lambda _: None,
) -> tuple[operations.Pending[ExecResult], tuple[Piped, Piped]]:
    streams = Piped(), Piped()
    words = [word.encode() for word in argv]
    return commands.start(port, words, env=None, cwd=None, timeout=timeout, sinks=streams, seen=seen), streams


def popen(port: FakePort, *argv: str, timeout: float | None = None) -> Process:
    return Process(*begin(port, *argv, timeout=timeout), lambda: None)


def sh(port: FakePort, script: str, timeout: float | None = None) -> Process:
    return popen(port, "sh", "-c", script, timeout=timeout)


def feed(*pieces: bytes) -> Piped:
    stream = Piped()
    for piece in pieces:
        stream.feed(piece)
    stream.end(None)
    return stream


# -- lines


@given(st.lists(st.text("ab\n", max_size=8).map(str.encode), max_size=8))
def test_lines_are_the_same_however_they_come(pieces: list[bytes]) -> None:
    whole = b"".join(pieces).decode()
    assert list(Output(feed(*filter(None, pieces)))) == whole.splitlines(keepends=True)


@given(st.lists(st.binary(min_size=1, max_size=8), max_size=8), st.data())
def test_bytes_and_lines_may_be_read_in_turns(pieces: list[bytes], data: st.DataObject) -> None:
    output = Output(feed(*pieces))
    read = ""
    while True:
        if data.draw(st.booleans()):
            piece = output.read().decode("latin-1")
        else:
            line = output.readline()
            piece = line.encode("utf-8", "replace").decode("latin-1")
            if "\ufffd" in line:
                return  # what was replaced cannot be compared
        if not piece:
            break
        read += piece
    assert read == b"".join(pieces).decode("latin-1")


@pytest.mark.parametrize("size", [_MAX_LINE - 1, _MAX_LINE, _MAX_LINE + 1, 2 * _MAX_LINE + 5])
@pytest.mark.parametrize("piece", [wire.CHUNK, 3 * _MAX_LINE])
def test_an_overlong_line_comes_in_pieces(size: int, piece: int) -> None:
    whole = b"x" * size + b"\nnext\n"
    pieces = [whole[at : at + piece] for at in range(0, len(whole), piece)]
    lines = list(Output(feed(*pieces)))
    assert "".join(lines).encode() == whole
    assert all(len(each) <= _MAX_LINE for each in lines)
    assert lines[-1] == "next\n"


def test_many_short_lines_and_one_long_line_in_tiny_pieces_are_no_trouble() -> None:
    """Either takes minutes where work is done for a whole piece or line again and again."""
    short = Output(feed(b"a\n" * (1 << 20)))
    assert sum(1 for _ in short) == 1 << 20
    long = Output(feed(*[b"ab"] * (1 << 18)))
    assert len(long.readline()) == 1 << 19


def test_what_is_no_text_is_replaced() -> None:
    assert list(Output(feed(b"caf\xc3", b"\xa9\n\xff\n"))) == ["café\n", "\ufffd\n"]


def test_a_line_that_does_not_come_is_waited_for_as_long_as_asked() -> None:
    stream = Piped()
    output = Output(stream)
    stream.feed(b"half ")
    with pytest.raises(TimeoutError, match="no output"):
        output.readline(NEVER)
    stream.feed(b"a line\n")
    assert output.readline(DEADLINE) == "half a line\n"


# -- processes


def test_a_process_talks_both_ways(port: FakePort) -> None:
    process = sh(port, 'while read line; do echo "got $line"; echo "error $line" >&2; done')
    for word in ("one", "two"):
        process.write(f"{word}\n", DEADLINE)
        assert process.stdout.readline(DEADLINE) == f"got {word}\n"
        assert process.stderr.readline(DEADLINE) == f"error {word}\n"
    assert process.poll() is None
    process.close_stdin()
    assert process.wait(DEADLINE) == 0
    assert (process.returncode, process.poll()) == (0, 0)
    assert (process.stdout.read(DEADLINE), process.stderr.readline(DEADLINE)) == (b"", "")


def test_output_can_be_read_to_its_end_after_the_end(port: FakePort) -> None:
    process = sh(port, "head -c 300000 /dev/zero; echo; echo last")
    assert process.wait(DEADLINE) == 0
    *_, last = process.stdout
    assert last == "last\n"


def test_what_cannot_be_started_raises_at_once_each_time(port: FakePort) -> None:
    for _ in range(50):
        with pytest.raises(FileNotFoundError, match="no-such-program"):
            popen(port, "no-such-program")


def test_a_wait_may_end_before_the_process_does(port: FakePort) -> None:
    process = popen(port, "sleep", "1000")
    with pytest.raises(TimeoutError, match="still running") as caught:
        process.wait(NEVER)
    assert not isinstance(caught.value, ExecTimeoutError)
    assert process.poll() is None
    process.kill()
    assert process.wait(DEADLINE) == -9
    process.kill()


@pytest.mark.usefixtures("late_deadlines_are_no_loss")
def test_a_deadline_of_its_own_is_an_exec_timeout(port: FakePort) -> None:
    process = popen(port, "sleep", "1000", timeout=0.05)
    for _ in range(2):
        with pytest.raises(ExecTimeoutError, match=r"sleep was still running after 0\.05 s") as caught:
            process.wait(DEADLINE)
    assert caught.value.result.returncode == -9
    with pytest.raises(ExecTimeoutError):
        process.poll()


def test_the_end_of_a_with_block_kills(port: FakePort) -> None:
    with popen(port, "sleep", "1000") as process:
        assert process.poll() is None
    assert process.wait(DEADLINE) == -9


def test_writing_to_what_does_not_read(port: FakePort) -> None:
    process = popen(port, "sleep", "1000")
    with pytest.raises(TimeoutError, match="did not read its input"):
        process.write(bytes(4 * wire.WINDOW), 0.01)
    process.kill()
    process.wait(DEADLINE)
    for size in (1, 4 * wire.WINDOW):
        with pytest.raises(BrokenPipeError):
            process.write(bytes(size), DEADLINE)


def test_a_process_that_ends_while_it_is_written_to_costs_nobody_the_sandbox(port: FakePort) -> None:
    for _ in range(20):
        process = sh(port, "read line")
        with pytest.raises(BrokenPipeError):
            while True:
                process.write("x\n", DEADLINE)
        assert process.wait(DEADLINE) == 0
    assert port.losses == []


def test_an_unread_process_stops_nobody_else(port: FakePort) -> None:
    unread = sh(port, "head -c 100000000 /dev/zero")
    assert sh(port, "echo beside").stdout.readline(DEADLINE) == "beside\n"
    unread.kill()
    assert unread.wait(DEADLINE) == -9


def test_each_use_is_told(port: FakePort) -> None:
    uses: list[int] = []
    process = Process(*begin(port, "cat"), lambda: uses.append(1))
    for use in (process.poll, lambda: process.write("x"), process.close_stdin, process.kill, process.wait):
        before = len(uses)
        use()
        assert len(uses) > before


def test_a_lost_sandbox_ends_the_process_with_the_reason(line: Line) -> None:
    pending, streams = begin(line, "prog")
    line.agent.send(wire.STARTED, line.agent.receive_request()[0])
    process = Process(pending, streams, lambda: None)
    line.agent.close()
    for use in (
        lambda: process.wait(DEADLINE),
        process.poll,
        lambda: process.write("x", DEADLINE),
        lambda: process.stdout.read(DEADLINE),
        lambda: process.stderr.readline(DEADLINE),
    ):
        with pytest.raises(SandboxLostError, match=r"it was lost: its (agent ended|stream broke)"):
            use()


def test_a_result_that_is_a_lie_is_a_loss(line: Line) -> None:
    pending, streams = begin(line, "prog")
    line.agent.answer(line.agent.receive_request()[0], {"status": -1})
    with pytest.raises(SandboxLostError):
        Process(pending, streams, lambda: None)
    assert line.losses


def test_a_start_that_nobody_waits_for_any_more_is_killed(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_START_TIMEOUT", NEVER)
    with pytest.raises(TimeoutError):
        popen(line, "prog")
    number, _ = line.agent.receive_request()
    assert line.agent.receive(wire.KILL)[0] == number


# -- the async twins


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(DEADLINE):
            await main()

    asyncio.run(limited())


async def apopen(port: FakePort, *argv: str, timeout: float | None = None) -> AsyncProcess:
    return await AsyncProcess(*begin(port, *argv, timeout=timeout), lambda: None).started()


def test_an_async_process_talks_both_ways(port: FakePort) -> None:
    async def main() -> None:
        async with await apopen(port, "cat") as process:
            await process.write("one\ntwo\n")
            assert await process.stdout.readline() == "one\n"
            assert await process.stdout.read() == b"two\n"
            process.close_stdin()
            assert [each async for each in process.stdout] == []
            assert await process.wait() == 0
            assert await process.stderr.read() == b""

    run(main)


def test_async_starts_that_fail(port: FakePort) -> None:
    async def main() -> None:
        for _ in range(20):
            with pytest.raises(FileNotFoundError):
                await apopen(port, "no-such-program")

    run(main)


def test_an_async_start_that_is_cancelled_is_killed(line: Line) -> None:
    async def main() -> None:
        starting = asyncio.create_task(apopen(line, "prog"))
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    run(main)
    number, _ = line.agent.receive_request()
    assert line.agent.receive(wire.KILL)[0] == number


@pytest.mark.usefixtures("late_deadlines_are_no_loss")
def test_async_deadlines_and_blocks(port: FakePort) -> None:
    async def main() -> None:
        with pytest.raises(ExecTimeoutError):
            await (await apopen(port, "sleep", "1000", timeout=0.05)).wait()
        async with await apopen(port, "sleep", "1000") as process:
            pass
        assert await process.wait() == -9

    run(main)


def test_a_cancelled_wait_leaves_the_process_and_a_cancelled_write_the_rest(port: FakePort) -> None:
    async def main() -> None:
        process = await apopen(port, "sh", "-c", "read line; wc -c")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(NEVER):
                await process.wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(NEVER):
                await process.write(bytes(4 * wire.WINDOW))
        assert process.poll() is None
        await process.write("\n")
        process.close_stdin()
        assert await process.stdout.readline() == "0\n"
        assert await process.wait() == 0

    run(main)
    assert port.losses == []


@given(st.lists(st.text("ab\n", min_size=1, max_size=8).map(str.encode), max_size=8))
def test_async_lines_are_the_same_as_sync_ones(pieces: list[bytes]) -> None:
    async def main() -> None:
        assert [each async for each in AsyncOutput(feed(*pieces))] == list(Output(feed(*pieces)))

    run(main)


def test_processes_run_side_by_side(port: FakePort) -> None:
    processes = [sh(port, f"read line; exit {number}") for number in range(8)]
    for process in processes:
        process.write("\n", DEADLINE)
    assert [process.wait(DEADLINE) for process in processes] == list(range(8))
    wait_until(lambda: not port.connection._requests, "the end of all requests")

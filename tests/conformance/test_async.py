"""The async twins: the same results and errors, many at once on one thread, and a cancel that kills."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import pytest

from pytest_sandboxes import AsyncProcess, AsyncSlot, CommandFailedError, ExecTimeoutError, Process, Slot
from pytest_sandboxes.process import AsyncOutput
from tests.conformance.capabilities import Capability
from tests.conformance.helpers import eventually
from tests.conformance.leftovers import Leftovers

pytestmark = pytest.mark.asyncio


def _public(kind: type) -> dict[str, list[str]]:
    return {
        name: list(inspect.signature(method).parameters)
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


async def test_there_is_a_twin_of_everything() -> None:
    assert _public(AsyncSlot) == _public(Slot)
    assert all(inspect.iscoroutinefunction(getattr(AsyncSlot, name)) for name in _public(AsyncSlot))


async def test_commands(sandbox: Slot) -> None:
    result = await sandbox.aio.exec("cat", input="text")
    assert (result.stdout, result.returncode) == ("text", 0)
    assert (await sandbox.aio.exec(["echo", "a b"])).stdout == "a b\n"
    assert (await sandbox.aio.sh("echo $A; exit 3", env={"A": "b"}, cwd="/")).returncode == 3
    with pytest.raises(CommandFailedError):
        await sandbox.aio.sh("exit 3", check=True)
    with pytest.raises(ExecTimeoutError) as caught:
        await sandbox.aio.sh("echo partial; sleep 1000", timeout=2)
    assert caught.value.result.stdout == "partial\n"
    with pytest.raises(FileNotFoundError):
        await sandbox.aio.exec("no-such-program")
    with pytest.raises(ValueError, match="use sh"):
        await sandbox.aio.exec("echo hello")


async def test_files(sandbox: Slot) -> None:
    slot = sandbox.aio
    await slot.write_bytes("tree/bytes", b"\xff\0", mode=0o600)
    await slot.write_text("tree/text", "grüße")
    assert await slot.read_bytes("tree/bytes") == b"\xff\0"
    assert (await slot.read_text("tree/text", max_bytes=4)).truncated
    listing = await slot.list_files("tree", sha256=True)
    assert [(entry.path, entry.mode) for entry in listing] == [("bytes", 0o600), ("text", 0o644)]
    with pytest.raises(FileNotFoundError):
        await slot.read_bytes("missing")
    with pytest.raises(IsADirectoryError):
        await slot.write_bytes("tree", b"")


@pytest.mark.needs(Capability.TREES)
async def test_trees(sandbox: Slot, tmp_path: Path) -> None:
    slot = sandbox.aio
    await slot.write_text("tree/text", "grüße")
    assert (await slot.archive("tree", format="zip"))[:2] == b"PK"
    await slot.download("tree", tmp_path / "copy")
    assert (tmp_path / "copy" / "text").read_text() == "grüße"
    await slot.upload(tmp_path / "copy", "again")
    assert await slot.read_text("again/text") == "grüße"


async def test_popen(sandbox: Slot) -> None:
    async with await sandbox.aio.popen(
        "sh", "-c", "while read x; do echo got $x; done; echo end >&2"
    ) as process:
        await process.write("one\n")
        assert await process.stdout.readline() == "got one\n"
        await process.write(b"two\nthree\n")
        process.close_stdin()
        assert [line async for line in process.stdout] == ["got two\n", "got three\n"]
        assert await process.stderr.read() == b"end\n"
        assert await process.wait() == 0
        assert process.returncode == 0
    killed = await sandbox.aio.popen("sleep", "1000")
    async with killed:
        assert killed.poll() is None
    assert await killed.wait() == -9
    with pytest.raises(FileNotFoundError):
        await sandbox.aio.popen("no-such-program")


async def test_what_waits_is_a_coroutine_that_a_timeout_of_asyncio_ends(sandbox: Slot) -> None:
    assert _public(AsyncProcess).keys() - {"started"} == _public(Process).keys()
    waiting = {name for name in _public(Process) if inspect.iscoroutinefunction(getattr(AsyncProcess, name))}
    assert waiting == {"write", "wait"}
    assert not any(
        "timeout" in each for kind in (AsyncProcess, AsyncOutput) for each in _public(kind).values()
    )
    process = await sandbox.aio.popen("cat")
    for wait in (process.wait, process.stdout.read, process.stdout.readline):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await wait()
    await process.write("kept")
    process.close_stdin()
    with pytest.raises(ValueError, match="has been closed"):
        await process.write("lost")
    assert await process.stdout.read() == b"kept"
    assert await process.wait() == 0


async def test_many_at_once(sandbox: Slot) -> None:
    async def let_them_end() -> None:
        await asyncio.to_thread(eventually, lambda: len(sandbox.list_files()) == 20, "20 commands at once")
        await sandbox.aio.write_text("go", "")

    # each waits for all the others: only side by side can they end
    meet = "touch {0}; until [ -e go ]; do sleep 0.05; done; echo {0}"
    commands = asyncio.gather(*(sandbox.aio.sh(meet.format(number)) for number in range(20)))
    results, _ = await asyncio.gather(commands, let_them_end())
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(20)]


async def test_the_loop_goes_on_meanwhile(sandbox: Slot) -> None:
    command = asyncio.ensure_future(sandbox.aio.sh("while [ ! -e stop ]; do sleep 0.01; done"))
    await asyncio.sleep(0)
    assert not command.done()
    await sandbox.aio.write_text("stop", "")
    assert (await command).success


async def test_a_cancel_kills(sandbox: Slot, leftovers: Leftovers) -> None:
    command = asyncio.ensure_future(sandbox.aio.sh("sleep 1000 & sleep 1000", env=leftovers.env))
    await asyncio.to_thread(leftovers.appear, 2)
    command.cancel()
    with pytest.raises(asyncio.CancelledError):
        await command
    await asyncio.to_thread(leftovers.vanish)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await sandbox.aio.exec("sleep", "1000", env=leftovers.env)
    await asyncio.to_thread(leftovers.vanish)
    assert (await sandbox.aio.exec("echo", "usable")).stdout == "usable\n"


async def test_reset(sandbox: Slot) -> None:
    await sandbox.aio.write_text("file", "")
    await sandbox.aio.reset()
    assert await sandbox.aio.list_files() == []

"""VMs, where no client could be quick enough."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.emulators.gcp.machines import Machine, Machines, to_the_end


def test_given_up_while_it_is_made(tmp_path: Path) -> None:
    closed = []

    async def make_and_cancel() -> Machines:
        opening = asyncio.Event()

        async def open_metadata(machine: Machine) -> str:
            assert machine.disk.exists()
            opening.set()
            await asyncio.Event().wait()
            return ""

        async def close_metadata(machine: Machine) -> None:
            closed.append(machine.name)

        machines = Machines(
            tmp_path / "machines", None, open_metadata=open_metadata, close_metadata=close_metadata
        )
        making = asyncio.create_task(machines.start("job", "uid", "us-central1-a"))
        await opening.wait()
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        return machines

    machines = asyncio.run(make_and_cancel())
    assert machines.running == {}
    assert len(closed) == 1
    assert list((tmp_path / "machines").iterdir()) == []


def test_an_end_that_is_cancelled_comes_all_the_same() -> None:
    done = []

    async def end_slowly(goes_on: asyncio.Event) -> None:
        await goes_on.wait()
        done.append(True)

    async def cancel_in_the_middle() -> None:
        goes_on = asyncio.Event()
        ending = asyncio.create_task(to_the_end(end_slowly(goes_on)))
        await asyncio.sleep(0)
        ending.cancel()
        asyncio.get_running_loop().call_later(0.01, goes_on.set)
        with pytest.raises(asyncio.CancelledError):
            await ending
        assert done

    asyncio.run(cancel_in_the_middle())


def test_a_disk_that_cannot_be_read_is_removed(tmp_path: Path) -> None:
    async def make_and_end() -> None:
        async def open_metadata(machine: Machine) -> str:
            return "here"

        async def close_metadata(machine: Machine) -> None:
            return None

        machines = Machines(
            tmp_path / "machines", None, open_metadata=open_metadata, close_metadata=close_metadata
        )
        machine = await machines.start("job", "uid", "us-central1-a")
        closed = machine.disk / "home" / "closed"
        (closed / "inner").mkdir(parents=True)
        (closed / "link").symlink_to(tmp_path)
        (closed / "inner").chmod(0)
        closed.chmod(0)
        (machine.disk / "out").symlink_to(tmp_path)
        (tmp_path / "kept").touch(0o600)
        await machines.end(machine)

    asyncio.run(make_and_end())
    assert list((tmp_path / "machines").iterdir()) == []
    assert (tmp_path / "kept").exists()

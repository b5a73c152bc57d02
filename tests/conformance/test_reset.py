"""reset: the slot is as new, and what was before is gone."""

from __future__ import annotations

import pytest

from pytest_sandboxes import LeaseClosedError, Pool, SandboxesError, Slot
from tests.conformance.helpers import GENEROUS, SlotFactory
from tests.conformance.leftovers import Leftovers


def test_makes_the_slot_as_new(sandbox: Slot, leftovers: Leftovers) -> None:
    process = sandbox.popen("sh", "-c", "setsid sleep 1000 & sleep 1000", env=leftovers.env)
    sandbox.sh("echo x > file; mkdir -p dir/sub; echo x > $HOME/.profile; echo x > $TMPDIR/temporary")
    leftovers.appear(2)
    sandbox.reset()
    assert sandbox.list_files() == []
    assert sandbox.sh("ls -A $HOME").stdout == ""
    assert sandbox.sh("[ -e $TMPDIR/temporary ] || echo gone").stdout == "gone\n"
    leftovers.vanish()
    with pytest.raises(SandboxesError):
        process.wait(GENEROUS)


def test_again_and_again(sandbox: Slot, sandbox_pool: Pool) -> None:
    before = sandbox_pool.statistics()
    for _ in range(5):
        sandbox.write_text("file", "")
        sandbox.reset()
        assert sandbox.list_files() == []
    # the pool may be shared with other workers, whose resets count as well
    assert sandbox_pool.statistics().resets >= before.resets + 5
    assert not sandbox._lease.losses


def test_of_one_slot_of_several(sandbox_factory: SlotFactory) -> None:
    with sandbox_factory(slots=2) as slots:
        assert isinstance(slots, tuple)
        first, second = slots
        first.write_text("file", "first")
        second.write_text("file", "second")
        first.reset()
        assert first.list_files() == []
        assert second.read_text("file") == "second"


def test_a_slot_ends_with_its_lease(sandbox_factory: SlotFactory, leftovers: Leftovers) -> None:
    with sandbox_factory() as slot:
        slot.popen("sh", "-c", "setsid sleep 1000 & sleep 1000", env=leftovers.env)
        leftovers.appear(2)
    leftovers.vanish()
    for call in (lambda: slot.exec("true"), lambda: slot.read_bytes("file"), slot.reset):
        with pytest.raises(LeaseClosedError, match="given back"):
            call()

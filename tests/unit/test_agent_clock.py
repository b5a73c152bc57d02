from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_sandboxes.agent.clock import Clock


class Machine:
    """The machine's own clock, which passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr("pytest_sandboxes.agent.clock.time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_it_goes_as_the_machines_does(machine: Machine) -> None:
    clock = Clock()
    began = clock.now()
    machine.now += 5
    assert clock.now() - began == 5
    assert not clock.is_stopped


def test_what_it_was_stopped_for_is_left_out(machine: Machine) -> None:
    clock = Clock()
    began = clock.now()
    for passed in (1, 2):
        machine.now += 1
        clock.stop()
        assert clock.is_stopped
        machine.now += 100
        assert clock.now() - began == passed
        clock.go_on()
        assert not clock.is_stopped
        assert clock.now() - began == passed


def test_stopped_twice_is_stopped_once(machine: Machine) -> None:
    clock = Clock()
    began = clock.now()
    clock.stop()
    machine.now += 100
    clock.stop()
    machine.now += 100
    clock.go_on()
    assert clock.now() == began
    machine.now += 1
    assert clock.now() - began == 1


def test_going_on_without_having_stopped_is_nothing(machine: Machine) -> None:
    clock = Clock()
    began = clock.now()
    for _ in range(2):
        machine.now += 1
        clock.go_on()
    assert clock.now() - began == 2
    assert not clock.is_stopped
    clock.stop()
    clock.go_on()
    clock.go_on()
    assert clock.now() - began == 2

"""Which of the faults that a test has planned hits a call."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar


class Plannable(Protocol):
    """What is to happen to calls."""

    times: int | None
    """How many calls are hit; None for all from now on."""
    skip: int
    """How many calls pass before the first that is hit."""

    def fits(self, method: str, about: str) -> bool:
        """Whether it is meant for calls of this method that are about this thing."""


_Fault = TypeVar("_Fault", bound=Plannable)


class FaultPlan(Generic[_Fault]):
    """The faults that are still to come. Belongs to the emulator's loop."""

    def __init__(self) -> None:
        self._faults: list[_Fault] = []

    def add(self, fault: _Fault) -> None:
        """Plan one more; of several that fit a call, the oldest hits it."""
        self._faults.append(fault)

    def clear(self) -> None:
        """Plan none."""
        self._faults.clear()

    def take(self, method: str, about: str) -> _Fault | None:
        """The one that hits this call, if any does; it is used up as far as it says."""
        for fault in self._faults:
            if not fault.fits(method, about):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            if fault.times is not None:
                fault.times -= 1
                if not fault.times:
                    self._faults.remove(fault)
            return fault
        return None

"""Sandboxes that outlive a run to serve the next one: told to wait, found again by their ids, and given a new agent.

Nobody waits in such a sandbox but its main command: the agent of the run before has ended, and whoever takes it over
starts one by the service, as in a new sandbox. So nothing in it has to prove who it is. That it is the one that was
parked is said by the service, which knows it by an id that the record has; who could put another in its place, or look
into it, has the account, and with that may enter every sandbox of it anyway. What the code before has left is told by
resetting all slots once more, with proof.

Only those are parked whose code is another user than their agent: root in a sandbox could stay in it.
"""

from __future__ import annotations

import hashlib
import time
from math import ceil
from typing import TYPE_CHECKING

from pytest_sandboxes.backends.modal import janitor, programs, sandboxes
from pytest_sandboxes.backends.modal.service import CALL_TIMEOUT, Service
from pytest_sandboxes.errors import SandboxStartError
from pytest_sandboxes.parking_records import Claims, Parked
from pytest_sandboxes.payload import payload

if TYPE_CHECKING:
    import modal

    from pytest_sandboxes.backends.base import AgentSetup, Tell
    from pytest_sandboxes.backends.modal.bridge import Bridge
    from pytest_sandboxes.profiles.profile import Profile

BACKEND = "modal"
_END_TIMEOUT = 15.0  # seconds for an agent that has been told to end


class ParkableSandbox(sandboxes.ModalSandbox):
    """A sandbox that can wait for the next run."""

    def __init__(
        self,
        service: Service,
        sandbox: modal.Sandbox,
        bridge: Bridge,
        setup: AgentSetup,
        *,
        carried: bool,
        parking: Parking,
        profile: Profile,
        recipe: str,
    ) -> None:
        super().__init__(service, sandbox, bridge, setup, carried=carried)
        self._parking = parking
        self._profile = profile
        self._recipe = recipe
        self._is_parked = False
        self.started = time.time()

    def park(self, tell: Tell, uses: int) -> None:  # noqa: ARG002 - its agent is to end, and has no part in it
        """See `Launched.park`.

        It is told to wait when it is on record, and not before: should this process die in between, the sandbox ends
        with its agent. Who claims it at once waits until that has ended.
        """
        seconds = self._seconds()
        expires = time.time() + seconds
        tags = janitor.parked_tags(self._parking.run, self._profile.digest, expires)
        self._service.call(lambda: self._sandbox.set_tags.aio(tags), self._complaint)
        records = self._parking.claims.records
        record = records.add(
            Parked(
                backend=BACKEND,
                host=self._service.account(),
                sandbox=self._sandbox.object_id,
                recipe=self._recipe,
                profile=self._profile.name,
                directory=self._parking.claims.directory,
                users=tuple(slot.user[0] for slot in self.setup.slots if slot.user is not None),
                interpreter=(),
                started=self.started,
                uses=uses,
                key=b"",
                expires=expires,
            )
        )
        try:
            self._have_wait(seconds)
        except SandboxStartError:
            if records.claim(
                record
            ):  # unless somebody has it already, who sees for himself what becomes of it
                raise

    def _have_wait(self, seconds: int) -> None:
        """Have its main command wait for another agent, and this one end."""
        self._is_parked = True
        code, _ = sandboxes.run(
            self._service,
            self._sandbox,
            programs.park_command(seconds),
            self._complaint,
            seconds=2 * CALL_TIMEOUT,
        )
        if code != 0:
            raise SandboxStartError(f"{self._complaint}: it cannot be told to wait ({code})")
        self._service.call(self._bridge.finish, f"{self._complaint}: its agent does not end", _END_TIMEOUT)

    @property
    def _complaint(self) -> str:
        return f"sandbox {self._sandbox.object_id} cannot be parked"

    def _seconds(self) -> int:
        """How long it waits: not beyond the age at which Modal ends it."""
        age = time.time() - self.started
        left = (self._profile.max_lifetime or sandboxes.LONGEST_LIFE) - age
        return max(1, ceil(min(self._parking.seconds, left)))

    def reason_lost(self) -> str:
        """See `Launched.reason_lost`."""
        return "it waits for the next run" if self._is_parked else super().reason_lost()


class Claimed:
    """A sandbox that was parked, and is this run's now."""

    def __init__(self, handle: modal.Sandbox, parked: Parked) -> None:
        self.handle = handle
        self.parked = parked
        """What was known of it."""


class Parking:
    """What a run parks, and what it takes over of earlier ones. Its methods may be called from any thread."""

    def __init__(self, service: Service, run: str, seconds: float, directory: str) -> None:
        """`run`: this one, as tags say it. `directory`: see `Claims`."""
        self.run = run
        self.seconds = seconds
        self.claims = Claims(BACKEND, service.account, directory)
        self._service = service

    def recipe(self, profile: Profile, image: modal.Image) -> str:
        """All that two sandboxes have in common of which one can stand in for the other."""
        made_of = (profile.digest, image.object_id, programs.main_command())
        digest = hashlib.sha256(repr(made_of).encode() + payload(same_interpreter=False)).hexdigest()
        self.claims.want(profile.name, digest)
        return digest

    def claim(self, profile: Profile, recipe: str) -> Claimed | None:
        """A sandbox that an earlier run has parked and that still runs, with nobody in it; None when there is none.

        Raises `ConfigurationError` for records that cannot be trusted.
        """
        for parked in self.claims.of(recipe):
            handle = None
            try:
                handle = sandboxes.find(self._service, parked.sandbox)
                self._tag(handle, profile)
            except SandboxStartError:  # it is gone, or nobody knows
                if handle is not None:
                    sandboxes.end(self._service, handle)
            else:
                return Claimed(handle, parked)
        return None

    def end_outdated(self) -> None:
        """End what nobody wants any more: see `Claims.outdated`."""
        for parked in self.claims.outdated():
            self._end(parked)

    def end_all(self) -> list[str]:
        """End all that is on record; a line for each."""
        return [
            f"sandbox {parked.sandbox} of profile {parked.profile}, parked"
            for parked in self.claims.all()
            if self._end(parked)
        ]

    def _tag(self, handle: modal.Sandbox, profile: Profile) -> None:
        """Have sweeps know that it is this run's."""
        tags = janitor.tags(self.run, profile.digest)
        self._service.call(lambda: handle.set_tags.aio(tags), "a parked sandbox cannot be taken over")

    def _end(self, parked: Parked) -> bool:
        try:
            handle = sandboxes.find(self._service, parked.sandbox)
        except SandboxStartError:
            return False
        sandboxes.end(self._service, handle)
        return True

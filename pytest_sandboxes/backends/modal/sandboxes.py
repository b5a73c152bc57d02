"""Sandboxes: created under names of ours, given an agent, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from pytest_sandboxes.backends.base import AgentSetup, Launched
from pytest_sandboxes.backends.modal import programs
from pytest_sandboxes.backends.modal.bridge import Bridge
from pytest_sandboxes.backends.modal.errors import ENDS, TIMED_OUT, NameTakenError, classify
from pytest_sandboxes.backends.modal.reach import within_reach
from pytest_sandboxes.backends.modal.service import CALL_TIMEOUT, Service
from pytest_sandboxes.errors import (
    CredentialsRefusedError,
    RateLimitedError,
    SandboxStartError,
    ServiceUnavailableError,
)
from pytest_sandboxes.payload import payload

if TYPE_CHECKING:
    from collections.abc import Mapping

    import modal
    from modal.container_process import ContainerProcess

CREATION_TIMEOUT = 120.0
"""Seconds that the creation of a sandbox may take, all attempts included."""
ARRIVAL_TIMEOUT = 120.0
"""Seconds from a creation until its first command may have started: machines with GPUs, and large images, take time."""
LONGEST_LIFE = 24 * 3600
"""Seconds that the service lets a sandbox live at most."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 15.0  # seconds between attempts
_LOOK_UP_TIMEOUT = 10.0
_END_TIMEOUT = 15.0
_REASON_TIMEOUT = 2.0  # seconds from the end of a stream until the service knows that of its sandbox


@dataclass(frozen=True)
class Order:
    """What the service is told of a sandbox."""

    app: modal.App
    app_name: str
    image: modal.Image
    name: str
    tags: Mapping[str, str]
    options: Mapping[str, Any]
    """The rest, as the client's arguments."""


class Creator:
    """Creates sandboxes, each once."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._closing = threading.Event()
        self._has_waited_in_vain = False
        """The last creation has got no answer in all its time."""

    def stop_waiting(self) -> None:
        """The run is over: nobody waits for another attempt any more, nor for long for the one that is made."""
        self._closing.set()
        self._service.stop_waiting()

    def pause(self, seconds: float) -> bool:
        """Wait for another attempt at something; whether the run is over."""
        return self._closing.wait(seconds)

    def create(self, order: Order, *, waits_for_turn: bool = False) -> modal.Sandbox:
        """Create a sandbox. What may have been created although no answer came is found by its name, not made twice.

        Raises `SandboxStartError` of the kind that it is. With `waits_for_turn`, throttling is waited for here. A
        service that is gone is waited for once, not for each sandbox.
        """
        is_patient = not self._has_waited_in_vain
        if not is_patient:
            self._service.need_answer(f"sandbox {order.name} was not created")
        try:
            created = self._create(order, waits_for_turn=waits_for_turn, is_patient=is_patient)
        except ServiceUnavailableError:
            self._has_waited_in_vain = True
            raise
        self._has_waited_in_vain = False
        return created

    def _create(self, order: Order, *, waits_for_turn: bool, is_patient: bool) -> modal.Sandbox:
        deadline = time.monotonic() + CREATION_TIMEOUT
        pause = _FIRST_PAUSE
        while True:
            try:
                return self._attempt(order, max(deadline - time.monotonic(), 1.0))
            except (RateLimitedError, ServiceUnavailableError, NameTakenError) as error:
                is_throttled = isinstance(error, RateLimitedError)
                found = None if is_throttled else self._find(order)
                if found is not None:
                    return found
                is_tried_again = waits_for_turn if is_throttled else is_patient
                is_final = not is_tried_again or isinstance(error, NameTakenError)
                if is_final or time.monotonic() + pause > deadline:
                    raise
            if self.pause(pause):
                raise SandboxStartError(f"sandbox {order.name} was not created: the run is over")
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _attempt(self, order: Order, seconds: float) -> modal.Sandbox:
        import modal

        client = self._service.client()
        return self._service.call(
            lambda: modal.Sandbox.create.aio(
                *programs.main_command(),
                app=order.app,
                image=order.image,
                name=order.name,
                tags=dict(order.tags),
                client=client,
                **order.options,
            ),
            f"sandbox {order.name} was not created",
            seconds,
            ends_with_run=True,
        )

    def _find(self, order: Order) -> modal.Sandbox | None:
        """The sandbox of that name, which only this run can have created."""
        import modal

        client = self._service.client()
        try:
            return self._service.call(
                lambda: modal.Sandbox.from_name.aio(order.app_name, order.name, client=client),
                f"sandbox {order.name} was not found",
                _LOOK_UP_TIMEOUT,
            )
        except CredentialsRefusedError:
            raise
        except SandboxStartError:
            return None


class ModalSandbox(Launched):
    """A sandbox with an agent that has just been started in it."""

    def __init__(
        self, service: Service, sandbox: modal.Sandbox, bridge: Bridge, setup: AgentSetup, *, carried: bool
    ) -> None:
        self.stream = bridge.near
        self.payload = payload(same_interpreter=carried)
        self.setup = setup
        self._service = service
        self._sandbox = sandbox
        self._bridge = bridge

    def end(self) -> None:
        """See `Launched.end`."""
        try:
            end(self._service, self._sandbox)
        finally:
            self._service.call(self._bridge.close, "its streams do not end")

    def last_words(self) -> str:
        """See `Launched.last_words`."""
        return self._bridge.complaint

    def reason_lost(self) -> str:
        """See `Launched.reason_lost`."""
        import modal.exception

        async def ended() -> int | None:
            if self._bridge.is_open:  # it was given up: nothing says that the sandbox is about to end
                return await self._sandbox.poll.aio()
            try:
                await self._sandbox.wait.aio(raise_on_termination=False)
            except modal.exception.SandboxTimeoutError:
                return TIMED_OUT
            return self._sandbox.returncode or 0

        try:
            code = self._service.call(ended, "it cannot be asked", _REASON_TIMEOUT)
        except SandboxStartError:
            return self._bridge.reason
        return "" if code is None else ENDS.get(code, "its agent ended")


def find(service: Service, name: str) -> modal.Sandbox:
    """The sandbox with that id, which runs. Raises `SandboxStartError` when there is none, or it cannot be asked."""
    import modal

    client = service.client()

    async def look() -> modal.Sandbox:
        sandbox: modal.Sandbox = await modal.Sandbox.from_id.aio(name, client=client)
        if await sandbox.poll.aio() is not None:
            raise SandboxStartError(f"sandbox {name} has ended")
        return sandbox

    return service.call(look, f"sandbox {name} was not found", _LOOK_UP_TIMEOUT)


def end(service: Service, sandbox: modal.Sandbox) -> None:
    """End a sandbox and wait, a few seconds at most, until it is gone; what cannot be reached ends by itself."""

    async def terminate() -> None:
        while True:
            try:
                await sandbox.terminate.aio(wait=True)
            except Exception as error:
                if not issubclass(classify(error)[0], RateLimitedError | ServiceUnavailableError):
                    raise
            else:
                return
            await asyncio.sleep(_FIRST_PAUSE)

    with contextlib.suppress(SandboxStartError):
        service.call(terminate, "not ended", _END_TIMEOUT)


def start_agent(
    service: Service,
    sandbox: modal.Sandbox,
    command: Sequence[str],
    secrets: Sequence[modal.Secret],
) -> Bridge:
    """Start a command that becomes an agent. Raises `SandboxStartError`."""

    async def start() -> Bridge:
        async with within_reach():
            return Bridge(await sandbox.exec.aio(*command, text=False, secrets=list(secrets)))

    return service.call(start, "its agent was not started", ARRIVAL_TIMEOUT, ends_with_run=True)


def run(
    service: Service,
    sandbox: modal.Sandbox,
    command: Sequence[str],
    what: str,
    data: bytes = b"",
    *,
    seconds: float = ARRIVAL_TIMEOUT + CALL_TIMEOUT,
    ends_with_run: bool = False,
) -> tuple[int, bytes]:
    """Run a command to its end; its code, and the first of what it has printed. `ends_with_run`: see `Service.call`.

    Raises `SandboxStartError`, saying that `what` was not possible, when the service fails, or has not done it within
    `seconds`.
    """

    async def to_its_end() -> tuple[int, bytes]:
        async with within_reach():
            process: ContainerProcess[bytes] = await sandbox.exec.aio(
                *command, text=False, timeout=ceil(seconds)
            )
        view = memoryview(data)
        while view:
            process.stdin.write(bytes(view[:_PIECE]))
            await process.stdin.drain.aio()
            view = view[_PIECE:]
        process.stdin.write_eof()
        await process.stdin.drain.aio()
        printed = bytearray()
        async for piece in process.stdout:
            printed += piece[: _LONGEST_ANSWER - len(printed)]
        return await process.wait.aio(), bytes(printed)

    return service.call(to_its_end, what, seconds, ends_with_run=ends_with_run)


_PIECE = 1 << 20
_LONGEST_ANSWER = 1 << 16

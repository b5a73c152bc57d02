"""The controller's end of one worker's channel: what that worker has leased, and what it has under way."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict

from pytest_sandboxes.agent import wire
from pytest_sandboxes.errors import LeaseClosedError, SandboxStartError
from pytest_sandboxes.lease import Lease
from pytest_sandboxes.sandbox import SandboxSlot
from pytest_sandboxes.sharing import messages
from pytest_sandboxes.sharing.announcement import Announcement, Content
from pytest_sandboxes.sharing.messages import take
from pytest_sandboxes.sharing.outbox import Outbox
from pytest_sandboxes.sharing.relay import Relay
from pytest_sandboxes.supply import Supply

_log = logging.getLogger("pytest_sandboxes")

MAX_REQUESTS = 10_000
"""Requests and calls that a worker may have under way at once."""


class _Held:
    """A lease that a worker has asked for."""

    def __init__(self, holder: str) -> None:
        self.holder = holder
        self.lease: Lease | None = None
        """None until it has been granted."""
        self.is_given_back = False
        self.ports: list[int] = []
        """Numbers of its slots, in order."""


class Desk:
    """Serves one worker until its channel ends, or `end` is called: then all that it has leased is given back.

    `received` runs on execnet's receiver thread and never waits. What may have to wait runs on `executor`.
    """

    def __init__(
        self,
        name: str,
        channel: messages.Channel,
        supply: Supply,
        executor: Executor,
        *,
        refuse: Callable[[str], Exception | None],
        greeted: Callable[[Desk, int], object],
    ) -> None:
        """`refuse` says why a holder gets no lease, if so; `greeted` is called with the worker's process id."""
        self.name = name
        self.announcement = Announcement()
        self._supply = supply
        self._executor = executor
        self._refuse = refuse
        self._greeted = greeted
        self._lock = threading.Lock()
        self._held: dict[int, _Held] = {}
        self._ports: dict[int, SandboxSlot] = {}
        self._relays: dict[int, Relay] = {}
        self._last_port = 0
        self._ended = False
        self._holders_at_end: frozenset[str] = frozenset()
        self._outbox = Outbox(channel, lambda: self.end(None), f"sandboxes-{name}")

    @property
    def holders_at_end(self) -> frozenset[str]:
        """Who held a lease, or waited for one, when the connection ended; none before that."""
        with self._lock:
            return self._holders_at_end

    # -- the channel

    def received(self, item: object) -> None:
        """An item has come, or None at the end of the channel. Never raises: what is wrong ends the connection."""
        if item is None:
            self.end(None)
            return
        try:
            for kind, number, content in messages.frames(item):
                self._take(kind, number, content)
        except Exception as error:  # noqa: BLE001 - whatever a worker sends, the controller goes on
            self.end(f"it sent what it must not: {error!r}")

    def _take(self, kind: int, number: int, content: bytes) -> None:
        with self._lock:
            if self._ended:
                return
            relay = self._relays.get(number)
            busy = len(self._relays) + len(self._held)
        if kind == wire.REQUEST:
            if relay is not None or busy >= MAX_REQUESTS:
                raise wire.ProtocolError("a request too many")
            self._request(number, content)
        elif kind == messages.CALL:
            if busy >= MAX_REQUESTS:
                raise wire.ProtocolError("a call too many")
            self._call(number, wire.decode_dict(content))
        elif kind == messages.TELL:
            self._told(wire.decode_dict(content))
        elif relay is not None:  # else it has ended meanwhile
            relay.take(kind, content)

    def _send(self, data: bytes) -> None:
        self._outbox.put(data)

    def _answer(self, number: int, answer: dict[str, object]) -> None:
        self._send(messages.message(messages.ANSWER, number, answer))

    # -- requests

    def _request(self, number: int, content: bytes) -> None:
        match wire.decode(content):
            case [int(port), bytes(inner), bytes() | None as input]:
                arguments = wire.decode_dict(inner)
            case _:
                raise wire.ProtocolError("not a request")
        operation, timeout = take(arguments, "op", str), arguments.get("timeout")
        if not (timeout is None or isinstance(timeout, int | float)):
            raise wire.ProtocolError("not a timeout")
        with self._lock:
            slot = self._ports.get(port)
        if slot is None:  # given back by another thread of the worker's
            refusal = {"error": messages.pack_error(_given_back())}
            self._send(messages.message(wire.RESULT, number, refusal))
            return
        relay = Relay(number, slot, self._send, self._forget)
        with self._lock:
            self._relays[number] = relay
        rest = {name: value for name, value in arguments.items() if name not in {"op", "timeout"}}
        try:
            request = slot.request(operation, rest, timeout=timeout, input=input, sinks=relay.sinks)
        except Exception as error:  # noqa: BLE001 - the worker has to learn of it, whatever it is
            relay.fail(error)
        else:
            relay.begin(request)

    def _forget(self, number: int) -> None:
        with self._lock:
            self._relays.pop(number, None)

    # -- what a worker says

    def _told(self, content: Content) -> None:
        match take(content, "what", str):
            case "hello":
                self._greeted(self, take(content, "pid", int))
            case "profile":
                self.announcement.take_profile(content)
            case "wishes":
                self.announcement.take_wishes(content)
            case "tests":
                self.announcement.take_tests(content)
            case "release":
                self._release(take(content, "lease", int))
            case "lose":
                self._lose(content)
            case "count_infra_retry":
                self._supply.pool.count_infra_retry()
            case other:
                raise wire.ProtocolError(f"it says {other!r}")

    def _backend(self, content: Content) -> str:
        name = take(content, "backend", str)
        if name not in self._supply.backends:
            raise wire.ProtocolError("a backend that there is not")
        return name

    # -- what a worker wants an answer to

    def _call(self, number: int, content: Content) -> None:
        what = take(content, "what", str)
        if what == "statistics":
            self._answer(number, {"counts": asdict(self._supply.pool.statistics())})
        elif what == "lose":
            self._lose(content)
            self._answer(number, {})
        elif what == "lease":
            self._lease(number, content)
        elif what == "reset":
            index, held = take(content, "index", int), self._held_by(content)
            self._executor.submit(self._reset, number, held, index)
        elif what == "check":
            backend, profile = self._backend(content), self.announcement.profile(content.get("profile"))
            self._later(number, lambda: self._supply.check(backend, profile))
        elif what == "keep":
            held, nodeid = self._held_by(content), take(content, "nodeid", str)
            self._later(number, lambda: self._keep(held, nodeid))
        elif what == "end_kept":
            nodeid = take(content, "nodeid", str)
            self._later(number, lambda: self._supply.end_kept(nodeid))
        else:
            raise wire.ProtocolError(f"it asks for {what!r}")

    def _later(self, number: int, chore: Callable[[], dict[str, object] | None]) -> None:
        """Answer a call with what `chore` returns or raises."""

        def run() -> None:
            try:
                answer = chore() or {}
            except Exception as error:  # noqa: BLE001 - whatever it is, the one who waits has to learn of it
                answer = {"error": messages.pack_error(error)}
            self._answer(number, answer)

        self._executor.submit(run)

    def _held_by(self, content: Content) -> _Held:
        with self._lock:
            return self._held.get(take(content, "lease", int), _Held(""))

    # -- leases

    def _lease(self, number: int, content: Content) -> None:
        backend, profile = self._backend(content), self.announcement.profile(content.get("profile"))
        slots, held = take(content, "slots", int), _Held(take(content, "holder", str))
        alone = take(content, "alone", bool)
        with self._lock:
            if number in self._held:
                raise wire.ProtocolError("a lease that it has already")
            self._held[number] = held

        pool, holder = self._supply.pool, held.holder

        def at_once() -> Lease | None:
            return pool.lease_at_once(backend, profile, slots=slots, holder=holder, alone=alone)

        def waiting() -> Lease:
            return pool.lease(
                backend,
                profile,
                slots=slots,
                holder=holder,
                alone=alone,
                is_wanted=lambda: not held.is_given_back,
            )

        if not self._obtain(number, held, at_once):
            self._executor.submit(self._obtain, number, held, waiting)

    def _obtain(self, number: int, held: _Held, lease: Callable[[], Lease | None]) -> bool:
        """Answer with what `lease` returns or raises; returns False, with no answer, when that is None."""
        try:
            refusal = self._refuse(held.holder)
            if refusal is not None:
                raise refusal  # noqa: TRY301 - as any other reason for which there is no lease
            granted = lease()
        except Exception as error:  # noqa: BLE001 - whatever it is, the one who waits has to learn of it
            with self._lock:
                self._held.pop(number, None)
            self._answer(number, {"error": messages.pack_error(error)})
            return True
        if granted is not None:
            self._granted(number, held, granted)
        return granted is not None

    def _granted(self, number: int, held: _Held, lease: Lease) -> None:
        with self._lock:
            held.lease = lease
            ports = [] if held.is_given_back else [self._add_port(held, each) for each in lease.ports]
        if not ports:  # the worker has gone away meanwhile, or has changed its mind
            lease.release()
            return
        lease.on_loss = self._lost
        self._answer(number, {"lease": number, "slots": ports})
        self._tell_of_early_losses(lease)

    def _add_port(self, held: _Held, slot: SandboxSlot) -> list[object]:
        """Number a slot, under the lock; how the worker is told of it."""
        self._last_port += 1
        self._ports[self._last_port] = slot
        held.ports.append(self._last_port)
        return [self._last_port, slot.name, slot.backend, slot.workspace, slot.is_shared]

    def _tell_of_early_losses(self, lease: Lease) -> None:
        """Losses of which the worker was told before it knew the slot."""
        lost = {loss.sandbox: loss.reason for loss in lease.losses}
        for slot in lease.ports:
            if slot.name in lost:
                self._lost(slot, SandboxStartError(lost[slot.name]))

    def _lost(self, slot: SandboxSlot, error: Exception) -> None:
        with self._lock:
            ports = [port for port, each in self._ports.items() if each is slot]
        for port in ports:
            self._send(messages.message(messages.LOST, port, messages.pack_error(error)))

    def _lose(self, content: Content) -> None:
        with self._lock:
            slot = self._ports.get(take(content, "port", int))
        if slot is not None:
            slot.lose(take(content, "reason", str))

    def _release(self, number: int) -> None:
        with self._lock:
            held = self._held.pop(number, None)
            if held is None:
                return
            held.is_given_back = True
            for port in held.ports:
                self._ports.pop(port, None)
        if held.lease is not None:
            held.lease.release()

    def _reset(self, number: int, held: _Held, index: int) -> None:
        lease = held.lease
        try:
            if lease is None or not 0 <= index < lease.count:
                raise _given_back()  # noqa: TRY301 - as the pool may find, too
            self._supply.pool.replace(lease, index)
            fresh = lease.behind(index)
            with self._lock:
                if held.is_given_back:  # by the end of the worker, or by another of its threads
                    raise _given_back()  # noqa: TRY301
                slot = self._add_port(held, fresh)
                self._ports.pop(held.ports[index], None)
                held.ports[index] = held.ports.pop()
        except Exception as error:  # noqa: BLE001 - whatever it is, the one who waits has to learn of it
            self._answer(number, {"error": messages.pack_error(error)})
            return
        self._answer(number, {"slot": slot})
        self._tell_of_early_losses(lease)

    def _keep(self, held: _Held, nodeid: str) -> None:
        if held.lease is not None:
            self._supply.keep(held.lease, nodeid)

    # -- the end

    def end(self, reason: str | None) -> None:
        """Give back all that the worker has leased; never waits. May be called twice, from any thread.

        `reason`: what it has done wrong, to be logged.
        """
        with self._lock:
            if self._ended:
                return
            self._ended = True
            held, relays = list(self._held.values()), list(self._relays.values())
            self._holders_at_end = frozenset(each.holder for each in held)
            self._held, self._ports, self._relays = {}, {}, {}
            for each in held:
                each.is_given_back = True
        if reason is not None:
            _log.warning("worker %s gets no more sandboxes: %s", self.name, reason)
        self._outbox.close()  # first, or a worker that lives on would take what is killed here for its own result
        for relay in relays:
            relay.abandon()
        for each in held:
            if each.lease is not None:
                each.lease.release()

    def join(self, patience: float) -> None:
        """Wait for the thread that sends to the worker, but no more than `patience` seconds."""
        self._outbox.join(patience)


def _given_back() -> LeaseClosedError:
    return LeaseClosedError("the slot has been given back")

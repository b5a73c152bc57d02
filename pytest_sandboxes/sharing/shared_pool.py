"""The pool as a worker sees it: leases that the controller's pool has given out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

from pytest_sandboxes.lease import Lease
from pytest_sandboxes.many_calls import exec_many
from pytest_sandboxes.pool.statistics import Statistics, in_brief
from pytest_sandboxes.profiles.catalog import ListedProfile, Profiles
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.sharing import messages
from pytest_sandboxes.sharing.link import Link, ReceivingChannel, RemotePort
from pytest_sandboxes.sharing.messages import take

if TYPE_CHECKING:
    from pytest_sandboxes.sandbox import SandboxSlot
    from pytest_sandboxes.supply import Wish

__tracebackhide__ = True  # a failing test shows its own line, not ours


_TESTS_AT_ONCE = 1000  # announced in one message


class SharedPool:
    """What `Pool` is to the fixtures and hooks of a worker; raises what that raises."""

    def __init__(self, link: Link, profiles: Profiles) -> None:
        self._link = link
        self._catalog = profiles
        self._lock = threading.Lock()
        self._profiles: dict[Profile, int] = {}
        self._leases: dict[Lease, int] = {}

    exec_many = staticmethod(exec_many)

    def lease(
        self, backend: str, profile: Profile, *, slots: int = 1, holder: str = "", alone: bool = False
    ) -> Lease:
        """See `Pool.lease`."""
        asked = time.monotonic()

        def granted(answer: dict[str, object]) -> Lease:
            ports = [self._link.port(each) for each in take(answer, "slots", list)]
            lease = Lease(self, holder, profile, time.monotonic() - asked)
            # all that a lease needs of a sandbox is what a port has
            lease.bind(cast("list[SandboxSlot]", ports))
            for port in ports:
                port.lease = lease
            with self._lock:
                self._leases[lease] = take(answer, "lease", int)
            return lease

        wish = {
            "backend": backend,
            "profile": self.number_of(profile),
            "slots": slots,
            "holder": messages.sendable(holder),
            "alone": alone,
        }
        lease: Lease = self._link.call(
            "lease",
            wish,
            granted,
            timeout=None,
            give_up=lambda number: self._link.tell("release", {"lease": number}),
        )
        return lease

    def release(self, lease: Lease) -> None:
        """See `Pool.release`."""
        for port in _ports(lease.unbind()):
            self._link.forget(port)
        with self._lock:
            number = self._leases.pop(lease, None)
        if number is not None:
            self._link.tell("release", {"lease": number})

    def replace(self, lease: Lease, index: int) -> None:
        """See `Pool.replace`."""
        with self._lock:
            number = self._leases.get(lease, 0)

        def replaced(answer: dict[str, object]) -> None:
            port = self._link.port(answer.get("slot"))
            port.lease = lease
            old = lease.rebind(index, cast("SandboxSlot", port))
            self._link.forget(port if old is None else cast("RemotePort", old))

        self._link.call("reset", {"lease": number, "index": index}, replaced, timeout=None)

    def number_of(self, profile: Profile) -> int:
        """The number by which the controller knows a profile from now on."""
        with self._lock:
            number = self._profiles.get(profile)
            if number is None:
                number = self._profiles[profile] = len(self._profiles) + 1
                self._link.tell("profile", {"number": number, "profile": messages.pack_profile(profile)})
            return number

    def number_of_lease(self, lease: Lease) -> int:
        """The number by which the controller knows a lease; 0 once it has been given back."""
        with self._lock:
            return self._leases.get(lease, 0)

    def count_infra_retry(self) -> None:
        """See `Pool.count_infra_retry`."""
        self._link.tell("count_infra_retry", {})

    def pause(self) -> None:
        """Nothing: nobody can debug in a worker, and other workers' clocks have to go on."""

    def resume(self) -> None:
        """As `pause`."""

    def statistics(self) -> Statistics:
        """A snapshot of what all workers together have had."""
        counts = take(self._link.call("statistics", {}), "counts", dict)
        return Statistics(**counts)

    def profiles(self) -> tuple[ListedProfile, ...]:
        """See `Pool.profiles`; active are those that this worker's tests ask for."""
        return self._catalog.listed()

    def __repr__(self) -> str:
        return f"<SharedPool: {in_brief(self.statistics())}>"

    def close(self) -> None:
        """Give all leases back. May be called twice."""
        with self._lock:
            leases = list(self._leases)
        for lease in leases:
            self.release(lease)
        self._link.close()


class SharedSupply:
    """What `Supply` is to a worker's run: the same, in the controller."""

    def __init__(self, channel: ReceivingChannel, profiles: Profiles) -> None:
        self._link = Link(channel)
        self._link.tell("hello", {"pid": os.getpid()})
        self.pool = SharedPool(self._link, profiles)
        self._checked: set[tuple[str, str]] = set()

    def prepare(self, wishes: Iterable[Wish], tests: Mapping[str, bool]) -> None:
        """Announce what the collected tests need; the controller sees to it."""
        packed = [
            [
                wish.backend,
                self.pool.number_of(wish.profile),
                wish.leases,
                wish.at_once,
                messages.sendable(wish.holder),
            ]
            for wish in wishes
        ]
        self._link.tell("wishes", {"wishes": packed})
        named = [[messages.sendable(nodeid), may_be_repeated] for nodeid, may_be_repeated in tests.items()]
        for start in range(0, len(named), _TESTS_AT_ONCE):
            self._link.tell("tests", {"tests": named[start : start + _TESTS_AT_ONCE]})
        self._link.flush()  # before pytest-xdist says that the tests have been collected

    def check(self, backend: str, profile: Profile) -> None:
        """See `Supply.check`."""
        key = (backend, profile.digest)
        if key not in self._checked:
            self._link.call("check", {"backend": backend, "profile": self.pool.number_of(profile)})
            self._checked.add(key)

    def take_notes(self) -> list[str]:
        """None: the controller has them, and says them."""
        return []

    def keep(self, lease: Lease, nodeid: str) -> None:
        """See `Keeper.keep`."""
        self._link.call(
            "keep", {"lease": self.pool.number_of_lease(lease), "nodeid": messages.sendable(nodeid)}
        )

    def end_kept(self, nodeid: str) -> None:
        """See `Keeper.end`."""
        self._link.call("end_kept", {"nodeid": messages.sendable(nodeid)})

    @property
    def kept(self) -> list[str]:
        """None: the controller says what was kept."""
        return []

    def close(self, *, in_order: bool = False) -> None:  # noqa: ARG002 - its twin decides what that means
        """Give all back and end the connection. May be called twice."""
        self.pool.close()


def _ports(slots: Iterable[SandboxSlot]) -> list[RemotePort]:
    return [cast("RemotePort", slot) for slot in slots]

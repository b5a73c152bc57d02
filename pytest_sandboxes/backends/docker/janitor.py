"""Removing what killed runs have left on an Engine: containers, their volumes, and networks.

Who made something is written in its labels, which the Engine never changes: the run, the user and machine that own it,
and the process. Whether it is still needed is judged by what cannot be forged in passing:

- A process of this boot of this machine is looked up, by pid and time of start. While it lives, nothing of it is
  touched; once it is dead, all of it is removed.
- Of any other process, on another machine that shares the Engine or from before a reboot, nothing can be looked up. A
  lease that expires would have to be renewed, and labels cannot be. But a container is its own lease: the agent, its
  first process, ends without its controller's heartbeat, and the Engine then removes it. So one that runs is needed, or
  will be gone in half a minute. One that does not run, and is older than any start takes, is not needed. A network
  or a volume without containers that is a day old is not needed either, and if it was, its run makes a new one.

A container that waits for the next run has no process: in its name is the time by which its agent has ended it, and
one that is still there after that is removed. Whoever takes it over names it after itself.

Ages are by the Engine's clock, which has also set the dates: its machine's and ours may differ.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pytest_sandboxes.backends.docker.engine import CALL_TIMEOUT, Engine
from pytest_sandboxes.backends.docker.removal import remove, remove_volume
from pytest_sandboxes.backends.owner import owner, process
from pytest_sandboxes.errors import SandboxStartError

if TYPE_CHECKING:
    import docker

PREFIX = "pytest-sandboxes-"
_RUN, _OWNER, _PROCESS = (f"pytest-sandboxes.{name}" for name in ("run", "owner", "process"))
_STARTED_BY_THEN = timedelta(seconds=4 * CALL_TIMEOUT)  # making, attaching and starting are a call each
_UNUSED_BY_THEN = timedelta(days=1)
_PARKED, _HELD = f"{PREFIX}parked-", f"{PREFIX}held-"
_ENDED_BY_THEN = 60.0  # seconds after an agent's own deadline
_NOT_RUNNING = {"created", "exited", "dead"}  # one that is paused, say, is still its run's


def labels(run: str) -> dict[str, str]:
    """Labels of whatever is made for the run `run` of this process."""
    return {_RUN: run, _OWNER: owner(), _PROCESS: process(os.getpid())}


def sweep(engine: Engine) -> list[str]:
    """Remove what this user's dead runs have left on the Engine, and nobody else's.

    Returns what that was. Raises `SandboxStartError` when the Engine fails.
    """
    removed = []
    with engine.errors_as_start_errors("cannot remove what earlier runs have left"):
        api = engine.api()
        now = engine.time()
        ours = {"label": [f"{_OWNER}={owner()}"]}
        for name, container in _containers(api):
            if _is_to_go(name, container, now) and remove(api, container["Id"]):
                removed += [f"container {name}"]
        for network in api.networks(filters=ours):
            stale = now - datetime.fromisoformat(network["Created"]) > _UNUSED_BY_THEN
            if _is_a_runs(network["Name"], network) and _is_abandoned(network, stale=stale):
                removed += _unless_in_use(api.remove_network, network["Id"], f"network {network['Name']}")
        for volume in api.volumes(filters=ours)["Volumes"] or ():
            stale = now - datetime.fromisoformat(volume["CreatedAt"]) > _UNUSED_BY_THEN
            if _is_a_runs(volume["Name"], volume) and _is_abandoned(volume, stale=stale):
                removed += _unless_in_use(api.remove_volume, volume["Name"], f"volume {volume['Name']}")
    return removed


def remove_parked(engine: Engine) -> list[str]:
    """Remove all containers of this user's that wait for a run, and return what they are called. Raises as `sweep`."""
    with engine.errors_as_start_errors("cannot remove what is parked"):
        api = engine.api()
        return [
            f"container {name}"
            for name, container in _containers(api)
            if name.startswith(_PARKED) and remove(api, container["Id"])
        ]


def _containers(api: docker.APIClient) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each name of this user's containers, with what the Engine says of the container."""
    for container in api.containers(all=True, filters={"label": [f"{_OWNER}={owner()}"]}):
        for name in container["Names"] or ():
            yield name.lstrip("/"), container


def parked_name(container: str, ends: float) -> str:
    """What a container is called that waits, and ends by itself at a time of the Engine's clock."""
    return f"{_PARKED}{ends:.0f}-{container[:12]}"


def held_name(container: str) -> str:
    """What a container is called that this process has taken over."""
    return f"{_HELD}{_in_name(process(os.getpid()))}-{container[:12]}"


def _is_to_go(name: str, container: Mapping[str, Any], now: datetime) -> bool:
    if name.startswith(_PARKED):
        ends = name.removeprefix(_PARKED).partition("-")[0]
        return ends.isdecimal() and now.timestamp() > int(ends) + _ENDED_BY_THEN
    age = now - datetime.fromtimestamp(container["Created"], UTC)
    stale = container["State"] in _NOT_RUNNING and age > _STARTED_BY_THEN
    if name.startswith(_HELD):
        return not _lives_as(name.removeprefix(_HELD).rpartition("-")[0], stale=stale)
    return _is_a_runs(name, container) and _is_abandoned(container, stale=stale)


def _lives_as(holder: str, *, stale: bool) -> bool:
    """Whether a process lives of which only `_in_name` is known."""
    place, _, rest = holder.partition("-")
    pid, _, _ = rest.partition("-")
    if not pid.isdecimal() or place != _in_name(process(os.getpid())).partition("-")[0]:
        return not stale
    return _in_name(process(int(pid))) == holder


def _in_name(process: str) -> str:
    """A process as `_process` has it, in letters that a name may have."""
    place, _, rest = process.partition("]")
    pid, _, started = rest.strip().partition(" ")
    return f"{hashlib.sha256(place.encode()).hexdigest()[:16]}-{pid}-{started}"


def remove_rest(engine: Engine, run: str) -> None:
    """Remove what a run still has at its end, but for what is kept; the next sweep takes what stays.

    Containers of which the Engine's answer was lost, and volumes.
    """
    with (
        contextlib.suppress(SandboxStartError),
        engine.errors_as_start_errors("cannot remove what is left of the run"),
    ):
        api = engine.api()
        ours = {"label": [f"{_RUN}={run}"]}
        for container in api.containers(all=True, filters=ours):
            if any(_is_a_runs(name.lstrip("/"), container) for name in container["Names"] or ()):
                remove(api, container["Id"])
        for volume in api.volumes(filters=ours)["Volumes"] or ():
            remove_volume(api, volume["Name"])


def _is_a_runs(name: str, thing: Mapping[str, Any]) -> bool:
    """Whether a run has made it, and has it still.

    One that is kept has another name. Labels alone say less: they are inherited from an image that was made of a
    sandbox.
    """
    run = thing["Labels"].get(_RUN)
    return bool(run) and (name == f"{PREFIX}{run}" or name.startswith(f"{PREFIX}{run}-"))


def _is_abandoned(thing: Mapping[str, Any], *, stale: bool) -> bool:
    alive = _is_alive(thing["Labels"].get(_PROCESS, ""))
    return stale if alive is None else not alive


def _unless_in_use(remove_it: Callable[[str], None], thing: str, shown: str) -> list[str]:
    """Remove something; return how it is `shown`, or nothing where it stays."""
    from docker.errors import APIError

    try:
        remove_it(thing)
    except APIError:  # some container needs it, or it is gone already
        return []
    return [shown]


def _is_alive(described: str) -> bool | None:
    """Whether a process is one of this machine's; None where that cannot be told from here."""
    words = described.split()
    ours = process(os.getpid()).split()
    if len(words) != len(ours) or not ours or words[:2] != ours[:2] or not words[2].isdecimal():
        return None
    return process(int(words[2])) == described

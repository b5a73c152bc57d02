"""Whose a sandbox is, and ending those that killed runs have left.

A sandbox is its own lease: without its controller's heartbeat its agent ends, and with the agent the sandbox does,
within half a minute, or a minute if it has just been created. So of a run on another machine nothing has to be known:
what still runs there is needed, or ends by itself. A run of this machine is looked up by its process, and what a dead
one has left is ended at once. Tags are written by whoever has the account; one that names another's process harms its
writer.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import warnings
from typing import TYPE_CHECKING, Any

from pytest_sandboxes.backends.modal.service import CALL_TIMEOUT, Service
from pytest_sandboxes.backends.owner import owner, process

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import modal

_RUN, _OWNER, _PROCESS, _PROFILE, _PARKED = (
    f"pytest-sandboxes.{name}" for name in ("run", "owner", "process", "profile", "parked")
)
_FORBIDDEN = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST = 63  # letters in a tag's value
_AT_ONCE = 10  # sandboxes that the service is asked about


def tags(run: str, digest: str) -> dict[str, str]:
    """Tags of a sandbox of the run `run` of this process, for the profile with that digest."""
    return {_RUN: run, _OWNER: _owner(), _PROCESS: process_tag(os.getpid()), _PROFILE: digest}


def parked_tags(run: str, digest: str, expires: float) -> dict[str, str]:
    """Tags of a sandbox that waits for another run until a time of this machine's clock."""
    return {_RUN: run, _OWNER: _owner(), _PROFILE: digest, _PARKED: f"{expires:.0f}"}


def sweep(service: Service, app: modal.App) -> int:
    """End what this user's dead runs on this machine have left in an app, and nobody else's; return how many.

    Raises `SandboxStartError` when the service fails.
    """
    return len(_end(service, {"app_id": app.app_id}, is_abandoned))


def remove_parked(service: Service) -> list[str]:
    """End all of this user's that wait for a run, and what `sweep` ends, in whichever app; return a line for each.

    Raises as `sweep`.
    """
    with (
        warnings.catch_warnings()
    ):  # the client would rather be asked for one app, but which there are it does not say
        warnings.simplefilter("ignore")
        ended = _end(service, {}, lambda found: _PARKED in found or is_abandoned(found))
    return [
        f"sandbox {name}, {'parked' if _PARKED in found else 'of a run that is dead'}"
        for name, found in ended.items()
    ]


def _end(
    service: Service, where: Mapping[str, Any], is_to_go: Callable[[Mapping[str, str]], bool]
) -> dict[str, Mapping[str, str]]:
    """End this user's sandboxes `where` they are, if their tags tell so; return these tags, by the sandboxes' ids."""
    import modal

    client = service.client()
    few = asyncio.Semaphore(_AT_ONCE)

    async def look_at(sandbox: modal.Sandbox) -> Mapping[str, str] | None:
        async with few:
            try:
                found: Mapping[str, str] = await sandbox.get_tags.aio()
                if not is_to_go(found):
                    return None
                await sandbox.terminate.aio()
            except modal.exception.NotFoundError:  # it has ended meanwhile
                return None
            return found

    async def end() -> dict[str, Mapping[str, str]]:
        listed = [
            each async for each in modal.Sandbox.list.aio(tags={_OWNER: _owner()}, client=client, **where)
        ]
        # another run may have hundreds
        ended = await asyncio.gather(*(look_at(each) for each in listed))
        return {each.object_id: tags for each, tags in zip(listed, ended, strict=True) if tags is not None}

    return service.call(end, "cannot end what earlier runs have left", 4 * CALL_TIMEOUT)


def is_abandoned(found: Mapping[str, str]) -> bool:
    """Whether a sandbox with these tags is that of a process of this machine which is dead; one that waits is not."""
    described = found.get(_PROCESS, "")
    place, _, rest = described.partition("-")
    pid = rest.partition("-")[0]
    ours = process_tag(os.getpid())
    if not ours or place != ours.partition("-")[0] or not re.fullmatch("[0-9]{1,10}", pid):
        return False
    return process_tag(int(pid)) != described


def process_tag(pid: int) -> str:
    """A process of this boot of this machine, as tags can say it and no other ever is called; empty if none is."""
    words = process(pid).split()
    if len(words) != 4:
        return ""
    place = hashlib.sha256(" ".join(words[:2]).encode()).hexdigest()[:16]
    return f"{place}-{words[2]}-{words[3]}"


def _owner() -> str:
    """The owner, as tags can say it: readable, and told from all who are written alike."""
    whole = owner()
    digest = hashlib.sha256(whole.encode()).hexdigest()[:12]
    return f"{_FORBIDDEN.sub('-', whole)[: _LONGEST - 13]}-{digest}"

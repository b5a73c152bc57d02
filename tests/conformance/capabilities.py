"""What each backend promises, in one place: a test that needs more than its backend promises is not run on it."""

from __future__ import annotations

import enum

from pytest_sandboxes.settings import Settings


class Capability(enum.Enum):
    """A promise that not every backend makes, or not everywhere."""

    ISOLATION = "code reaches neither the machine, nor its user's files and secrets, nor other slots"
    ALLOW_LIST = "of files there are an allow-list of this machine's, and none of an image"
    CONTAINMENT = "no code, however hostile, outlives its exec or its slot"
    QUOTAS = "what code writes, and how many processes it starts, is limited without being asked for"
    MEMORY_LIMIT = "`memory` can be kept here"
    PIDS_LIMIT = "`pids` can be kept here"


def capabilities(backend: str, settings: Settings) -> frozenset[Capability]:
    """What `backend` promises in a run with these settings."""
    if backend != "local":
        return frozenset(Capability) - {Capability.ALLOW_LIST}
    if settings.isolation == "none":
        return frozenset()  # cleanup of cooperative code, and nothing else
    return (
        frozenset({Capability.ISOLATION, Capability.ALLOW_LIST, Capability.CONTAINMENT, Capability.QUOTAS})
        | _limits()
    )


def _limits() -> frozenset[Capability]:
    """Control groups can be made by root, and by users to whom one has been delegated."""
    from pytest_sandboxes.backends.cgroups import Groups, Limits

    groups = Groups()
    wanted = {Capability.MEMORY_LIMIT: Limits(1, None), Capability.PIDS_LIMIT: Limits(None, 1)}
    return frozenset(capability for capability, limits in wanted.items() if groups.can(limits))

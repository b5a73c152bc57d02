"""What each backend promises, in one place: a test that needs more than its backend promises is not run on it."""

from __future__ import annotations

import enum

from pytest_sandboxes.settings.settings import Settings


class Capability(enum.Enum):
    """A promise that not every backend makes, or not everywhere."""

    ISOLATION = "code reaches neither the machine, nor its user's files and secrets, nor other slots"
    ALLOW_LIST = "of files there are an allow-list of this machine's, and none of an image"
    CONTAINMENT = "no code, however hostile, outlives its exec or its slot"
    QUOTAS = "what code writes is limited, without being asked for"
    PROCESS_QUOTAS = "how many processes it starts is limited, without being asked for"
    MEMORY_LIMIT = "`memory` can be kept here"
    MEMORY_VERDICTS = "that it was the memory limit is told of whatever ends there"
    PIDS_LIMIT = "`pids` can be kept here"
    CPU_LIMIT = "`cpu` can be kept here"
    CPU_VERDICTS = "that `cpu` is kept can be told by clocks, whoever keeps it"
    FILE_COUNT = "there may be no more files than `disk` could hold with content"
    OWN_SANDBOX = (
        "a slot has its sandbox to itself: nobody sees its processes, shares its loopback or its memory"
    )
    FREE_PORTS = "a port that code has used is free at once for whoever comes next"
    TREES = "archives, uploads and downloads"
    MEASUREMENTS = "how much memory and processor time a command took"
    DAEMONS = "a daemon lives as long as the command that has started it, whatever else ends"
    ANY_EXIT_CODE = "an exit code above 128 is told from the end by a signal"
    CLOSED_INPUT = "a popen that has closed its standard input says so while it runs"
    EMPTY_BOUNDING_SET = "no program, whatever its file says, could have a capability"
    PYTHON = "code has a `python3`, with its standard library"


_WITHOUT_PYTHON = {"busybox", "shell"}
"""Profiles of tests/engine/sandboxes.yaml whose image has none."""
_SERVED_BY_SHELL = {"shell"}
"""Those in which no agent runs, provided that the Python that runs here is not carried there."""
_AGENTS_ONLY = {
    Capability.TREES,
    Capability.MEASUREMENTS,
    Capability.DAEMONS,
    Capability.ANY_EXIT_CODE,
    Capability.CLOSED_INPUT,
    Capability.EMPTY_BOUNDING_SET,
}
_NOT_ON_MODAL = {Capability.QUOTAS, Capability.MEMORY_VERDICTS, Capability.CPU_VERDICTS}
"""The service limits memory and cores, but no slot's disk, and is not known to say what its kernel has killed; the emulator
of processes is told of the limits, and keeps none."""
_SHARED = {"shared"}
"""Those with several slots in a sandbox. Its memory is limited, but whose fault it is that it runs out cannot be told."""


def capabilities(backend: str, settings: Settings) -> frozenset[Capability]:
    """What `backend` promises in a run with these settings."""
    if backend != "local":
        missing = {Capability.PYTHON} if settings.profile in _WITHOUT_PYTHON else set()
        if settings.profile in _SERVED_BY_SHELL:
            missing |= _AGENTS_ONLY
        if settings.profile in _SHARED and settings.isolation is None:
            missing.add(Capability.OWN_SANDBOX)
        if backend == "modal":
            missing |= _NOT_ON_MODAL
            if Capability.OWN_SANDBOX in missing:  # whose loopback is its neighbours' as well
                missing.add(Capability.FREE_PORTS)
        return frozenset(Capability) - {Capability.ALLOW_LIST} - missing
    if settings.isolation == "none":
        # cleanup of cooperative code, and nothing else
        return frozenset({Capability.PYTHON, Capability.OWN_SANDBOX, Capability.FREE_PORTS, *_AGENTS_ONLY})
    own = {Capability.ISOLATION, Capability.ALLOW_LIST, Capability.CONTAINMENT, Capability.MEMORY_VERDICTS}
    own |= {Capability.QUOTAS, Capability.PROCESS_QUOTAS, Capability.PYTHON, Capability.OWN_SANDBOX}
    own |= {Capability.FREE_PORTS, Capability.CPU_VERDICTS}
    return frozenset(own | _AGENTS_ONLY) | _limits()


def _limits() -> frozenset[Capability]:
    """Control groups can be made by root, and by users to whom one has been delegated."""
    from pytest_sandboxes.backends.cgroups import Groups, Limits

    groups = Groups()
    wanted = {Capability.MEMORY_LIMIT: Limits(1, None), Capability.PIDS_LIMIT: Limits(None, 1)}
    wanted[Capability.CPU_LIMIT] = Limits(None, None, 1)
    return frozenset(capability for capability, limits in wanted.items() if groups.can(limits))

"""What the service and the agent are told of a sandbox, as a profile has it."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from pytest_sandboxes.backends import seccomp
from pytest_sandboxes.backends.base import AgentSetup, SlotSetup, Source
from pytest_sandboxes.backends.modal import programs, sandboxes, section
from pytest_sandboxes.backends.modal.images import Image
from pytest_sandboxes.profiles.profile import Profile

if TYPE_CHECKING:
    import modal

PROCESS_LIMIT = 256  # of a slot; a brake on fork bombs


def secrets(profile: Profile) -> list[modal.Secret]:
    """The account's, whose values the agent's environment has."""
    import modal

    return [modal.Secret.from_name(name) for name in profile.secrets]


def options(profile: Profile, described: section.Section) -> dict[str, Any]:
    """What the service is told of a sandbox, beside its image and its name."""
    import modal

    told: dict[str, Any] = {
        "timeout": ceil(profile.max_lifetime or sandboxes.LONGEST_LIFE),
        "block_network": profile.network == "none",
    }
    if profile.idle_timeout is not None:  # idle is one without a command: with an agent, none is
        told["idle_timeout"] = max(ceil(profile.idle_timeout), programs.ARRIVAL)
    if profile.gpu is not None:
        told["gpu"] = profile.gpu
    if profile.cpu is not None:  # what is asked for, and the limit
        told["cpu"] = (profile.cpu, profile.cpu)
    if profile.memory is not None:
        told["memory"] = (profile.memory, profile.memory)
    if described.regions:
        told["region"] = list(described.regions)
    if described.cloud is not None:
        told["cloud"] = described.cloud
    if described.cidrs is not None:
        told["outbound_cidr_allowlist"] = list(described.cidrs)
    if described.domains is not None:
        told["outbound_domain_allowlist"] = list(described.domains)
    if described.volumes:  # read-only: what code leaves in one, no reset would remove
        told["volumes"] = {
            path: modal.Volume.from_name(name).read_only() for path, name in described.volumes.items()
        }
    return told


def agent_setup(
    profile: Profile, image: Image, uids: Sequence[int], source: Source | None
) -> tuple[AgentSetup, list[str]]:
    """What the agent is told, and the directories that have to be there before; `uids` are the users of slots."""
    memory = profile.memory is not None
    if profile.isolation == "sandbox":
        setup = AgentSetup(
            (SlotSetup(image.workdir),),
            {"LANG": "C.UTF-8", "HOSTNAME": None},
            filter=seccomp.program(image.architecture, agent=seccomp.UNKNOWN),
            counts_oom_kills=memory,
            comes_first=image.is_root,
            source=source,
        )
        return setup, []
    base = profile.workspace_base.rstrip("/")
    places = [f"{base}/{number}" for number in range(profile.slots_per_sandbox)]
    slots = tuple(
        SlotSetup(
            f"{place}/workspace",
            {"HOME": f"{place}/home", "TMPDIR": f"{place}/temp"},
            (f"{place}/home", f"{place}/temp"),
            (uid, uid),
        )
        for uid, place in zip(uids, places, strict=True)
    )
    setup = AgentSetup(
        slots,
        {"LANG": "C.UTF-8", "USER": "sandbox", "HOSTNAME": None},
        process_limit=profile.pids or PROCESS_LIMIT,
        shared=image.shared,
        filter=seccomp.program(
            image.architecture, agent=seccomp.UNKNOWN, message_queues=programs.QUEUES in image.shared
        ),
        counts_oom_kills=memory,
        comes_first=True,
        source=source,
    )
    return setup, places

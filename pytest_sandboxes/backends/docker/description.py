"""What the Engine and the agent are told of a container, as a profile has it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from pytest_sandboxes.backends import seccomp
from pytest_sandboxes.backends.base import DEFAULT_DISK_MEGABYTES, AgentSetup, SlotSetup, Source
from pytest_sandboxes.backends.docker.images import Image
from pytest_sandboxes.backends.users import is_root, users
from pytest_sandboxes.payload import payload
from pytest_sandboxes.profiles.profile import Profile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import docker

HOME = "/home/sandbox"
SHARED = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue")  # noqa: S108 - the container's own
# What the agent needs as root to act for its slots. Code gets none of them.
_AGENT_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETPCAP", "SETUID")
# The agent's alone, and only until it has told the kernel whom to prefer, and what code may not reach.
_RANK_CAPABILITIES = ("SYS_NICE",)
_NETWORK_CAPABILITIES = ("NET_ADMIN",)
# What images expect of their root: Docker's default without raw sockets, devices, chroot and file capabilities.
_IMAGE_CAPABILITIES = (*_AGENT_CAPABILITIES, "FSETID", "NET_BIND_SERVICE")
PROCESS_LIMIT = 256  # of a slot; a brake on fork bombs
_FILES_PER_MEGABYTE = 512
OWN_PROCESSES = 64  # beside those of code: the agent, its workers and supervisors


def describe(
    profile: Profile, image: Image, network: str | None
) -> tuple[AgentSetup, dict[str, Any], dict[str, Any]]:
    """What the agent is told, and what the Engine is told of the container and of its host's part."""
    slots = slots_per_sandbox(profile)
    process_limit = profile.pids or PROCESS_LIMIT
    all_processes = slots * process_limit + OWN_PROCESSES
    host_config = hardening(profile, network) | {
        "pids_limit": all_processes if profile.pids is None or slots > 1 else profile.pids
    }
    memory = profile.memory is not None
    user = (profile.user or image.user) if profile.isolation == "sandbox" else ""
    agent_is_root = is_root(user)
    passing_capabilities = [
        *(_RANK_CAPABILITIES if agent_is_root else ()),
        *(_NETWORK_CAPABILITIES if network else ()),
    ]
    if profile.isolation == "sandbox":
        host_config["cap_add"] = [*_IMAGE_CAPABILITIES, *passing_capabilities]
        setup = AgentSetup(
            (SlotSetup(image.workdir),),
            {"LANG": "C.UTF-8", "HOSTNAME": None},
            filter=seccomp.program(image.architecture),
            sacrifice_children=memory,
            counts_oom_kills=memory,
            internet_only=network is not None,
            comes_first=agent_is_root,
        )
        return setup, {"user": user or None, "working_dir": "/"}, host_config
    megabytes = profile.disk or DEFAULT_DISK_MEGABYTES
    setups, own, shared = (_only_slot if slots == 1 else _slots)(profile)
    options = tmpfs_options(megabytes)
    host_config |= {
        "cap_add": [*_AGENT_CAPABILITIES, *passing_capabilities],
        "read_only": True,
        "tmpfs": {
            **{place: f"{options}1777" for place in shared if not place.startswith("/dev")},
            **dict.fromkeys(own, f"{options}0700"),
        },
        "shm_size": megabytes << 20,
    }
    setup = AgentSetup(
        setups,
        {"LANG": "C.UTF-8", "USER": "sandbox", "HOSTNAME": None},
        filter=seccomp.program(image.architecture),
        process_limit=process_limit,
        shared=shared,
        sacrifice_children=memory,
        counts_oom_kills=memory,
        internet_only=network is not None,
        comes_first=agent_is_root,
    )
    return setup, {"user": "0:0", "working_dir": "/"}, host_config


def tmpfs_options(megabytes: int) -> str:
    """Options of a place that holds so much; the mode follows.

    Files without content take the kernel's memory as well: there may be no more of them than could have any.
    """
    return f"rw,exec,nosuid,nodev,size={megabytes}m,nr_inodes={megabytes * _FILES_PER_MEGABYTE},mode="


def recipe_digest(profile: Profile, image: Image) -> str:
    """What tells containers apart of which one cannot stand in for the other, users aside, who differ in each.

    It covers the profile, the image behind its name, what the Engine and the agent are told, and the agent's program.
    """
    setup, config, host_config = describe(
        profile, image, profile.network if profile.network != "none" else None
    )
    whole = (profile.digest, image.id, with_users(setup, ()), config, host_config)
    return hashlib.sha256(repr(whole).encode() + payload(same_interpreter=False)).hexdigest()


def setup_of(profile: Profile, image: Image, who: Sequence[int]) -> AgentSetup:
    """What the agent of a container was told, of which the code of each slot is one of these users."""
    setup, _, _ = describe(profile, image, profile.network if profile.network != "none" else None)
    source = profile.workspace_source  # a directory of the image
    return replace(with_users(setup, who), source=None if source is None else Source(source))


def with_users(setup: AgentSetup, who: Sequence[int]) -> AgentSetup:
    """The same for other users, with none where there are no more."""
    pairs = zip_longest(setup.slots, who)
    return replace(
        setup, slots=tuple(replace(slot, user=None if uid is None else (uid, uid)) for slot, uid in pairs)
    )


def hardening(profile: Profile, network: str | None) -> dict[str, Any]:
    """What the Engine is told of the host's part of every container, whatever serves it."""
    host_config: dict[str, Any] = {
        "auto_remove": True,
        "network_mode": network or "none",
        "ipc_mode": "private",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "log_config": {
            "Type": "none",
            "Config": {},
        },  # what the agent sends is not to be kept on the Engine's disk
        "init": False,
        "sysctls": {"net.ipv4.tcp_max_tw_buckets": "0"},  # a port is free for the next lease at once
    }
    if profile.cpu is not None:
        host_config["nano_cpus"] = int(profile.cpu * 1_000_000_000)
    if profile.memory is not None:
        host_config["mem_limit"] = host_config["memswap_limit"] = profile.memory << 20
    return host_config | _devices(profile.gpu)


def slots_per_sandbox(profile: Profile) -> int:
    """See `Backend.slots_per_sandbox`."""
    return 1 if profile.isolation == "sandbox" else profile.slots_per_sandbox


def _only_slot(profile: Profile) -> tuple[tuple[SlotSetup, ...], list[str], tuple[str, ...]]:
    """The slot of a container that has one, the places of its own, and those that any code can write to."""
    (uid,) = users.take(1)
    setup = SlotSetup(profile.workspace_base, {"HOME": HOME, "TMPDIR": "/tmp"}, (HOME,), (uid, uid))  # noqa: S108 - its own
    return (setup,), [profile.workspace_base.rstrip("/")], (*SHARED, "/home")


def _slots(profile: Profile) -> tuple[tuple[SlotSetup, ...], list[str], tuple[str, ...]]:
    """As `_only_slot`, for several: each is another user, with a place of its own for all but the shared ones."""
    count, base = profile.slots_per_sandbox, profile.workspace_base.rstrip("/")
    own = [f"{base}/{number}" for number in range(count)]
    setups = tuple(
        SlotSetup(
            f"{place}/workspace",
            {"HOME": f"{place}/home", "TMPDIR": f"{place}/temp"},
            (f"{place}/home", f"{place}/temp"),
            (uid, uid),
        )
        for uid, place in zip(users.take(count), own, strict=True)
    )
    return setups, own, SHARED


def _devices(gpu: str | None) -> dict[str, Any]:
    """The request for GPUs of a profile's `gpu`, of which a Docker Engine knows the number only."""
    if gpu is None:
        return {}
    from docker.types import DeviceRequest

    _, colon, number = gpu.partition(":")
    return {"device_requests": [DeviceRequest(count=int(number) if colon else 1, capabilities=[["gpu"]])]}


def read_only_volumes(
    image: Image, host_config: Mapping[str, Any], prefix: str, labels: Mapping[str, str]
) -> list[docker.types.Mount]:
    """The image's volumes, read-only like the rest of its files: what code leaves there, no reset would remove.

    An Engine makes no nameless volume read-only. So they have names, and all containers of the run share them.
    """
    from docker.types import Mount

    names = {volume: f"{prefix}-{image.id[-12:]}-{number}" for number, volume in enumerate(image.volumes)}
    return [
        Mount(volume, name, read_only=True, labels=dict(labels))
        for volume, name in names.items()
        if volume.rstrip("/") not in host_config["tmpfs"]
    ]

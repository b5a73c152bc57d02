"""Containers that a shell serves: which profiles they can keep, how they are made and hardened."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytest_sandboxes.backends.base import DEFAULT_DISK_MEGABYTES, AgentSetup, KeptSlot, SlotSetup
from pytest_sandboxes.backends.docker import containers, description
from pytest_sandboxes.backends.docker.attached import start_attached
from pytest_sandboxes.backends.docker.engine import Engine
from pytest_sandboxes.backends.docker.images import Image
from pytest_sandboxes.backends.docker.shell import scripts
from pytest_sandboxes.backends.docker.shell.stand_in import StandIn
from pytest_sandboxes.backends.users import is_root, users
from pytest_sandboxes.connection import HEARTBEAT_DEADLINE
from pytest_sandboxes.errors import UnsupportedError
from pytest_sandboxes.profiles.profile import Profile

if TYPE_CHECKING:
    import docker

# To end processes of the slot's user. Code has none.
_CAPABILITIES = ("KILL",)
# Beside those of code that is not to be told apart from them: the main command, its watchdog, the one that buries, and
# the threads with which the Engine comes in.
_OWN_PROCESSES = 16


def check(profile: Profile, image: Image) -> None:
    """Raise `UnsupportedError` for what a profile asks for and only an agent can keep."""
    user = profile.user or image.user
    if profile.setup:
        field, why = "setup", "only an agent runs it"
    elif profile.workspace_source:
        field, why = "workspace_source", "only an agent fills workspaces"
    elif profile.slots_per_sandbox > 1:
        field, why = "slots_per_sandbox", "a shell serves one slot"
    elif profile.network == "outbound":
        field, why = "network", "only an agent keeps code from what is near"
    elif profile.isolation == "sandbox" and is_root(user):
        field, why = (
            "isolation",
            "code that is root could take over the shell that ends it; set user to another one",
        )
    elif profile.secrets:
        field, why = "secrets", "the Engine would be told them, and may log what it is told"
    else:
        return
    raise UnsupportedError(
        f"{profile.source(field)}: {field} of profile {profile.name!r} cannot be {getattr(profile, field)!r} in image "
        f"{image.name!r}, in which no agent can run: {why}, or use an image with Python 3.8 or newer"
    )


class ShellContainer(containers.EngineContainer):
    """A container whose main command is a loop of `sh`, and the stand-in that serves it."""

    payload = b""

    def __init__(
        self,
        engine: Engine,
        container: str,
        main: socket.socket,
        setup: AgentSetup,
        *,
        user: str,
        image: Image,
    ) -> None:
        super().__init__(engine, container, setup)
        self._user = user
        self._stand_in = StandIn(
            engine.api(),
            container,
            main,
            user=user,
            image=image.name,
            counts_oom_kills=setup.counts_oom_kills,
        )
        self.stream = self._stand_in.near
        self._stand_in.start()

    def last_words(self) -> str:
        return self._stand_in.complaint

    def reason_lost(self) -> str:
        return self._stand_in.reason

    def end(self) -> None:
        super().end()
        self._stand_in.close()

    def keep(self, slot: SlotSetup) -> KeptSlot:
        return self._keep(self._user, slot.workspace)


def start(
    engine: Engine, profile: Profile, image: Image, *, name: str, labels: Mapping[str, str]
) -> ShellContainer:
    """Start a container called `name`. Raises `SandboxStartError` with the cause, nothing left behind."""
    setup, user, host_config = _recipe(profile, image)
    crowded = "crowded" if profile.isolation == "sandbox" else ""
    if profile.isolation != "sandbox":
        host_config["mounts"] = description.read_only_volumes(
            image, host_config, name.rpartition("-")[0], labels
        )
    with engine.errors_as_start_errors(f"cannot start a container of image {image.name}"):
        try:
            made, stream = start_attached(
                engine.api(),
                image.id,
                ["/bin/sh", "-c", scripts.MAIN_LOOP, "sh", str(int(HEARTBEAT_DEADLINE)), crowded],
                name=name,
                labels=labels,
                host_config=host_config,
                user="0:0",
                working_dir="/",
            )
        except BaseException as error:
            containers.explain(error, engine, profile, image)
            raise
    return ShellContainer(engine, made, stream, setup, user=user, image=image)


def _recipe(profile: Profile, image: Image) -> tuple[AgentSetup, str, dict[str, Any]]:
    """What the stand-in is told, who code is, and what the Engine is told of the host's part."""
    process_limit = profile.pids or description.PROCESS_LIMIT
    host_config = description.hardening(profile, None) | {
        "init": True,  # buries what a shell would not
        "cap_add": list(_CAPABILITIES),
        "ulimits": [_limit("core", 0)],
    }
    memory = profile.memory is not None
    if profile.isolation == "sandbox":
        # the image's user may be a neighbour's, too, and the host's: a limit of the user's would count all of them
        host_config["pids_limit"] = process_limit + _OWN_PROCESSES
        setup = AgentSetup(
            (SlotSetup(image.workdir),), {"LANG": "C.UTF-8", "HOSTNAME": None}, counts_oom_kills=memory
        )
        return setup, profile.user or image.user, host_config
    megabytes = profile.disk or DEFAULT_DISK_MEGABYTES
    (uid,) = users.take(1)
    options = description.tmpfs_options(megabytes)
    workspace = profile.workspace_base.rstrip("/")
    host_config["ulimits"] += [_limit("nproc", process_limit)]
    host_config |= {
        "pids_limit": process_limit + description.OWN_PROCESSES,
        "read_only": True,
        "tmpfs": {
            **{place: f"{options}1777" for place in description.SHARED if not place.startswith("/dev")},
            **dict.fromkeys((workspace, description.HOME), f"{options}0755,uid={uid},gid={uid}"),
        },
        "shm_size": megabytes << 20,
    }
    setup = AgentSetup(
        (SlotSetup(profile.workspace_base, {"HOME": description.HOME, "TMPDIR": "/tmp"}),),  # noqa: S108 - its own
        {"LANG": "C.UTF-8", "USER": "sandbox", "HOSTNAME": None},
        counts_oom_kills=memory,
    )
    return setup, f"{uid}:{uid}", host_config


def _limit(name: str, value: int) -> docker.types.Ulimit:
    from docker.types import Ulimit

    return Ulimit(name=name, soft=value, hard=value)

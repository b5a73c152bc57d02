"""Backend `local`: sandboxes on this machine, by bubblewrap, one slot in each, thrown away after every lease."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pytest_sandboxes.backends import bare, bubblewrap
from pytest_sandboxes.backends.base import Backend, BackendOptions, Checked, Launched, Source, untold
from pytest_sandboxes.backends.cgroups import Groups, Limits
from pytest_sandboxes.backends.isolated import START_TIMEOUT, Launcher
from pytest_sandboxes.backends.ownership import sweep_scratch
from pytest_sandboxes.backends.promises import Promises
from pytest_sandboxes.backends.staged_sources import StagedSource, StagedSources
from pytest_sandboxes.errors import IsolationUnavailableError, SandboxStartError
from pytest_sandboxes.profiles.profile import Profile

_LAUNCH_TIMEOUT = START_TIMEOUT + 10.0
_RECIPES = (
    "image",
    "app_name",
    "target_slots_per_sandbox",
)
_LIMITS = ("memory", "pids", "cpu")
_NOT_HERE = {
    "gpu": "backends docker and modal can",
    "user": "code always runs as an unprivileged user there; backend docker can choose one",
}


class LocalBackend(Backend):
    """Starts sandboxes from one thread of its own, which as root sees the file system differently."""

    name = "local"

    def __init__(self, options: BackendOptions) -> None:
        self._options = options
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix="sandboxes-local")
        self._launcher = Launcher()
        self._sources = StagedSources(options)
        self._groups: Groups | None = None
        self._swept = False

    def why_not_parked(self, profile: Profile) -> str:  # noqa: ARG002 - the same for all
        """See `Backend.why_not_parked`."""
        return "those of backend local end with it by design, and start in 30 ms"

    # -- promises

    def check(self, profile: Profile) -> Checked:
        """See `Backend.check`."""
        promises = Promises(profile, self._options)
        promises.refuse_set(_NOT_HERE, "backend local has none")
        self.secrets(profile)
        if profile.workspace_source is not None and profile.workspace_source.startswith("/"):
            promises.refuse(
                "workspace_source",
                "backend local has no images: name a directory of the project, or use backend docker",
            )
        if profile.local:
            promises.refuse("local", "backend local has no settings of its own")
        isolated = self._isolated(profile)
        if isolated:
            promises.need_room_for_agent()
            hidden = bubblewrap.hidden_by(profile.workspace_base)
            if hidden is not None:
                raise promises.wrong(
                    "workspace_base",
                    f"sandboxes of backend local have {hidden} there, for reading only: choose another directory, such "
                    "as /workspace",
                )
            cores = os.cpu_count()
            if profile.cpu is not None and cores is not None and profile.cpu > cores:
                raise promises.wrong("cpu", f"this machine has {cores} cores: lower it")
            if profile.network != "none":
                promises.refuse("network", "backend local cannot give a sandbox a network without your own")
            kept = self._limits(profile)
            for field in _LIMITS:
                if getattr(profile, field) != getattr(kept, field):
                    promises.refuse(
                        field,
                        "this user may not make control groups here: run pytest as root or under "
                        "systemd-run --user --scope -p Delegate=yes, or use backend docker",
                    )
        else:
            for field in promises.set_fields((*_LIMITS, "disk")):
                promises.refuse(field, "nothing is limited with isolation none")
        return promises.checked(_RECIPES, isolated=isolated)

    def _limits(self, profile: Profile) -> Limits:
        """Those limits of `profile` that can be kept here."""
        wanted = Limits(profile.memory, profile.pids, profile.cpu)
        if not wanted:
            return wanted
        groups = self._control_groups()
        return Limits(
            wanted.memory if groups.can(Limits(wanted.memory, None)) else None,
            wanted.pids if groups.can(Limits(None, wanted.pids)) else None,
            wanted.cpu if groups.can(Limits(None, None, wanted.cpu)) else None,
        )

    def check_machine(self, profile: Profile) -> None:
        """See `Backend.check_machine`."""
        if sys.platform != "linux":
            raise IsolationUnavailableError("backend local runs on Linux only: use another backend")
        self._sources.get(profile, self._options.progress)
        if not self._isolated(profile):
            return
        try:
            launched = self.launch(profile)
        except SandboxStartError as error:
            raise IsolationUnavailableError(str(error)) from None
        try:
            launched.stream.settimeout(START_TIMEOUT)
            launched.stream.sendall(launched.payload)
            greeting = launched.stream.recv(1)
        except OSError:
            greeting = b""
        finally:
            launched.stream.close()
            launched.end()
        if not greeting:
            reason = bubblewrap.explained(launched.last_words() or "it gave no reason")
            raise IsolationUnavailableError(f"Python does not start in a local sandbox: {reason}")

    def _isolated(self, profile: Profile) -> bool:
        return (self._options.isolation or profile.isolation) != "none"

    def _control_groups(self) -> Groups:
        if self._groups is None:
            self._groups = Groups()
        return self._groups

    def notes(self, profile: Profile) -> tuple[str, ...]:
        """See `Backend.notes`."""
        source = self._sources.get(profile, untold)
        return () if source is None or not source.note else (source.note,)

    def secrets(self, profile: Profile) -> Mapping[str, str]:
        """See `Backend.secrets`."""
        return self._options.secrets.of(profile)

    # -- starting

    def launch(self, profile: Profile) -> Launched:
        """See `Backend.launch`."""
        start = self._launch_isolated if self._isolated(profile) else self._launch_bare
        source = self._sources.get(profile, untold)
        try:
            launched = self._spawner.submit(start, profile, source).result(_LAUNCH_TIMEOUT)
        except (OSError, RuntimeError) as error:  # no descriptor, process, thread or memory to be had
            raise SandboxStartError(f"a local sandbox did not start: {error}") from None
        # each lease has a new one, of which nothing could be kept for the next
        launched.setup = replace(launched.setup, runs_setup=bool(profile.setup))
        return launched

    def _launch_isolated(self, profile: Profile, source: StagedSource | None) -> Launched:
        limits = self._limits(profile)
        group = None
        if limits:
            try:
                group = self._control_groups().make(limits)
            except OSError as error:
                raise SandboxStartError(f"cannot limit a sandbox: {error}") from error
        try:
            return self._launcher.launch(profile, group, source)
        except BaseException as error:
            if group is not None:
                group.remove()
            if isinstance(error, OSError):  # out of descriptors or processes
                reason = bubblewrap.explained(str(error))
                raise SandboxStartError(f"a local sandbox did not start: {reason}") from error
            raise

    def _launch_bare(self, _: Profile, source: StagedSource | None) -> Launched:
        if not self._swept:
            sweep_scratch()
            self._swept = True
        try:
            launched = bare.launch()
        except OSError as error:
            raise SandboxStartError(f"cannot start an agent: {error}") from error
        if source is not None:
            there = Source(str(source.directory), source.content)
            launched.setup = replace(launched.setup, source=there)
        return launched

    def close(self) -> None:
        """See `Backend.close`."""
        self._spawner.shutdown()
        self._sources.close()

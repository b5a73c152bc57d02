"""Backend `local`: sandboxes on this machine, by bubblewrap, one slot in each, thrown away after every lease."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from pytest_sandboxes.backends import bare, bubblewrap
from pytest_sandboxes.backends.base import Backend, BackendOptions, Checked, Launched
from pytest_sandboxes.backends.cgroups import Groups, Limits
from pytest_sandboxes.backends.isolated import START_TIMEOUT, Launcher
from pytest_sandboxes.backends.promises import Promises
from pytest_sandboxes.errors import IsolationUnavailableError, SandboxStartError
from pytest_sandboxes.profiles import Profile

_LAUNCH_TIMEOUT = START_TIMEOUT + 10.0
_RECIPES = ("image", "cpu", "app_name", "max_lifetime", "idle_timeout", "max_uses", "scaledown_window")
_NOT_HERE = {
    "gpu": "backends docker and modal can",
    "user": "code always runs as an unprivileged user there; backend docker can choose one",
    "secrets": "pass values with exec(env=…)",
    "setup": "run the commands in a fixture",
    "workspace_source": "use sandbox.upload() in a fixture",
}


class LocalBackend(Backend):
    """Starts sandboxes from one thread of its own, which as root sees the file system differently."""

    name = "local"

    def __init__(self, options: BackendOptions) -> None:
        self._options = options
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix="sandboxes-local")
        self._launcher = Launcher()
        self._groups: Groups | None = None
        self._swept = False

    # -- promises

    def check(self, profile: Profile) -> Checked:
        """See `Backend.check`."""
        promises = Promises(profile, self._options)
        promises.refuse_set(_NOT_HERE, "backend local has none")
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
            if profile.network != "none":
                promises.refuse("network", "backend local cannot give a sandbox a network without your own")
            kept = self._limits(profile)
            for field in ("memory", "pids"):
                if getattr(profile, field) != getattr(kept, field):
                    promises.refuse(
                        field,
                        "this user may not make control groups here: run pytest as root or under "
                        "systemd-run --user --scope -p Delegate=yes, or use backend docker",
                    )
        else:
            for field in promises.set_fields(("memory", "pids", "disk")):
                promises.refuse(field, "nothing is limited with isolation none")
        return promises.checked(_RECIPES, isolated=isolated)

    def _limits(self, profile: Profile) -> Limits:
        """Those limits of `profile` that can be kept here."""
        if profile.memory is None and profile.pids is None:
            return Limits(None, None)
        groups = self._control_groups()
        return Limits(
            profile.memory if groups.can(Limits(profile.memory, None)) else None,
            profile.pids if groups.can(Limits(None, profile.pids)) else None,
        )

    def check_machine(self, profile: Profile) -> None:
        """See `Backend.check_machine`."""
        if sys.platform != "linux":
            raise IsolationUnavailableError("backend local runs on Linux only: use another backend")
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

    # -- starting

    def launch(self, profile: Profile) -> Launched:
        """See `Backend.launch`."""
        start = self._launch_isolated if self._isolated(profile) else self._launch_bare
        try:
            return self._spawner.submit(start, profile).result(_LAUNCH_TIMEOUT)
        except (OSError, RuntimeError) as error:  # no descriptor, process, thread or memory to be had
            raise SandboxStartError(f"a local sandbox did not start: {error}") from None

    def _launch_isolated(self, profile: Profile) -> Launched:
        limits = self._limits(profile)
        group = None
        if limits:
            try:
                group = self._control_groups().make(limits)
            except OSError as error:
                raise SandboxStartError(f"cannot limit a sandbox: {error}") from error
        try:
            return self._launcher.launch(profile, group)
        except BaseException as error:
            if group is not None:
                group.remove()
            if isinstance(error, OSError):  # out of descriptors or processes
                reason = bubblewrap.explained(str(error))
                raise SandboxStartError(f"a local sandbox did not start: {reason}") from error
            raise

    def _launch_bare(self, _: Profile) -> Launched:
        if not self._swept:
            bare.sweep_scratch()
            self._swept = True
        try:
            return bare.launch()
        except OSError as error:
            raise SandboxStartError(f"cannot start an agent: {error}") from error

    def close(self) -> None:
        """See `Backend.close`."""
        self._spawner.shutdown()

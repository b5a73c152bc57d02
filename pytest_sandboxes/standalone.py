"""Sandboxes outside pytest: `get_backend("local").create_sandbox()`."""

from __future__ import annotations

import warnings
from typing import Self

from pytest_sandboxes import arguments, registry
from pytest_sandboxes.backends.base import Backend, BackendOptions
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.lease import Lease
from pytest_sandboxes.pool.pool import Pool
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.slot import Slot

_RENAMED = {"execution_timeout_s": "timeout", "workspace_base": "workdir"}


class StandaloneSandbox(Slot):
    """A slot with a sandbox and all that runs it to itself, until `terminate`; also a context manager."""

    def __init__(self, pool: Pool, lease: Lease) -> None:
        super().__init__(lease)
        self._pool = pool

    def terminate(self) -> None:
        """End the sandbox and wait until it is gone. May be called twice."""
        self._lease.release()
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()


class StandaloneBackend:
    """A backend to create sandboxes with."""

    def __init__(self, name: str) -> None:
        registry.check_names((arguments.text(name, "the name of a backend"),), {}, "get_backend")
        self.name = name

    def create_sandbox(
        self,
        *,
        image: str | None = None,
        timeout: float | None = 60.0,
        workdir: str = "/workspace",
        **fields: object,
    ) -> StandaloneSandbox:
        """Create a sandbox.

        `image`: what is in it, where the backend has images. `timeout`: seconds that a command may take when its call
        does not say; None for ever. `workdir`: its workspace, absolute. `fields`: other fields of a `Profile`. Fields
        that do not apply to the backend are a UserWarning.

        Raises `ConfigurationError` for fields that are wrong, cannot be kept, or are `execution_timeout_s` or
        `workspace_base`, which are `timeout` and `workdir` here; `IsolationUnavailableError`, `SandboxStartError`.
        """
        for field, argument in _RENAMED.items():
            if field in fields:
                raise ConfigurationError(
                    f"create_sandbox: {field} is called {argument} here; give {argument}="
                )
        changes = {"image": image, "execution_timeout_s": timeout, "workspace_base": workdir, **fields}
        profile = Profile().override({**changes, "buffer_sandboxes": 0}, "create_sandbox")
        backend: Backend = registry.make(
            self.name, BackendOptions(isolation=profile.isolation, escape=""), {}
        )
        pool = Pool({self.name: backend})
        try:
            unused = backend.check(profile).unused
            if unused:
                warnings.warn(
                    f"create_sandbox: {', '.join(unused)} not used by backend {self.name}", stacklevel=2
                )
            return StandaloneSandbox(pool, pool.lease(self.name, profile, holder="create_sandbox"))
        except BaseException:
            pool.close()
            raise


def get_backend(name: str) -> StandaloneBackend:
    """The backend called `name`. Raises `ConfigurationError` if there is none, TypeError for what is no text."""
    return StandaloneBackend(name)

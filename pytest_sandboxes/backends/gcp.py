"""Backend `gcp`: no sandboxes of its own, but a place where whole tests run, each with a backend inside."""

from __future__ import annotations

from typing import NoReturn

from pytest_sandboxes.backends.base import Backend, BackendOptions, Checked
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.profile import Profile


class GcpBackend(Backend):
    """Stands for runner `gcp` of batch mode, and refuses all that batch mode does not do."""

    name = "gcp"

    def __init__(self, options: BackendOptions) -> None:
        """`options` are for the backend inside."""

    def check(self, profile: Profile) -> Checked:
        """See `Backend.check`."""
        self._refuse(profile)

    def check_machine(self, profile: Profile) -> None:
        """See `Backend.check_machine`."""
        self._refuse(profile)

    def launch(self, profile: Profile) -> NoReturn:
        """See `Backend.launch`."""
        self._refuse(profile)

    @staticmethod
    def _refuse(profile: Profile) -> NoReturn:
        raise ConfigurationError(
            f"backend gcp has no sandboxes for profile {profile.name!r} here: it runs whole tests as a job of Google "
            "Cloud Batch. Leave --sandbox-mode to itself, or choose another backend"
        )

    def close(self) -> None:
        """See `Backend.close`."""

"""Every error of the package, one flat tree.

Two branches matter to a reader of verdicts. What derives from `InfrastructureError` is never the fault of the code
under evaluation: the lease records it and the test becomes an error, not a failure. Everything else is either a
mistake in how the suite is written or configured, or an outcome of the code itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_sandboxes.results import ExecResult


class SandboxesError(Exception):
    """Base of every error that this package defines."""


class ConfigurationError(SandboxesError):
    """An option, profile or marker is wrong; the message names it, its value, its source and the remedy."""


class UnsupportedError(ConfigurationError):
    """A profile or call asks for something that the backend cannot enforce; the message says who can."""


class IsolationUnavailableError(ConfigurationError):
    """This machine cannot isolate sandboxes; the message lists the remedies."""


class BackendUnavailableError(ConfigurationError):
    """The service of a backend, or an image there, cannot be had; the message says where, and what to do."""


class _ResultError(SandboxesError):
    """An error that carries what the command had produced when it ended."""

    def __init__(self, message: str, result: ExecResult) -> None:
        super().__init__(message)
        self.result = result

    def __str__(self) -> str:
        return f"{self.args[0]}\n{self.result!r}"


class ExecTimeoutError(_ResultError, TimeoutError):
    """A command was still running at its deadline and was killed with all it had started; `result` is partial."""


class CommandFailedError(_ResultError):
    """A command run with `check=True` ended with a return code other than 0; see `result`."""


class OutputLimitExceededError(SandboxesError):
    """A file, listing or archive is larger than the default limit and no limit of the caller's own was given.

    A download raises it beyond a limit of the caller's own as well.
    """


class MemoryLimitExceededError(SandboxesError):
    """The sandbox went over its own `memory` limit and was ended: an outcome of the code, not of the machine."""


class LeaseClosedError(SandboxesError):
    """A slot was used after its lease had been released."""


class InfrastructureError(SandboxesError):
    """Base of all failures that say nothing about the code under evaluation."""


class SandboxLostError(InfrastructureError):
    """The sandbox died, stopped answering, or broke the protocol while it was leased."""


class SandboxStartError(InfrastructureError):
    """A sandbox could not be started; the message carries the cause."""


class AcquireTimeoutError(InfrastructureError):
    """No slot became free for `acquire_timeout_s` seconds in which nothing progressed; names who holds what.

    Deliberately no `TimeoutError`: a test that expects its own code to time out must not pass on an empty pool.
    """


class PoolClosedError(InfrastructureError):
    """A slot was asked for after the run's pool had been closed."""

"""Every error of the package, one flat tree.

Two branches matter to a reader of verdicts. What derives from `InfrastructureError` is never the fault of the code
under evaluation: the lease records it and the test becomes an error, not a failure. Everything else is either a
mistake in how the suite is written or configured, or an outcome of the code itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

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


class ManyCallsError(SandboxesError, ExceptionGroup[Exception]):
    """Some of the calls of one `exec_many` have failed: a group of what they raised."""

    results: list[Any]
    """Of all calls, in their order; in place of a result that there is not, what the call raised."""

    def __new__(cls, failures: Sequence[Exception], results: Sequence[Any]) -> Self:
        """Make one of what `results` has among others."""
        places = [number for number, result in enumerate(results) if isinstance(result, Exception)]
        shown = ", ".join(f"[{number}]" for number in places[:10]) + (", …" if len(places) > 10 else "")
        self = super().__new__(cls, f"{len(places)} of {len(results)} calls failed: {shown}", failures)
        self.results = list(results)
        return self

    def __init__(self, failures: Sequence[Exception], _: Sequence[Any]) -> None:
        super().__init__(self.message, failures)

    def derive(self, excs: Sequence[Exception]) -> ManyCallsError:  # type: ignore[override]
        """A part of the group, with all results."""
        return type(self)(excs, self.results)


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


class RateLimitedError(SandboxStartError):
    """A backend takes no more starts for now: the pool waits and starts more slowly, and counts no failure."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        """`retry_after`: the seconds that the backend has asked to be left alone for, if it has."""
        super().__init__(message)
        self.retry_after = retry_after


class BudgetExceededError(InfrastructureError):
    """The run's `--sandbox-budget` is used up, and nothing is leased any more; names who has used how much of it."""


class SetupFailedError(SandboxStartError):
    """A command of a profile's `setup` has failed, or taken too long; the message has the end of what it said."""


class QuotaExceededError(SandboxStartError):
    """The account with the service of a backend is at one of its limits, or may not do what was asked for."""


class CredentialsRefusedError(SandboxStartError):
    """The service of a backend does not accept who we are, or does so no more."""


class ServiceUnavailableError(SandboxStartError):
    """The service of a backend does not answer."""


class AcquireTimeoutError(InfrastructureError):
    """No slot became free for `acquire_timeout_s` seconds in which nothing progressed; names who holds what.

    Deliberately no `TimeoutError`: a test that expects its own code to time out must not pass on an empty pool.
    """


class PoolClosedError(InfrastructureError):
    """A slot was asked for after the run's pool had been closed."""

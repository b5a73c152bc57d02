"""What goes wrong with the service, in words of ours, each kind its own class."""

from __future__ import annotations

import os
import socket
import ssl
from typing import TYPE_CHECKING

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import (
    CredentialsRefusedError,
    QuotaExceededError,
    RateLimitedError,
    SandboxStartError,
    ServiceUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST = 300
_RATE_WORDS = ("rate limit", "ratelimit", "too many requests", "throttl")
_QUOTA_WORDS = ("limit reached", "quota", "billing", "spend", "concurren", "too many sandboxes")


class NoAnswerError(ServiceUnavailableError):
    """A call has not been answered in its time. Whether it has been carried out is not known."""


class NameTakenError(SandboxStartError):
    """There is a sandbox with that name, which may be the one that was asked for."""


class MissingError(SandboxStartError):
    """What was named is not there."""


def start_error(what: str, error: BaseException) -> SandboxStartError:
    """The error of ours for one of the client's, when it was to do `what`."""
    if isinstance(error, SandboxStartError):
        return error
    kind, why = classify(error)
    return kind(f"{what}: {why}")


def classify(error: BaseException) -> tuple[type[SandboxStartError], str]:
    """What kind of error one of the client's is, and why it came about."""
    import modal.exception as theirs

    said = one_line(str(error) or type(error).__name__, _LONGEST)
    if isinstance(error, theirs.ResourceExhaustedError):
        is_rate = any(word in said.lower() for word in _RATE_WORDS)
        if not is_rate and any(word in said.lower() for word in _QUOTA_WORDS):
            return QuotaExceededError, f"the account is at a limit ({said}): raise it, or lower max_sandboxes"
        return RateLimitedError, f"Modal takes no more calls now ({said})"
    kinds: dict[type[Exception], tuple[type[SandboxStartError], str]] = {
        theirs.AlreadyExistsError: (NameTakenError, said),
        theirs.NotFoundError: (MissingError, said),
        theirs.AuthError: (
            CredentialsRefusedError,
            f"Modal refuses the credentials ({said}): see whether they have expired",
        ),
        theirs.PermissionDeniedError: (QuotaExceededError, f"the account may not do that ({said})"),
        theirs.SandboxTimeoutError: (SandboxStartError, "the sandbox has reached its timeout"),
        theirs.SandboxTerminatedError: (SandboxStartError, "Modal, or somebody, has ended the sandbox"),
    }
    for theirs_kind, found in kinds.items():
        if isinstance(error, theirs_kind):
            return found
    if is_transient(error):
        return ServiceUnavailableError, f"Modal does not answer ({said})"
    return SandboxStartError, f"{type(error).__name__}: {said}"


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later, and may have been carried out."""
    import grpclib.exceptions
    import modal.exception as theirs

    kinds: tuple[type[BaseException], ...] = (
        *(theirs.ConnectionError, theirs.ServiceError, theirs.InternalError, theirs.TimeoutError),
        *(ConnectionError, TimeoutError, OSError, grpclib.exceptions.StreamTerminatedError),
    )
    return isinstance(error, kinds) and not isinstance(error, theirs.SandboxTimeoutError)


TIMED_OUT, TERMINATED = 124, 137
ENDS: Mapping[int, str] = {
    TIMED_OUT: "it has reached its timeout (max_lifetime)",
    TERMINATED: "Modal has ended it, as it does with what it preempts, or somebody with the account",
}
"""What the service says of how a sandbox has ended, by the code that the client makes of it."""


def unreachable(error: OSError) -> str:
    """Why a server cannot be reached, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not to be trusted ({error.verify_message}): if your network inspects TLS, say where "
            "its authority is with SSL_CERT_FILE or REQUESTS_CA_BUNDLE"
        )
    if isinstance(error, ssl.SSLError):
        return (
            f"it does not speak TLS as it should ({one_line(str(error), _LONGEST)}): see what is in between"
        )
    if isinstance(error, socket.gaierror):
        return "its name is not known here: see whether this machine has a network, and DNS"
    if isinstance(error, TimeoutError):
        return "nothing answers: a firewall may have to let it through"
    why = os.strerror(error.errno) if error.errno else one_line(str(error), _LONGEST)
    return f"{why}: see whether this machine may go there"

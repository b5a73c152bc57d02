"""What travels between a worker and the controller: frames of `agent.wire`, several in one item of the channel.

A request is passed on nearly as it is: REQUEST, STDIN, STDIN_END, CREDIT and KILL towards the sandbox; STDOUT, STDERR,
STARTED, STDIN_CREDIT and RESULT back. The credit that a worker grants is the credit that the agent gets, so nothing in
between ever holds more than one window of one stream.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar

import msgspec

from pytest_sandboxes import errors
from pytest_sandboxes.agent import wire
from pytest_sandboxes.profiles.catalog import Profiles
from pytest_sandboxes.profiles.profile import Profile

# worker to controller
CALL, TELL = 33, 34
"""Something to do, with an answer and without: a mapping whose `what` names it."""
# controller to worker
ANSWER, LOST, BROKEN = 49, 50, 51
"""The answer to a call; the loss of a slot's sandbox, by the slot's number; the early end of a request's streams."""

MAX_ITEM = 1 << 24
"""Bytes of one item; an announcement of many tests is the largest."""

T = TypeVar("T")


class Channel(Protocol):
    """What is used of a channel of execnet."""

    def send(self, item: object) -> None:
        """Send; waits for a full pipe, raises OSError for a broken one."""

    def close(self, error: str | None = None) -> None:
        """Close it, on the other side too."""


def frames(item: object) -> Iterator[tuple[int, int, bytes]]:
    """Every frame of an item as (type, number, payload). Raises `ProtocolError` for what is no row of frames."""
    if not isinstance(item, bytes) or len(item) > MAX_ITEM:
        raise wire.ProtocolError("not an item of frames")
    at = 0
    while at < len(item):
        start = at + wire.HEADER_SIZE
        end = start + int.from_bytes(item[at : at + 4], "big")
        if end > len(item):
            raise wire.ProtocolError("frame cut short")
        yield item[at + 4], int.from_bytes(item[at + 5 : at + 9], "big"), item[start:end]
        at = end


def message(kind: int, number: int, content: object) -> bytes:
    """A frame with a value in it."""
    return wire.frame(kind, number, wire.encode(content))


def take(content: Mapping[str, object], name: str, kind: type[T]) -> T:
    """A field of a message. Raises `ProtocolError` unless it is there and of this type."""
    value = content.get(name)
    if not isinstance(value, kind):
        raise wire.ProtocolError(f"a message without a possible {name}")
    return value


def sendable(text: str) -> str:
    """`text` with its lone surrogates escaped, which neither UTF-8 nor execnet would take."""
    return text.encode("utf-8", "backslashreplace").decode()


def pack_profile(profile: Profile) -> bytes:
    """A profile as `unpack_profile` takes it."""
    return json.dumps(msgspec.to_builtins(profile)).encode()  # ASCII, whatever is in it


def unpack_profile(data: bytes) -> Profile:
    """The same profile again. Raises `ProtocolError` for anything else."""
    try:
        return msgspec.convert(json.loads(data), Profile)
    except (ValueError, RecursionError) as error:
        raise wire.ProtocolError(f"not a profile: {error}") from None


def pack_profiles(profiles: Profiles) -> bytes:
    """All profiles of a run as `unpack_profiles` takes them."""
    packed = [msgspec.to_builtins(each) for each in profiles]
    return json.dumps({"origin": profiles.origin, "profiles": packed}).encode()


def unpack_profiles(data: bytes) -> Profiles:
    """The same profiles again, none of them active yet."""
    content = json.loads(data)
    return Profiles(msgspec.convert(content["profiles"], list[Profile]), origin=content["origin"])


# -- errors

_BY_NAME: dict[str, type[Exception]] = {
    each.__name__: each
    for each in (
        *(errors.SandboxesError, errors.ConfigurationError, errors.UnsupportedError),
        *(errors.IsolationUnavailableError, errors.BackendUnavailableError, errors.LeaseClosedError),
        *(errors.MemoryLimitExceededError, errors.OutputLimitExceededError),
        *(errors.InfrastructureError, errors.SandboxLostError, errors.SandboxStartError),
        *(errors.AcquireTimeoutError, errors.BudgetExceededError, errors.PoolClosedError),
        *(errors.RateLimitedError, errors.SetupFailedError, errors.QuotaExceededError),
        *(errors.CredentialsRefusedError, errors.ServiceUnavailableError),
        *(TimeoutError, NotImplementedError, ValueError),
    )
}
"""Errors that one side raises for the other. Those that carry a result are made where the result is."""


def pack_error(error: BaseException) -> list[str]:
    """An error as `unpack_error` takes it: its class, if it is one of ours, and its text."""
    name = type(error).__name__
    if _BY_NAME.get(name) is type(error):
        return [name, sendable(str(error))]
    return ["SandboxesError", sendable(f"the controller failed: {error!r}")]


def unpack_error(packed: object) -> Exception:
    """The same error again. Raises `ProtocolError` for what is none."""
    match packed:
        case [str(name), str(text)] if name in _BY_NAME:
            return _BY_NAME[name](text)
    raise wire.ProtocolError("not an error")

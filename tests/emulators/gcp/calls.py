"""From an HTTP request to the function that answers it: who may call, what faults do, and 501 for all the rest."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from tests.emulators.events import EventLog
from tests.emulators.faults import FaultPlan
from tests.emulators.gcp import errors
from tests.emulators.gcp.errors import DroppedError, ServiceError
from tests.emulators.gcp.faults import Fault
from tests.emulators.gcp.tokens import Tokens

JSON = "application/json; charset=UTF-8"
_REST = ".+"
"""What matches all that follows."""


@dataclass(frozen=True)
class Request:
    """What a client has sent."""

    verb: str
    path: str
    """As it came: a quoted slash is part of a name, and no separator."""
    query: Mapping[str, str]
    lists: Mapping[str, list[str]]
    """The same with all values, of those parameters that may be given several times."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    origin: str
    """How the client has called this server: scheme, host and port."""

    @classmethod
    def parse(cls, verb: str, target: str, headers: Mapping[str, str], body: bytes, origin: str) -> Request:
        """Of a request's first line and what follows."""
        parts = urlsplit(target)
        lists = parse_qs(parts.query, keep_blank_values=True)
        query = {name: values[-1] for name, values in lists.items()}
        lower = {name.lower(): value for name, value in headers.items()}
        return cls(verb, parts.path, query, lists, lower, body, origin)

    def json(self) -> dict[str, Any]:
        """The body, if it is an object of JSON or nothing."""
        try:
            parsed = json.loads(self.body or b"{}")
        except ValueError as error:
            raise ServiceError(400, f"Invalid JSON payload received: {error}", reason="parseError") from error
        if not isinstance(parsed, dict):
            raise ServiceError(400, "Invalid JSON payload received: not an object", reason="parseError")
        return parsed


@dataclass(frozen=True)
class Reply:
    """What a client gets."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, value: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """JSON."""
        return cls(json.dumps(value).encode(), status, {"Content-Type": JSON, **(headers or {})})


@dataclass(frozen=True)
class Call:
    """A request, and what the path says of it."""

    method: str
    """As Google's discovery documents call it, such as `storage.objects.insert`."""
    names: Mapping[str, str]
    """The parts of the path that are names, unquoted."""
    request: Request
    caller: str
    """The caller's email address, or that of the project's owner for who has not said."""

    def number(self, name: str, default: int | None = None) -> int | None:
        """A parameter that is a whole number."""
        value = self.request.query.get(name)
        if value is None:
            return default
        if not re.fullmatch(r"-?\d{1,19}", value):
            raise ServiceError(
                400, f"Invalid value for parameter {name}: {value!r}", reason="invalidParameter"
            )
        return int(value)

    def flag(self, name: str) -> bool:
        """A parameter that is yes or no, which the Storage client writes as Python does."""
        return self.request.query.get(name, "").lower() == "true"

    def page(self, parameter: str, default: int) -> int:
        """How many to list at most."""
        wanted = self.number(parameter) or default
        if wanted < 0:
            raise errors.invalid(parameter, "it must not be negative")
        return min(wanted, default)


Handler = Callable[[Call], Awaitable[Reply]]
About = str | Callable[[Mapping[str, str], Request], str]
_Handler = TypeVar("_Handler", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Route:
    method: str
    verb: str
    path: re.Pattern[str]
    about: About
    handler: Handler


def answers(method: str, verb: str, path: str, about: About = "") -> Callable[[_Handler], _Handler]:
    """Mark a coroutine function as the answer to requests of this verb and path.

    In `path`, `{name}` stands for one part, and `{name=}` for all that follows. `about` says what faults and the log call
    the resource: in the same words, or as a function of the path's names and the request; without one it is the path.
    """
    pattern = re.sub(r"\\{(\w+)(=?)\\}", _part, re.escape(path))

    def mark(function: _Handler) -> _Handler:
        routes = getattr(function, "routes", ())
        function.routes = (*routes, (method, verb, re.compile(pattern), about or path))  # type: ignore[attr-defined]
        return function

    return mark


def _part(found: re.Match[str]) -> str:
    return f"(?P<{found[1]}>{_REST if found[2] else '[^/:]+'})"


class Desk:
    """Where all requests of one service come in."""

    def __init__(
        self,
        service: str,
        parts: Iterable[object],
        *,
        project: str,
        events: EventLog,
        faults: FaultPlan[Fault],
        tokens: Tokens | None,
    ) -> None:
        """`parts` have the answers. With `tokens`, who calls is asked for one."""
        self._service = service
        self._project = project
        self._events = events
        self._faults = faults
        self._tokens = tokens
        routes = [
            _Route(method, verb, path, about, getattr(part, name))
            for part in parts
            for name in dir(type(part))
            for method, verb, path, about in getattr(getattr(type(part), name), "routes", ())
        ]
        self._routes = sorted(routes, key=lambda route: _REST in route.path.pattern)

    async def answer(self, request: Request) -> Reply:
        """Do what is asked for. Raises `DroppedError` for an answer that is not to arrive."""
        try:
            route, names = self._find(request)
            about = _about(route.about, names, request)
        except ServiceError as error:
            self._events.record(
                "call", method=f"{self._service}.unknown", resource=request.path, status=error.status
            )
            return _reply(error)
        beginning = self._events.beginnings
        fault = self._faults.take(route.method, about)
        if fault is not None:
            self._events.record("fault", method=route.method, resource=about, kind=fault.kind)
            await asyncio.sleep(fault.delay)
        reply = await self._answer(route, names, request, about, fault)
        if self._events.beginnings == beginning:  # or it is of a test that has given it up, and has ended
            self._events.record("call", method=route.method, resource=about, status=reply.status)
        if fault is not None and fault.kind == "lost_reply":
            raise DroppedError
        return (
            _reply(errors.unavailable()) if fault is not None and fault.kind == "unavailable_reply" else reply
        )

    async def _answer(
        self, route: _Route, names: Mapping[str, str], request: Request, about: str, fault: Fault | None
    ) -> Reply:
        try:
            if fault is not None:
                self._strike(fault, route.method, about)
            caller = "" if self._tokens is None else self._tokens.caller(request.headers.get("authorization"))
            return await route.handler(Call(route.method, names, request, caller))
        except ServiceError as error:
            return _reply(error)

    def _strike(self, fault: Fault, method: str, about: str) -> None:
        """What is instead of an answer."""
        if fault.kind == "lost_request":
            raise DroppedError
        if fault.kind == "unavailable":
            raise errors.unavailable()
        if fault.kind == "throttled":
            raise errors.throttled(self._service, fault.retry_after)
        if fault.kind == "expired_token":
            raise errors.unauthenticated()
        if fault.kind == "permission_denied":
            raise errors.denied(method, about)
        if fault.kind == "api_disabled":
            raise errors.disabled(self._service, self._project)

    def _find(self, request: Request) -> tuple[_Route, Mapping[str, str]]:
        for route in self._routes:
            if route.verb == request.verb and (found := route.path.fullmatch(request.path)):
                return route, {name: unquote(value) for name, value in found.groupdict().items()}
        raise errors.unimplemented(f"{request.verb} {request.path} of {self._service}")


def _about(about: About, names: Mapping[str, str], request: Request) -> str:
    if callable(about):
        return about(names, request)
    return re.sub(r"\{(\w+)=?\}", lambda found: names[found[1]], about).removeprefix("/v1/")


def _reply(error: ServiceError) -> Reply:
    if error.status == 304:
        return Reply(status=304)
    return Reply.of(error.body(), error.status, error.headers)

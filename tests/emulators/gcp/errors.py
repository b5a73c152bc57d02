"""Errors in the form in which Google's APIs give them, and from which its clients make exceptions.

`google.api_core.exceptions.format_http_response_error` takes the class from the HTTP status, and `reason`, `domain` and
`metadata` from the first detail that is a google.rpc.ErrorInfo. `errors` is what the JSON API of Storage had before that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_CODES = {
    400: ("INVALID_ARGUMENT", "invalid"),
    401: ("UNAUTHENTICATED", "authError"),
    403: ("PERMISSION_DENIED", "forbidden"),
    404: ("NOT_FOUND", "notFound"),
    409: ("ALREADY_EXISTS", "conflict"),
    410: ("FAILED_PRECONDITION", "gone"),
    412: ("FAILED_PRECONDITION", "conditionNotMet"),
    416: ("OUT_OF_RANGE", "requestedRangeNotSatisfiable"),
    429: ("RESOURCE_EXHAUSTED", "rateLimitExceeded"),
    500: ("INTERNAL", "internalError"),
    501: ("UNIMPLEMENTED", "notImplemented"),
    503: ("UNAVAILABLE", "backendError"),
}
_TYPE = "type.googleapis.com/google.rpc."

Detail = Mapping[str, Any]


@dataclass
class ServiceError(Exception):
    """An answer that is an error."""

    status: int
    message: str
    details: tuple[Detail, ...] = ()
    code: str = ""
    """Of google.rpc.Code, where it is not the usual one of the status."""
    reason: str = ""
    """The older APIs' word, where it is not the usual one of the status."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """What the client parses."""
        code, reason = _CODES[self.status]
        reason = self.reason or reason
        error = {
            "code": self.status,
            "message": self.message,
            "status": self.code or code,
            "errors": [{"message": self.message, "domain": "global", "reason": reason}],
        }
        return {"error": {**error, "details": list(self.details)} if self.details else error}


class DroppedError(Exception):
    """The connection is cut in place of an answer."""


def error_info(reason: str, domain: str = "googleapis.com", **metadata: str) -> Detail:
    """What clients show as `reason`, `domain` and `metadata`."""
    return {"@type": f"{_TYPE}ErrorInfo", "reason": reason, "domain": domain, "metadata": metadata}


def invalid(field_name: str, description: str) -> ServiceError:
    """A request that breaks a rule."""
    violation = {"field": field_name, "description": description}
    detail = {"@type": f"{_TYPE}BadRequest", "fieldViolations": [violation]}
    return ServiceError(400, f"{field_name} field is invalid. {description}", (detail,))


def not_found(name: str) -> ServiceError:
    """Nothing has this name."""
    detail = {"@type": f"{_TYPE}ResourceInfo", "resourceName": name}
    return ServiceError(404, f"Resource '{name}' was not found", (detail,))


def denied(permission: str, resource: str) -> ServiceError:
    """The caller has no role that allows this."""
    return ServiceError(
        403,
        f"Permission '{permission}' denied on resource '{resource}' (or it may not exist).",
        (
            error_info(
                "IAM_PERMISSION_DENIED", "iam.googleapis.com", permission=permission, resource=resource
            ),
        ),
    )


def disabled(service: str, project: str) -> ServiceError:
    """The project has not enabled the API."""
    name = f"{service}.googleapis.com"
    url = f"https://console.developers.google.com/apis/api/{name}/overview?project={project}"
    return ServiceError(
        403,
        f"{service.capitalize()} API has not been used in project {project} before or it is disabled. Enable it by visiting "
        f"{url} then retry. If you enabled this API recently, wait a few minutes for the action to propagate to our "
        "systems and retry.",
        (
            error_info("SERVICE_DISABLED", consumer=f"projects/{project}", service=name, activationUrl=url),
            {
                "@type": f"{_TYPE}Help",
                "links": [{"description": "Google developers console API activation", "url": url}],
            },
        ),
        reason="accessNotConfigured",
    )


def unauthenticated() -> ServiceError:
    """The token is none of ours, or was."""
    return ServiceError(
        401,
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
        "authentication credential.",
        (error_info("ACCESS_TOKEN_EXPIRED"),),
        headers={"WWW-Authenticate": 'Bearer realm="https://accounts.google.com/", error="invalid_token"'},
    )


def throttled(service: str, retry_after: float | None) -> ServiceError:
    """Too many requests."""
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    info = error_info("RATE_LIMIT_EXCEEDED", service=f"{service}.googleapis.com")
    return ServiceError(
        429, f"Quota exceeded for quota metric of {service}.googleapis.com", (info,), headers=headers
    )


def unavailable() -> ServiceError:
    """The service is away for a moment."""
    return ServiceError(503, "The service is currently unavailable.")


def unimplemented(what: str) -> ServiceError:
    """The service has this, the emulator does not."""
    return ServiceError(501, f"The emulator does not have {what}.")

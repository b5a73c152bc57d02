"""Calls of the Engine that take minutes, and what it says meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from pytest_sandboxes.errors import SandboxStartError

if TYPE_CHECKING:
    from pytest_sandboxes.backends.docker.engine import Engine


class LongCallError(Exception):
    """Why there is no result: in words of ours, or the Engine's. Those may come from elsewhere, and are not escaped."""


def long_call(
    engine: Engine,
    path: str,
    parameters: Mapping[str, Any],
    headers: Mapping[str, str],
    *,
    silence: float,
    longest: float,
    data: Any = None,
) -> Iterator[Mapping[str, object]]:
    """POST to `path`, and what the Engine says of it, bit by bit. The SDK's own methods for this wait for ever.

    Raises `LongCallError` for what the Engine reports, after `silence` seconds without a word, and when it has all
    taken `longest` seconds; `SandboxStartError` when the Engine is gone, or the run is over.
    """
    from docker.errors import APIError
    from requests.exceptions import ConnectionError as BrokenOff
    from requests.exceptions import ReadTimeout
    from urllib3.exceptions import ReadTimeoutError

    quiet = f"nothing has come for {silence:.0f} s"
    deadline = time.monotonic() + longest
    with (
        _until_over(engine, path),
        engine.errors_as_start_errors(f"the Docker Engine has broken off {path}"),
        closing(engine.api_until_over()) as api,
    ):
        try:
            response = api._post(  # noqa: SLF001 - see above
                api._url(path),  # noqa: SLF001
                params=dict(parameters),
                headers=dict(headers),
                data=data,
                stream=True,
                timeout=silence,
            )
            with closing(response):
                api._raise_for_status(response)  # noqa: SLF001
                for line in response.iter_lines(chunk_size=None):
                    if line.strip():
                        yield _event(line)
                    if time.monotonic() > deadline:
                        raise LongCallError(f"it has taken more than {longest:.0f} s")
        except APIError as error:
            raise LongCallError(str(error.explanation or error)) from None
        except ReadTimeout:
            raise LongCallError(quiet) from None
        except BrokenOff as error:
            if isinstance(
                error.args[0], ReadTimeoutError
            ):  # that of requests is for the beginning of an answer
                raise LongCallError(quiet) from None
            raise


@contextmanager
def _until_over(engine: Engine, path: str) -> Iterator[None]:
    """Have a call that the end of the run has ended, however that shows, raise `SandboxStartError`."""
    try:
        yield
        over = engine.is_closing()
    except (LongCallError, SandboxStartError):
        if not engine.is_closing():
            raise
        over = True
    if over:
        raise SandboxStartError(f"the Docker Engine has not been waited for at {path}: the run is over")


def _event(line: bytes) -> Mapping[str, object]:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise LongCallError(f"it has answered {line[:100]!r}")
    if "error" in event:
        raise LongCallError(str(event["error"]))
    return event

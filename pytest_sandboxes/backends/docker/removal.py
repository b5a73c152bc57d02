"""Ends of containers and volumes, waited for until the Engine has none such any more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import docker

_END_TIMEOUT = 10.0  # seconds that a container may take to be gone
_LOOK_AGAIN = 0.02


def remove(api: docker.APIClient, container: str) -> bool:
    """Kill and remove a container, and wait, a few seconds at most, until it is gone; tell whether it was there."""
    was_there, _ = _remove(api, container)  # what an Engine that is gone has left, its next start finds ended
    return was_there


def see_to_end(api: docker.APIClient, container: str) -> None:
    """As `remove`; raises OSError or what calls of the SDK raise when the container may live on."""
    _, error = _remove(api, container)
    if error is not None:
        raise error


def _remove(api: docker.APIClient, container: str) -> tuple[bool, Exception | None]:
    """Whether it was there, and what has come between it and its end."""
    from docker.errors import APIError, NotFound
    from requests.exceptions import RequestException

    deadline = time.monotonic() + _END_TIMEOUT
    was_there = False
    while time.monotonic() < deadline:
        try:
            api.remove_container(container, force=True, v=True)
            was_there = True
        except NotFound:
            return was_there, None
        except APIError:  # the Engine is removing it already, by itself
            time.sleep(_LOOK_AGAIN)
        except (RequestException, OSError) as error:
            return was_there, error
    return was_there, TimeoutError(f"it is still there after {_END_TIMEOUT:.0f} s")


def remove_volume(api: docker.APIClient, volume: str) -> None:
    """Remove a volume, unless there is a container that has it, or none such."""
    from docker.errors import APIError, NotFound

    deadline = time.monotonic() + _END_TIMEOUT
    while time.monotonic() < deadline:
        try:
            api.remove_volume(volume)
        except NotFound:
            return
        except APIError:  # a container has it; one that has just been removed lets go of it a moment later
            if api.containers(all=True, quiet=True, filters={"volume": volume}):
                return
            time.sleep(_LOOK_AGAIN)
        else:
            return

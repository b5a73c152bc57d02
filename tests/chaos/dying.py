"""A plugin for a run that is to die in the middle of starting a sandbox: right after the call that VICTIMS_DIE_AFTER names.

It is `create_container`, `attach_socket`, `start` or `create_network` of the docker SDK, and with `:2` behind it, the
second one.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal

import docker

_call, _, _number = os.environ["VICTIMS_DIE_AFTER"].partition(":")
_original = getattr(docker.APIClient, _call)
_calls = itertools.count(1)


@functools.wraps(_original)
def _last_call(*args: object, **kwargs: object) -> object:
    result = _original(*args, **kwargs)
    if next(_calls) == int(_number or 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return result


setattr(docker.APIClient, _call, _last_call)

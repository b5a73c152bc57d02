"""The commands of a profile's `setup`, run in a sandbox before anybody leases it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import wait

from pytest_sandboxes import commands
from pytest_sandboxes.display import one_line, tail
from pytest_sandboxes.errors import (
    CommandFailedError,
    ExecTimeoutError,
    InfrastructureError,
    SandboxesError,
    SetupFailedError,
)
from pytest_sandboxes.operations import Pending, Port
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.results import ExecResult

__tracebackhide__ = True  # a failing test shows its own line, not ours

_KEPT = 32 << 20  # bytes of each stream: what is shown is its end
_LOOK_AGAIN = 1.0  # seconds between looks at whether anybody still waits


def run_setup(
    port: Port,
    profile: Profile,
    timeout: float,
    *,
    say: Callable[[str], None] = lambda _: None,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Run the commands, each by `/bin/sh`, in order and all within `timeout` seconds.

    `say` is told how far that is; once `is_over`, it is given up. Raises `SetupFailedError` with the end of the output
    of the command that has failed, `InfrastructureError` when the sandbox is lost.
    """
    deadline = time.monotonic() + timeout
    for number, command in enumerate(profile.setup, 1):
        say(f"command {number} of {len(profile.setup)}: {one_line(command, 60)}")
        what = f"{profile.source('setup')}: setup of profile {profile.name!r}: {one_line(command)}"
        try:
            _wait(_begin(port, command, max(deadline - time.monotonic(), 0.001)), is_over)
        except ExecTimeoutError as error:
            raise _failed(f"{what} was not done when setup had taken {timeout:g} s", error.result) from None
        except CommandFailedError as error:
            code = error.result.returncode
            raise _failed(f"{what} ended with return code {code}", error.result) from None
        except InfrastructureError:
            raise
        except (OSError, ValueError, SandboxesError) as error:
            raise SetupFailedError(f"{what} could not be run: {one_line(str(error), 300)}") from None


def _begin(port: Port, command: str, timeout: float) -> Pending[ExecResult]:
    argv = commands.command_arguments(commands.shell_arguments(command))
    return commands.run(
        port,
        argv,
        input=None,
        env=None,
        cwd=None,
        timeout=timeout,
        check=True,
        limit=_KEPT,
        seen=lambda _: None,
    )


def _wait(pending: Pending[ExecResult], is_over: Callable[[], bool]) -> None:
    while not wait([pending.request.future], _LOOK_AGAIN).done:
        if is_over():
            pending.request.kill()
            raise SetupFailedError("the run is over: setup has been given up")
    pending.result()


def _failed(what: str, result: ExecResult) -> SetupFailedError:
    said = f"{result.stdout}{result.stderr}".strip()
    return SetupFailedError(f"{what}; correct it{said and '. Its last lines:'}\n{tail(said)}".strip())

"""Child processes of this one, and what they say when they fail."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import SandboxesError

END_TIMEOUT = 5.0
"""Seconds that a killed process may take to be gone."""

_GRACE = 0.5
_COMMAND_TIMEOUT = 30.0  # seconds; it may have many files to remove


@contextlib.contextmanager
def own_pidfd() -> Iterator[int]:
    """A descriptor of this process, for a child to see its end by; of /dev/null where the kernel has no such thing."""
    try:
        fd = os.pidfd_open(os.getpid())
    except OSError:
        fd = os.open(os.devnull, os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


def reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a process that should be ending, and see to it."""
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_TIMEOUT)


def complaint_of(process: subprocess.Popen[bytes]) -> str:
    """What a process has written to its standard error, once; empty if nothing."""
    if process.stderr is None or process.stderr.closed:
        return ""
    os.set_blocking(process.stderr.fileno(), False)
    text = (process.stderr.read(4096) or b"").decode("utf-8", "replace").strip()
    process.stderr.close()
    return text


def run_command(command: str) -> None:
    """Have a shell run a command. Raises `SandboxesError` when it fails, or takes longer than it ever should.

    What it runs in its session ends with it then: a shell that is killed alone leaves that behind.
    """
    with subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as shell:
        try:
            complaint = shell.communicate(timeout=_COMMAND_TIMEOUT)[1]
        except subprocess.TimeoutExpired:
            raise SandboxesError(f"`{command}` has not ended within {_COMMAND_TIMEOUT:.0f} s") from None
        finally:
            if shell.returncode is None:  # whatever has come between, Ctrl-C as well
                with contextlib.suppress(PermissionError):  # macOS says so of a session that has ended
                    os.killpg(shell.pid, signal.SIGKILL)
    if shell.returncode:
        raise SandboxesError(f"`{command}` failed: {one_line(complaint.decode(errors='replace'), 300)}")


def disown(process: subprocess.Popen[bytes]) -> None:
    """Let a process live on without this one, which will not wait for it."""
    complaint_of(process)
    process.returncode = 0  # or its finalizer complains that nobody has waited

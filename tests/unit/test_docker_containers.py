from __future__ import annotations

import pytest

from pytest_sandboxes.backends.docker.containers import _cannot_start

RUNC = "OCI runtime create failed: runc create failed: unable to start container process: "


@pytest.mark.parametrize(
    "said",
    [
        f'{RUNC}exec: "python3": executable file not found in $PATH: unknown',
        f'{RUNC}error during container init: exec: "python3": executable file not found in $PATH: unknown',
        f'{RUNC}exec: "python3": permission denied: unknown',
        "crun: executable file `python3` not found in $PATH: No such file or directory: OCI runtime attempted to invoke",
        "exec: 'python3': is a directory",
    ],
)
def test_what_an_engine_says_of_an_image_without_python(said: str) -> None:
    assert _cannot_start(RuntimeError(said), "python3")


@pytest.mark.parametrize(
    "said",
    [
        f'{RUNC}exec: "/.pytest-sandboxes/lib/ld.so": stat /.pytest-sandboxes/lib/ld.so: no such file or directory',
        'could not select device driver "" with capabilities: [[gpu]]',
        "No such image: python3",
        f'{RUNC}error mounting "/srv/python3" to rootfs at "/python3": not a directory',
        'executor failed: unknown: no space left on device: "python3"',
    ],
)
def test_what_an_engine_says_of_other_things(said: str) -> None:
    assert not _cannot_start(RuntimeError(said), "python3")

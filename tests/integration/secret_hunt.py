"""Looks for a value where a machine and an Engine show what runs: command lines, environments, containers, images."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.waiting import wait_until


def hunt(value: str) -> list[str]:
    """Places that show `value`, on this machine and, where there is one, on the Docker Engine."""
    wanted = value.encode()
    found = [*_processes(wanted), *_engine(wanted)]
    # the search itself has to find what is there
    planted = subprocess.Popen(["sleep", "1000"], env={**os.environ, "PLANTED": value})
    try:
        wait_until(lambda: f"/proc/{planted.pid}/environ" in _processes(wanted), "that the search finds it")
    finally:
        planted.kill()
        planted.wait()
    return found


def _processes(wanted: bytes) -> list[str]:
    """Command lines of all processes; environments of those that are no sandbox's own command."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                content = (folder / name).read_bytes()
            except OSError:
                continue
            # the commands themselves have it, in environments that only root and they can read
            if wanted in content and not (name == "environ" and b"MARKER=x" in content):
                found.append(str(folder / name))
    return found


def _engine(wanted: bytes) -> list[str]:
    try:
        import docker

        client = docker.from_env()
        client.ping()
    except Exception:  # noqa: BLE001 - there is no Engine here, or none for this user
        return []
    api = client.api
    found = []
    try:
        for container in api.containers(all=True):
            try:
                described = api.inspect_container(container["Id"])
            except docker.errors.NotFound:
                continue
            if wanted in repr(described).encode():
                found.append(f"container {container['Names']}")
        for image in api.images():
            try:
                described = (api.inspect_image(image["Id"]), api.history(image["Id"]))
            except docker.errors.NotFound:
                continue
            if wanted in repr(described).encode():
                found.append(f"image {image['RepoTags']}")
    finally:
        client.close()
    return found

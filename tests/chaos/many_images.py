"""Many images, and room for few containers: `python -m tests.chaos.many_images [tests] [images] [cap]`.

The tests take turns at the images, so that hardly any finds a container of its own image. How many containers there are
at once is not asked of the pool, but counted in the events of the Engine.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

import docker
import docker.errors

from tests.engine import daemon, images

_LABEL = "pytest-sandboxes-tests.many"
_PATIENCE = 30.0
_SECONDS_PER_TEST = 3.0  # of a machine with other things to do
_SUITE = """
import pytest

TESTS = [
    pytest.param(number, marks=pytest.mark.sandbox(profile=f"image-{{number % {images}}}"))
    for number in range({tests})
]

@pytest.mark.parametrize("number", TESTS)
def test_it(sandbox, number):
    sandbox.write_text("number", str(number))
    assert sandbox.exec("cat", "number").stdout == str(number)
    assert len(sandbox.list_files()) == 1
"""


class Census:
    """Counts the containers with a label, from the Engine's events, while the context is open."""

    def __init__(self, label: str) -> None:
        self.most = 0
        """As many as there ever were at once."""
        self.made = 0
        self.left: set[str] = set()
        self._client = docker.APIClient(timeout=None)
        self._events = self._client.events(
            decode=True,
            filters={"type": "container", "event": ["create", "destroy"], "label": [label]},
        )
        self._thread = threading.Thread(target=self._count, name="census")

    def _count(self) -> None:
        for event in self._events:
            if event["Action"] == "create":
                self.made += 1
                self.left.add(event["Actor"]["ID"])
                self.most = max(self.most, len(self.left))
            else:
                self.left.discard(event["Actor"]["ID"])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        wait_for(lambda: not self.left)
        self._events.close()
        self._thread.join(_PATIENCE)
        self._client.close()


def wait_for(condition: Callable[[], bool]) -> None:
    """Return once that holds, or will not any more."""
    deadline = time.monotonic() + _PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


@contextmanager
def _labelled(client: Any, base: str, label: str, count: int) -> Iterator[list[str]]:
    """Images that differ from `base`, and from each other, in labels."""
    name, value = label.split("=")
    made = [f"{_LABEL}:{value}-{number}" for number in range(count)]
    try:
        for tag in made:
            recipe = f"FROM {base}\nLABEL {name}={value} tag={tag}\n"
            client.images.build(fileobj=io.BytesIO(recipe.encode()), tag=tag, rm=True)
        yield made
    finally:
        for tag in made:
            client.api.remove_image(tag, force=True)


def run(tests: int, count: int, cap: int, *, workers: int = 2) -> str:
    """Run so many tests on so many images with at most `cap` containers; return the figures.

    Raises AssertionError for a test that does not pass, for a container too many, and for one that is left.
    """
    label = f"{_LABEL}={os.getpid()}"
    with closing(daemon.connect()) as client, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _labelled(client, images.ensure(client, "python"), label, count) as tags:
            profiles = {f"image-{number}": {"image": tag} for number, tag in enumerate(tags)}
            (folder / "sandboxes.yaml").write_text(json.dumps({"profiles": profiles}))
            (folder / "test_it.py").write_text(_SUITE.format(tests=tests, images=count))
            began = time.monotonic()
            with Census(label) as census:
                ran = subprocess.run(
                    [
                        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull),
                        *(f"--rootdir={folder}", "-n", str(workers), "--sandbox-backend=docker"),
                        f"--sandbox-max-sandboxes={cap}",
                    ],
                    cwd=folder,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=120 + _SECONDS_PER_TEST * tests,
                )
            seconds = time.monotonic() - began
    assert f"{tests} passed" in ran.stdout, ran.stdout[-5000:] + ran.stderr
    assert census.made >= count, "the census sees nothing"
    assert not census.left, "containers are left"
    assert census.most <= cap, f"{census.most} containers at once"
    return (
        f"{tests} tests on {count} images: {census.made} containers, at most {census.most} of {cap} at once, "
        f"{seconds:.0f} s"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tests", type=int, nargs="?", default=500)
    parser.add_argument("images", type=int, nargs="?", default=50)
    parser.add_argument("cap", type=int, nargs="?", default=4)
    parser.add_argument("--workers", type=int, default=4)
    given = parser.parse_args()
    print(run(given.tests, given.images, given.cap, workers=given.workers))

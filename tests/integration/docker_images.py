"""What tests of the images of backend docker share: images with a change, profiles for them, and the volumes of runs."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from pytest_sandboxes.backends.docker import janitor
from tests.integration.conftest import Inner

PYTHON = "/usr/local/bin/python3"
"""Where an image's own Python comes first on its PATH."""

NO_INTERPRETER = "#!/nowhere/python3\n"
"""A program whose interpreter is missing."""

PROCESS = "pytest-sandboxes.process"


def volumes(engine: Any, process: str = "") -> set[str]:
    """Names of the volumes that the runs of a process have made, by default of this one."""
    label = f"{PROCESS}={process or janitor.labels('')[PROCESS]}"
    listed = engine.api.volumes(filters={"label": [label]})["Volumes"] or ()
    return {volume["Name"] for volume in listed}


def profiles(inner: Inner, **images: str) -> None:
    """Have a profile for each image; `of_sandboxes` in its name makes it one as it is."""
    lines = ["profiles:"]
    for name, image in images.items():
        isolation = "sandbox" if "of_sandboxes" in name else "slot"
        lines.append(f'  {name}: {{image: "{image}", isolation: {isolation}}}')
    inner.write("sandboxes.yaml", "\n".join(lines))
    inner.write("pytest.ini", "[pytest]\nsandbox_backend = docker\n")


class Told:
    """A `Progress` that remembers."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.states: list[str] = []

    @contextmanager
    def __call__(self, what: str) -> Iterator[Callable[[str], None]]:
        self.begun.append(what)
        yield self.states.append


class ImageMaker:
    """Makes images of others, with files of a test's own and variables of their own."""

    def __init__(self, engine: Any) -> None:
        self._api = engine.api
        self._made: list[str] = []

    def __call__(self, base: str, files: Mapping[str, str], *variables: str) -> str:
        """The id of an image with `files`, which can be executed, by absolute path."""
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            for path, text in files.items():
                for parent in reversed(PurePosixPath(path).parents[:-1]):
                    member = tarfile.TarInfo(str(parent))
                    member.type, member.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(member)
                member = tarfile.TarInfo(path)
                member.mode, member.size = 0o755, len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
        container = self._api.create_container(base, entrypoint=["none"])["Id"]
        try:
            self._api.put_archive(container, "/", content.getvalue())
            self._made.append(self._api.commit(container, conf={"Env": list(variables)})["Id"])
        finally:
            self._api.remove_container(container, force=True)
        return self._made[-1]

    def close(self) -> None:
        """Remove them."""
        for image in self._made:
            self._api.remove_image(image, force=True)

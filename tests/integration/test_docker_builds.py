"""Images that a real Engine builds from a profile's Dockerfile, finds again, and removes."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_sandboxes.backends.docker import building, recipe
from pytest_sandboxes.backends.docker.engine import Engine
from pytest_sandboxes.backends.docker.images import Images
from pytest_sandboxes.errors import BackendUnavailableError
from pytest_sandboxes.profiles.profile import Profile
from tests.integration.conftest import Inner
from tests.integration.docker_images import Told

docker = pytest.importorskip("docker", reason="the docker SDK is not installed")

PATIENCE = 120.0
LABEL = "pytest-sandboxes.test"
"""What all that is built from has, so that what a failed build leaves can be removed."""
TAG = f"{building.REPOSITORY}:"


@pytest.fixture(autouse=True)
def owner(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Whose the builds of this test are; they are gone afterwards."""
    name = f"test-{time.monotonic_ns()}"
    monkeypatch.setattr(building, "owner", lambda: name)
    yield name
    for label in (f"{building._OWNER}={name}", f"{LABEL}={name}"):
        for image in engine.images.list(filters={"label": label}):
            engine.api.remove_image(image.id, force=True)


@pytest.fixture
def images(engine: Any) -> Iterator[Images]:
    connected = Engine()
    yield Images(connected)
    connected.close()


@pytest.fixture
def project(tmp_path: Path, busybox_image: str, owner: str) -> Path:
    """A directory with a Dockerfile, and a file of which there is no other."""
    directory = tmp_path / "built"
    directory.mkdir()
    (directory / "Dockerfile").write_text(
        f"FROM {busybox_image}\nLABEL {LABEL}={owner}\nARG who=nobody\nCOPY . /files\nRUN echo $who >/who\nWORKDIR /files\n"
    )
    (directory / "unique").write_text(str(time.monotonic_ns()))
    return directory


def made_of(directory: Path, **section: Any) -> recipe.Recipe:
    profile = Profile().override({"docker": section or {"context": "."}}, "sandboxes.yaml:4")
    found = recipe.read(profile, directory)
    assert found is not None
    return found


def output(engine: Any, image: str, script: str) -> str:
    said: bytes = engine.containers.run(image, ["sh", "-c", script], remove=True, network_mode="none")
    return said.decode()


def test_what_is_built_has_the_files_and_arguments(project: Path, images: Images, engine: Any) -> None:
    (project / "run").write_text("#!/bin/sh\necho ran\n")
    (project / "run").chmod(0o755)
    (project / ".dockerignore").write_text("secret\nDockerfile\n.dockerignore\n")
    (project / "secret").write_text("x")
    told = Told()
    image = images.build(made_of(project, context=".", build_args={"who": "me; $(you)"}), told)
    assert image.name.startswith(TAG)
    assert image.workdir == "/files"
    assert output(engine, image.name, "./run; cat /who; ls -A").split() == [
        "ran",
        "me;",
        "$(you)",
        "run",
        "unique",
    ]
    assert told.begun == [f"building image from {project}/Dockerfile"]
    assert re.fullmatch(r"step (\d) of \1", told.states[-1])
    assert "MB of files" in told.states[0]


def test_nothing_is_built_twice(project: Path, images: Images) -> None:
    first = images.build(made_of(project))
    told = Told()
    assert Images(images._engine).build(made_of(project), told).id == first.id
    assert not told.begun


@pytest.mark.parametrize("what", ["file", "argument", "dockerfile", "ignored"])
def test_what_makes_another_image(project: Path, images: Images, what: str) -> None:
    first = images.build(made_of(project))
    section: dict[str, Any] = {"context": "."}
    if what == "file":
        (project / "new").touch()
    elif what == "argument":
        section["build_args"] = {"who": "me"}
    elif what == "dockerfile":
        (project / "Dockerfile").write_text((project / "Dockerfile").read_text() + "ENV A=1\n")
    else:
        (project / ".dockerignore").write_text("unique")
    assert Images(images._engine).build(made_of(project, **section)).name != first.name


def test_a_stage_is_built(project: Path, images: Images, busybox_image: str, engine: Any) -> None:
    (project / "Dockerfile").write_text(
        f"FROM {busybox_image} AS one\nRUN echo one >/it\nFROM one AS two\nRUN echo two >/it\n"
    )
    for target in ("one", "two"):
        assert (
            output(engine, images.build(made_of(project, context=".", target=target)).name, "cat /it")
            == f"{target}\n"
        )


def test_a_dockerfile_from_elsewhere(project: Path, images: Images, tmp_path: Path, engine: Any) -> None:
    (project / "Dockerfile").rename(tmp_path / "elsewhere")
    image = images.build(made_of(tmp_path, dockerfile="elsewhere", context="built"))
    assert output(engine, image.name, "ls -A").split() == [".dockerignore", "unique"]


def test_many_who_ask_are_one_build(project: Path, images: Images, engine: Any) -> None:
    told = Told()
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(images.build(made_of(project), told))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(found) == 6
    assert len(set(map(id, found))) == 1
    assert len(told.begun) == 1


def complaint(images: Images, made: recipe.Recipe) -> str:
    with pytest.raises(BackendUnavailableError) as caught:
        images.build(made)
    said = str(caught.value)
    assert said.startswith("sandboxes.yaml:4, profile 'default': an image cannot be built from ")
    return said


@pytest.mark.parametrize(
    ("line", "reason", "remedy"),
    [
        ("RUN echo before; exit 3", "returned a non-zero code: 3", "correct the command"),
        ("COPY none /none", "COPY failed", "correct the path, which counts from docker.context"),
        ("COPY ../../etc /etc", "forbidden path outside the build context", "docker.context"),
        ("RUN --mount=type=secret,id=x true", "BuildKit", "build it by hand with docker build"),
        ("NONSENSE", "unknown instruction: NONSENSE", "correct the Dockerfile"),
    ],
)
def test_what_fails_says_why(project: Path, images: Images, line: str, reason: str, remedy: str) -> None:
    dockerfile = project / "Dockerfile"
    dockerfile.write_text(f"{dockerfile.read_text()}{line}\n")
    said = complaint(images, made_of(project))
    first, _, rest = said.partition("\n")
    assert reason in first
    assert remedy in first
    if line.startswith("RUN echo"):
        assert "The build's last lines:" in first
        assert "| before" in rest.splitlines()


def test_a_stage_that_is_not_there(project: Path, images: Images) -> None:
    assert "correct docker.target" in complaint(images, made_of(project, context=".", target="none"))


def test_what_a_build_writes_moves_no_cursor(project: Path, images: Images) -> None:
    dockerfile = project / "Dockerfile"
    dockerfile.write_text(
        f"{dockerfile.read_text()}RUN printf '\\033[2J\\r::add-mask::x\\n%s\\n' 'Step 9/9 : x'; exit 1\n"
    )
    said = complaint(images, made_of(project))
    assert "\x1b" not in said
    assert "\r" not in said
    assert "\n::add-mask::" not in said
    assert r"\x1b[2J" in said


def test_the_next_one_tries_again(project: Path, images: Images) -> None:
    whole = (project / "Dockerfile").read_text()
    (project / "Dockerfile").write_text(f"{whole}RUN exit 1\n")
    complaint(images, made_of(project))
    (project / "Dockerfile").write_text(whole)
    assert images.build(made_of(project))


def test_files_that_change_while_they_are_sent(
    project: Path, images: Images, engine: Any, owner: str
) -> None:
    @contextmanager
    def meddle(_: str) -> Iterator[Callable[[str], None]]:
        (project / "unique").write_text("another")
        yield lambda _: None

    with pytest.raises(BackendUnavailableError, match="its files have changed meanwhile"):
        images.build(made_of(project), meddle)
    made = engine.images.list(filters={"label": f"{building._OWNER}={owner}"})
    assert [image.tags for image in made] == [[]], "what was built has no name by which it could be found"


def test_a_build_that_stands_still_is_ended(
    project: Path, images: Images, engine: Any, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / ".dockerignore").write_text("Dockerfile\n")
    Images(images._engine).build(made_of(project))  # so that no other step than the last takes any time
    monkeypatch.setattr(building, "SILENCE", 10.0)
    dockerfile = project / "Dockerfile"
    dockerfile.write_text(f"{dockerfile.read_text()}RUN echo waiting; sleep 600\n")
    said = complaint(images, made_of(project))
    assert "nothing has come for 10 s; see what its last step waits for" in said
    assert "| waiting" in said
    deadline = time.monotonic() + PATIENCE
    while left := engine.api.containers(all=True, filters={"label": f"{LABEL}={owner}"}):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_a_name_that_somebody_else_has_given(
    project: Path, images: Images, engine: Any, busybox_image: str
) -> None:
    built = images.build(made_of(project))
    engine.api.tag(busybox_image, built.name, force=True)
    again = Images(images._engine).build(made_of(project))
    assert again.id == built.id
    assert "unique" in output(engine, again.name, "ls /files")


def test_what_nobody_uses_is_removed(
    project: Path, images: Images, engine: Any, monkeypatch: pytest.MonkeyPatch, busybox_image: str
) -> None:
    def another(name: str) -> str:
        (project / "unique").write_text(f"{name} {time.monotonic_ns()}")
        return images.build(made_of(project, context=".", build_args={"who": name})).name

    old, used, renamed = another("old"), another("used"), another("renamed")
    engine.api.tag(renamed, f"test-{time.monotonic_ns()}")
    with monkeypatch.context() as patched:
        patched.setattr(building, "owner", lambda: "somebody else")
        theirs = another("theirs")
    try:
        time.sleep(2)  # the Engine's stamps are whole seconds
        engine.api.tag(used, building.REPOSITORY, used.partition(":")[2])
        last_use = building._seconds(engine.api.inspect_image(used)["Metadata"]["LastTagTime"])
        in_two_weeks = SimpleNamespace(time=lambda: last_use + building.UNUSED)
        monkeypatch.setattr(building, "time", in_two_weeks)
        new = another("new")
        left = {tag for image in engine.api.images() for tag in image["RepoTags"] or ()}
        assert old not in left
        assert {used, renamed, theirs, new} <= left
    finally:
        engine.api.remove_image(theirs, force=True)


def test_a_suite_on_an_image_of_its_own(inner: Inner, python_image: str, engine: Any) -> None:
    inner.write("recipes/Dockerfile", f"FROM {python_image}\nCOPY data /data\n")
    inner.write("recipes/data", f"{time.monotonic_ns()}\n")
    inner.write(
        "conf/sandboxes.yaml", "profiles:\n  default:\n    docker: {dockerfile: ../recipes/Dockerfile}\n"
    )
    inner.write("test_it.py", "def test_it(sandbox):\n    assert sandbox.sh('cat /data').success\n")
    arguments = ("--sandbox-backend=docker", "--sandbox-profiles-file=conf/sandboxes.yaml")
    run = inner.run(*arguments)
    assert run.counts == {"passed": 1}, run.stdout
    told = [line for line in run.stdout.splitlines() if "building" in line]
    assert len(told) == 2, run.stdout
    assert re.search(r"building image from recipes/Dockerfile: step (\d) of \1, \d+ s", told[1])
    again = inner.run(*arguments)
    assert again.counts == {"passed": 1}
    assert "building" not in again.stdout


@pytest.mark.parametrize(
    ("profile", "complaint"),
    [
        ("{docker: {dockerfil: x}}", "sandboxes.yaml:2, profile 'default': unknown field of docker 'dockerfil'; did you mean 'dockerfile'?"),
        ("{docker: {dockerfile: none}}", "sandboxes.yaml:2, profile 'default': there is no file */none to build from; correct*"),
        ("{docker: {context: none}}", "sandboxes.yaml:2, profile 'default': there is no directory */none to build from; correct*"),
        ("{docker: {context: .}, image: x}", "profile 'default' has an image (sandboxes.yaml:2), and a docker section*"),
        ("{docker: {context: .}}", "sandboxes.yaml:2, profile 'default': an image cannot be built from Dockerfile: *"),
    ],
)  # fmt: skip
def test_a_mistake_ends_the_run_before_the_first_test(
    inner: Inner, engine: Any, profile: str, complaint: str
) -> None:
    inner.write("Dockerfile" if "{docker: {context: .}" in profile else "x", "FROM\n")
    inner.write("sandboxes.yaml", f"profiles:\n  default: {profile}\n")
    inner.write("test_it.py", "def test_it(sandbox):\n    pass\n")
    run = inner.run("--sandbox-backend=docker")
    assert run.exit_code == pytest.ExitCode.USAGE_ERROR, run.stdout
    run.result.stderr.fnmatch_lines([f"ERROR: {complaint}".replace("[", "[[]")])


def test_a_marker_has_a_recipe_of_its_own(inner: Inner, python_image: str, engine: Any) -> None:
    inner.write("special/Dockerfile", f"FROM {python_image}\nRUN echo special >/it\n")
    inner.write(
        "test_it.py",
        """
        import pytest

        @pytest.mark.sandbox(docker={"context": "special"})
        def test_it(sandbox):
            assert sandbox.read_text("/it") == "special\\n"
        """,
    )
    run = inner.run("--sandbox-backend=docker")
    assert run.counts == {"passed": 1}, run.stdout

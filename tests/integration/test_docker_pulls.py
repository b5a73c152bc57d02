"""Pulls by a real Engine from a real registry: how far they are, and everything that goes wrong with one."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_sandboxes.backends.docker import pulling
from pytest_sandboxes.backends.docker.engine import Engine
from pytest_sandboxes.backends.docker.images import Images
from pytest_sandboxes.errors import BackendUnavailableError, SandboxStartError
from tests.engine import registry
from tests.engine.registry import Registry
from tests.integration.conftest import Inner
from tests.integration.docker_images import Told
from tests.integration.terminal import on_terminal
from tests.waiting import wait_until

docker = pytest.importorskip("docker", reason="the docker SDK is not installed")

PATIENCE = 60.0
WRONG_NAMES = (
    "{registry}/No/Upper",
    "http://{registry}/it",
    "-x/it",
    "../x",
    "a b",
    "x?y",
    "a@b",
    ":",
    "\x1b[31mred",
)


@pytest.fixture(scope="module")
def saved(engine: Any, busybox_image: str) -> bytes:
    return registry.save(engine, busybox_image)


@pytest.fixture
def serving(engine: Any) -> Iterator[Registry]:
    """A registry of this test's own; no Engine keeps what it has pulled from it."""
    with registry.serve() as served:
        yield served
    forget(engine, served)


@pytest.fixture
def private(engine: Any) -> Iterator[Registry]:
    """One for whose images one has to log in."""
    with registry.serve(private=True) as served:
        yield served
    forget(engine, served)


def forget(engine: Any, served: Registry) -> None:
    for image in engine.api.images():  # one call: other tests remove theirs meanwhile
        for tag in image["RepoTags"] or ():
            if tag.startswith(f"{served.address}/"):
                engine.api.remove_image(tag)


@pytest.fixture
def images() -> Iterator[Images]:
    engine = Engine()
    yield Images(engine)
    engine.close()


def test_a_pull_says_how_far_it_is(serving: Registry, saved: bytes, images: Images) -> None:
    serving.add("it", saved, megabytes=8)
    told = Told()
    image = images.get(serving.name("it"), told)
    assert image.workdir == "/"
    assert told.begun == [f"pulling image {serving.name('it')}"]
    assert re.fullmatch(r"2 of 2 layers, \d+\.\d MB", told.states[-1])
    assert len(set(told.states)) > 2


def test_what_is_there_is_not_pulled(serving: Registry, saved: bytes, images: Images) -> None:
    serving.add("it", saved)
    images.get(serving.name("it"))
    serving.requests.clear()
    told = Told()
    assert images.get(serving.name("it"), told) == Images(images._engine).get(serving.name("it"), told)
    assert not told.begun
    assert not serving.requests


def test_many_who_ask_are_one_pull(serving: Registry, saved: bytes, images: Images) -> None:
    layer = serving.add("it", saved)
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(images.get(serving.name("it")))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(found) == 8
    assert len(set(map(id, found))) == 1
    assert sum(layer in path for path in serving.requests) == 1


def test_an_image_by_its_digest(serving: Registry, saved: bytes, images: Images) -> None:
    serving.add("it", saved)
    name = f"{serving.name('it')}@{registry._digest(serving.manifests['it'])}"
    assert images.get(name).id.startswith("sha256:")
    images._engine.api().remove_image(name)


def login(served: Registry, directory: Path, password: str) -> None:
    """What `docker login` leaves behind."""
    auth = base64.b64encode(f"{registry.USER}:{password}".encode()).decode()
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps({"auths": {served.address: {"auth": auth}}}))


def test_with_the_users_credentials(
    private: Registry, saved: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private.add("it", saved)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    login(private, tmp_path / "config", registry.PASSWORD)
    engine = Engine()
    try:
        assert Images(engine).get(private.name("it")).id.startswith("sha256:")
    finally:
        engine.close()


@pytest.mark.parametrize("password", [None, "wrong"])
def test_without_the_right_ones(
    private: Registry, saved: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    private.add("it", saved)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    if password:
        login(private, tmp_path / "config", password)
    engine = Engine()
    try:
        with pytest.raises(BackendUnavailableError) as caught:
            Images(engine).get(private.name("it"))
    finally:
        engine.close()
    assert f"has no image '{private.name('it')}' and cannot pull it" in str(caught.value)
    assert f"log in with docker login {private.address}" in str(caught.value)
    assert password is None or password not in str(caught.value)


def test_credentials_that_cannot_be_read(
    serving: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {serving.address: "none-such"}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    engine = Engine()
    try:
        with pytest.raises(
            BackendUnavailableError, match=f"credentials for {serving.address}.* cannot be read"
        ):
            Images(engine).get(serving.name("it"))
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("{registry}/none", "correct the name or the tag in the profile's image"),
        ("{registry}/it:none", "correct the name or the tag in the profile's image"),
        ("{registry}/foreign", "is for s390x, and the Docker Engine at .* runs on .*: use an image for"),
        ("{registry}/listed", "use an image that there is for the Engine's platform"),
        ("/x", "correct the profile's image"),
        ("127.0.0.1:1/it", "see whether the Engine's host reaches the registry"),
        *((name, "is no name of an image: .*; correct") for name in WRONG_NAMES),
    ],
)
def test_what_cannot_be_pulled(
    serving: Registry, saved: bytes, images: Images, name: str, remedy: str
) -> None:
    serving.add("it", saved)
    serving.add("foreign", saved, architecture="s390x")
    serving.add_list("listed", "s390x")
    with pytest.raises(BackendUnavailableError) as caught:
        images.get(name.format(registry=serving.address))
    assert re.search(remedy, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_the_next_one_tries_again(serving: Registry, saved: bytes, images: Images) -> None:
    with pytest.raises(BackendUnavailableError):
        images.get(serving.name("it"))
    serving.add("it", saved)
    assert images.get(serving.name("it"))


@pytest.mark.parametrize("what", ["layer", "manifest"])
def test_a_pull_that_stands_still_is_given_up(
    serving: Registry, saved: bytes, images: Images, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(pulling, "SILENCE", 2.0)
    layer = serving.add("it", saved)
    if what == "layer":
        serving.stalls.add(layer)
    else:
        config = json.loads(serving.manifests["it"])["config"]["digest"]
        serving.stalls.add(config)
    with pytest.raises(
        BackendUnavailableError, match="cannot pull it: nothing has come for 2 s; see whether"
    ):
        images.get(serving.name("it"))


def test_a_pull_that_never_ends_is_given_up(
    serving: Registry, saved: bytes, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "LONGEST", 0.0)
    serving.add("it", saved)
    with pytest.raises(BackendUnavailableError, match="it has taken more than 0 s"):
        images.get(serving.name("it"))


@pytest.mark.parametrize("what", ["layer", "config"])
def test_the_end_of_the_run_ends_a_pull(serving: Registry, saved: bytes, images: Images, what: str) -> None:
    digest = serving.add("it", saved)
    if what == "config":  # before which the Engine does not say a word
        digest = json.loads(serving.manifests["it"])["config"]["digest"]
    serving.stalls.add(digest)
    said: list[str] = []

    def pull() -> None:
        with pytest.raises(SandboxStartError) as caught:
            images.get(serving.name("it"))
        said.append(str(caught.value))

    pulling = threading.Thread(target=pull, daemon=True)
    pulling.start()
    wait_until(lambda: any(digest in path for path in serving.requests))
    images._engine.stop_waiting()
    pulling.join(PATIENCE)
    assert said == ["the Docker Engine has not been waited for at /images/create: the run is over"]


PROFILES = "profiles: {{default: {{image: {image}}}}}\n"
TEST = "def test_it(sandbox):\n    assert sandbox.sh('true').success\n"


def test_in_a_log_there_are_two_lines(serving: Registry, saved: bytes, inner: Inner) -> None:
    serving.add("it", saved)
    name = serving.name("it")
    inner.write("sandboxes.yaml", PROFILES.format(image=name))
    inner.write("test_it.py", TEST)
    for arguments in ([], ["-v"]):
        run = inner.run("--sandbox-backend=docker", *arguments)
        lines = [line for line in run.stdout.splitlines() if "pulling" in line]
        assert len(lines) == 2, run.stdout
        assert lines[0] == f"sandboxes: pulling image {name}"
        assert re.fullmatch(rf"sandboxes: pulling image {name}: 2 of 2 layers, \d\.\d MB, \d+ s", lines[1])
        assert "pulling" not in inner.run("--sandbox-backend=docker", *arguments).stdout
        inner_engine = docker.from_env()
        inner_engine.api.remove_image(name)
        inner_engine.close()


def test_on_a_terminal_one_line_changes(serving: Registry, saved: bytes, inner: Inner) -> None:
    serving.add("it", saved, megabytes=24)
    inner.write("sandboxes.yaml", PROFILES.format(image=serving.name("it")))
    inner.write("test_it.py", TEST)
    said = on_terminal(inner.path, 60, "--sandbox-backend=docker")
    shown = [part for part in re.split(r"[\r\n]+", said) if "pulling image" in part]
    assert len(shown) > 2, said
    assert all(len(part) < 60 for part in shown), shown
    assert re.search(r"2 of 2 layers, \d+\.\d MB, \d+ s", shown[-1]), shown
    assert len([line for line in said.split("\n") if "pulling image" in line]) == 1

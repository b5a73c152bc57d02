"""What each backend makes of each field of a profile: a promise that it keeps, one that it refuses, or no use."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pytest_sandboxes.backends.base import Backend, BackendOptions
from pytest_sandboxes.backends.docker import DockerBackend
from pytest_sandboxes.backends.local import LocalBackend
from pytest_sandboxes.errors import ConfigurationError, UnsupportedError
from pytest_sandboxes.profiles.profile import FIELDS, Profile

KEPT, REFUSED, UNUSED, OTHERS = "kept", "refused", "unused", "a section of another backend"
BACKENDS: dict[str, Callable[[BackendOptions], Backend]] = {"local": LocalBackend, "docker": DockerBackend}
# For each field a value that is not its default, and what becomes of it on `local` and on `docker`.
FATES: dict[str, tuple[object, str, str]] = {
    "image": ("python:3.12", UNUSED, KEPT),
    "user": ("root", REFUSED, REFUSED),
    "setup": (["true"], KEPT, KEPT),
    "workspace_base": ("/elsewhere", KEPT, KEPT),
    "workspace_source": ("data", KEPT, KEPT),
    "env_vars": ({"NAME": "value"}, KEPT, KEPT),
    "secrets": (["PATH"], KEPT, KEPT),
    "app_name": ("app", UNUSED, UNUSED),
    "gpu": ("any:1", REFUSED, KEPT),
    "cpu": (1, KEPT, KEPT),
    "memory": (64, KEPT, KEPT),
    "disk": (64, KEPT, KEPT),
    "pids": (64, KEPT, KEPT),
    "network": ("outbound", REFUSED, KEPT),
    "isolation": ("sandbox", KEPT, KEPT),
    "output_limit": (5, KEPT, KEPT),
    "acquire_timeout_s": (5, KEPT, KEPT),
    "execution_timeout_s": (5, KEPT, KEPT),
    "slots_per_sandbox": (2, UNUSED, KEPT),
    "target_slots_per_sandbox": (1, UNUSED, KEPT),
    "min_sandboxes": (1, KEPT, KEPT),
    "max_sandboxes": (2, KEPT, KEPT),
    "buffer_sandboxes": (1, KEPT, KEPT),
    "scaledown_window": (60, KEPT, KEPT),
    "idle_timeout": (60, KEPT, KEPT),
    "max_lifetime": (60, KEPT, KEPT),
    "max_uses": (5, KEPT, KEPT),
    "local": ({"any": 1}, REFUSED, OTHERS),
    "docker": ({"any": 1}, OTHERS, REFUSED),
    "modal": ({"any": 1}, OTHERS, OTHERS),
    "gcp": ({"any": 1}, OTHERS, OTHERS),
}


MACHINES = {("memory", "local"), ("pids", "local"), ("cpu", "local")}
"""Whether they are kept depends on control groups; test_cgroups.py has them."""


def test_every_field_has_its_fate() -> None:
    assert list(FATES) == list(FIELDS)


@pytest.mark.parametrize("best_effort", [False, True], ids=["strict", "best-effort"])
@pytest.mark.parametrize(
    ("field", "backend"),
    [(field, backend) for field in FATES for backend in BACKENDS if (field, backend) not in MACHINES],
)
def test_what_becomes_of_a_field(field: str, backend: str, *, best_effort: bool) -> None:
    value, *fates = FATES[field]
    fate = fates[list(BACKENDS).index(backend)]
    profile = Profile().override({field: value}, "conf.yaml:3")
    options = BackendOptions(best_effort=best_effort, directory=Path())
    with closing(BACKENDS[backend](options)) as made:
        if field == backend == "docker":  # has sections, and none like this
            with pytest.raises(
                ConfigurationError, match=r"^conf\.yaml:3, profile 'default': unknown field of docker"
            ):
                made.check(profile)
        elif fate == REFUSED and not best_effort:
            with pytest.raises(UnsupportedError) as caught:
                made.check(profile)
            assert str(caught.value).startswith(f"conf.yaml:3: {field} of profile 'default' cannot be kept: ")
        else:
            checked = made.check(profile)
            assert checked.unused == ((field,) if fate == UNUSED else ())
            assert checked.dropped == ((field,) if fate == REFUSED else ())


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_nobody_has_set_is_not_spoken_of(backend: str) -> None:
    """Such as the name of the app that every profile of a run has."""
    profile = Profile(app_name="pytest-sandboxes-default")
    with closing(BACKENDS[backend](BackendOptions())) as made:
        checked = made.check(profile)
    assert (checked.unused, checked.dropped) == ((), ())


@pytest.mark.parametrize(
    ("base", "slots", "place"),
    [
        ("/home", 1, "/home"),
        ("/home/x", 1, "/home"),
        ("/home/sandbox", 1, "/home"),
        ("/tmp/x/", 1, "/tmp"),
        ("/var", 1, "/var/tmp"),
        ("/.pytest-sandboxes", 1, "/.pytest-sandboxes"),
        ("/.pytest-sandboxes-source/x", 1, "/.pytest-sandboxes-source"),
        ("/tmp", 2, "/tmp"),
        ("/home/x", 2, "/home"),
        ("/.pytest-sandboxes/x", 2, "/.pytest-sandboxes"),
        ("/tmp", 1, None),
        ("/tmpx", 1, None),
        ("/usr/src/app", 1, None),
        ("/var", 2, None),
    ],
)
def test_where_workspaces_in_a_container_cannot_be(base: str, slots: int, place: str | None) -> None:
    profile = Profile().override({"workspace_base": base, "slots_per_sandbox": slots}, "conf.yaml:3")
    with closing(DockerBackend(BackendOptions())) as made:
        if place is None:
            assert made.check(profile).unused == ()
            return
        with pytest.raises(ConfigurationError) as caught:
            made.check(profile)
    assert str(caught.value) == (
        f"conf.yaml:3: workspace_base of profile 'default' is {base!r}, but {place} is no place for workspaces in a "
        "container: choose another"
    )


def test_the_workspace_of_an_image_as_it_is_has_another_place() -> None:
    fields = {"workspace_base": "/tmp/x", "isolation": "sandbox"}
    with closing(DockerBackend(BackendOptions())) as made:
        assert made.check(Profile().override(fields, "conf.yaml:3")).unused == ("workspace_base",)

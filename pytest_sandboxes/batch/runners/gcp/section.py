"""A profile's section `gcp`: where the job runs, on what machines, and what it may take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any

from msgspec import Meta

from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.fields import PositiveCount, Text, Variables, check_value
from pytest_sandboxes.profiles.profile import Profile, check_known
from pytest_sandboxes.wording import shown

_Switch = bool
_Patience = Annotated[float, Meta(ge=1, le=172_800, description="a number of seconds from 1 to 172800")]
_Timeout = Annotated[float, Meta(ge=5, le=86_400, description="a number of seconds from 5 to 86400")]
_Duration = Annotated[float, Meta(ge=60, le=1_209_600, description="a number of seconds from 60 to 1209600")]
_Disk = Annotated[int, Meta(ge=10, le=65_536, description="a whole number of GB from 10 to 65536")]
_Machines = Annotated[int, Meta(ge=1, le=2000, description="a whole number from 1 to 2000")]

FIELDS: Mapping[str, object] = {
    "project": Text,
    "region": Text,
    "zone": Text,
    "bucket": Text,
    "backend": Text,
    "machine_type": Text,
    "machines": _Machines,
    "tasks_per_machine": PositiveCount,
    "disk": _Disk,
    "spot": _Switch,
    "vm_image": Text,
    "runner_image": Text,
    "vm_python": Text,
    "service_account": Text,
    "network": Text,
    "subnetwork": Text,
    "external_ip": _Switch,
    "labels": Variables,
    "max_run_duration": _Duration,
    "start_timeout": _Patience,
    "controller_timeout": _Timeout,
}
"""What the section may say, with types for `check_value`."""

_OWN_LABELS = "pytest-sandboxes"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_PLACE = re.compile(r"[a-z]+-[a-z]+[0-9]+")
_ZONE = re.compile(r"([a-z]+-[a-z]+[0-9]+)-[a-z]")
_LABEL_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_PROJECT = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")
_PATTERNS: Mapping[str, tuple[re.Pattern[str], str]] = {
    "project": (_PROJECT, "the id of a project, such as my-project-123"),
    "region": (_PLACE, "a region, such as us-central1"),
    "zone": (_ZONE, "a zone, such as us-central1-a"),
    "bucket": (_BUCKET, "the name of a bucket: 3 to 63 of a-z, 0-9, '-', '_' and '.', without gs://"),
    "machine_type": (re.compile(r"[a-z0-9]+(-[a-z0-9]+)+"), "a machine type, such as e2-standard-4"),
    "vm_python": (re.compile(r"/[A-Za-z0-9._/+-]+"), "an absolute path, such as /usr/bin/python3"),
    "backend": (
        re.compile(r"(?!(gcp|modal)$)[\w.-]+"),
        "one for shards on VMs, which get no credentials of Modal, and sandboxes of their own: docker, local, or yours",
    ),
    "runner_image": (re.compile(r"[\w./:@-]+"), "the name of a container image"),
    "vm_image": (re.compile(r"[\w./:-]+"), "the name of an image of VMs"),
    "service_account": (re.compile(r"[\w.-]+@[\w.-]+"), "the email address of a service account"),
    "network": (re.compile(r"[\w./:-]+"), "the name of a network, such as projects/P/global/networks/N"),
    "subnetwork": (re.compile(r"[\w./:-]+"), "the name of a subnetwork, such as regions/R/subnetworks/S"),
}


@dataclass(frozen=True)
class Section:
    """The section, checked."""

    bucket: str
    """Where archives go, and events come from."""
    project: str | None = None
    """None is that of the environment, or of the credentials."""
    region: str = "us-central1"
    zone: str | None = None
    """The only one to take VMs of; None is any of the region."""
    backend: str = "docker"
    """The backend inside the shards."""
    machine_type: str = "e2-standard-4"
    machines: int = 10
    """The most VMs at a time."""
    tasks_per_machine: int = 2
    """Shards that run at a time on each."""
    disk: int = 50
    """GB of a VM's boot disk."""
    spot: bool = False
    vm_image: str | None = None
    """None is that of Batch, with Docker."""
    runner_image: str | None = None
    """Container image in which shards run; None is Docker's official image of this version of Python."""
    vm_python: str | None = None
    """In place of a container: the Python of the VM's image."""
    service_account: str | None = None
    """Whose VMs are; None is the project's default one for Compute Engine."""
    network: str | None = None
    subnetwork: str | None = None
    external_ip: bool = True
    labels: Mapping[str, str] | None = None
    max_run_duration: float = 3600.0
    """Seconds after which the service ends a shard."""
    start_timeout: float = 1800.0
    """Seconds after which a job without any VM is given up."""
    controller_timeout: float = 120.0
    """Seconds without a sign of life from the controller after which shards end."""


def cores_of(machine_type: str) -> int:
    """What its name says, or 1: the service shares VMs among tasks by the number that it is told."""
    found = re.search(r"-(\d+)(?:-|$)", machine_type)
    return int(found[1]) if found else 1


def read(profile: Profile) -> Section:
    """The section of `profile`. Raises `ConfigurationError` for what it may not say."""
    values: dict[str, Any] = {}
    for name, given in profile.gcp.items():
        here = _where(profile, name)
        check_known(name, FIELDS, "field of gcp", here)
        value = check_value(FIELDS[name], given, f"gcp.{name}", here)
        if name in _PATTERNS:
            pattern, expected = _PATTERNS[name]
            _check(profile, name, str(value), pattern, expected)
        values[name] = value
    _check_labels(profile, values.get("labels", {}))
    if "bucket" not in values:
        raise ConfigurationError(
            f"backend gcp needs a bucket for what it sends and for what comes back: gcloud storage buckets create "
            f"gs://NAME --location={values.get('region', Section.region)} --uniform-bucket-level-access "
            f"--soft-delete-duration=0, and gcp: {{bucket: NAME}} in profile {profile.name!r}"
        )
    if "vm_python" in values and "runner_image" in values:
        raise ConfigurationError(
            f"{_where(profile, 'vm_python')}: gcp.vm_python is in place of a container, and gcp.runner_image names one "
            f"({profile.source('gcp.runner_image')}): remove one of them"
        )
    zone = values.get("zone")
    if zone is not None:
        region = zone.rpartition("-")[0]
        if values.setdefault("region", region) != region:
            raise ConfigurationError(
                f"{_where(profile, 'zone')}: gcp.zone is {shown(zone)}, which is not in gcp.region "
                f"{shown(values['region'])} ({profile.source('gcp.region')}): correct one of them"
            )
    assert FIELDS.keys() == {each.name for each in fields(Section)}
    return Section(**values)


def _check_labels(profile: Profile, labels: Mapping[str, str]) -> None:
    for name, value in labels.items():
        for text, pattern in ((name, _LABEL_NAME), (value, _LABEL_VALUE)):
            _check(
                profile,
                "labels",
                text,
                pattern,
                "what a label may be: a-z, 0-9, '-' and '_', at most 63, and a letter first in its name",
            )
        if name.startswith(("goog", _OWN_LABELS)):
            raise ConfigurationError(
                f"{_where(profile, 'labels')}: {shown(name)} in gcp.labels is not yours to set: choose another name"
            )


def _check(profile: Profile, name: str, value: str, pattern: re.Pattern[str], expected: str) -> None:
    if not pattern.fullmatch(value):
        raise ConfigurationError(
            f"{_where(profile, name)}: {shown(value)} in gcp.{name} is not {expected}; correct it"
        )


def _where(profile: Profile, name: str) -> str:
    return f"{profile.source(f'gcp.{name}')}, profile {profile.name!r}"

"""A profile: a named recipe of sandboxes, each value with its source.

It is built in layers: the defaults below, then what the profiles file says, then the environment, then the arguments
of a test's marker. `Profile.lay` adds one layer and is the only place where values enter, so a mistake reads the same
wherever it was made.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Self, cast

import msgspec

from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.fields import (
    Bytes,
    Cores,
    Count,
    Gpu,
    Megabytes,
    Network,
    PositiveCount,
    Processes,
    Seconds,
    Section,
    Source,
    Text,
    Texts,
    Variables,
    Workspace,
    check_value,
)
from pytest_sandboxes.settings.settings import Isolation
from pytest_sandboxes.wording import did_you_mean, shown


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, eq=False, dict=True):
    """A recipe of a sandbox: what is in it, what it may use, and how many the pool keeps of it.

    `Profile()` is the built-in profile `default`; every other comes from `load_profiles` or `override`, which
    check what they are given (the constructor does not). All times are in seconds. The mappings are not to be
    changed.

    Two profiles are equal when name and all fields are, wherever the values came from.
    `msgspec.to_builtins(profile)` is plain data, from which `msgspec.convert(data, Profile)` makes it again.
    """

    name: str = "default"
    """What users call it."""
    sources: Mapping[str, str] = {}
    """For each field that was set: where, such as `sandboxes.yaml:12` or `marker on test_x.py::test_y`. A section has
    an entry for each of its keys as well, such as `docker.target`."""

    image: Text | None = None
    """Container image; None is the backend's own default."""
    user: Text | None = None
    """User that code runs as, a name or an id; None is an unprivileged one, or the image's own where
    `isolation` is `sandbox`."""
    setup: Texts = ()
    """Shell commands run once in each new sandbox, in order, before its first lease."""
    workspace_base: Workspace = "/workspace"
    """Directory in the sandbox under which the workspaces of its slots are."""
    workspace_source: Source | None = None
    """Directory of the image (absolute) or of the project (relative to the rootdir, and inside of it), copied into each
    fresh workspace."""
    env_vars: Variables = {}
    """Environment variables of all that runs in the sandbox. A layer replaces the whole mapping."""
    secrets: Texts = ()
    """Names of secrets, whose values are in the environment of each command under these names. Never the values."""
    app_name: Text | None = None
    """Name under which a cloud backend groups the sandboxes. Where nothing sets it, the name of the profile behind the
    `app_name` of the profile `default`, or behind `pytest-sandboxes`; None, outside of pytest, makes one up."""

    gpu: Gpu | None = None
    """Kind, and with `:N` number, of GPUs of a sandbox, such as `A100:2`; None is no GPU."""
    cpu: Cores | None = None
    """Cores of a sandbox, fractions allowed; None sets no limit of ours."""
    memory: Megabytes | None = None
    """Memory limit of a sandbox in MB, of all its slots together; None sets no limit of ours."""
    disk: Megabytes | None = None
    """Limit on what a slot may write, in MB; None sets no limit of ours."""
    pids: Processes | None = None
    """Limit on processes and threads in a slot; None sets no limit of ours."""
    network: Network = "none"
    """`none`, or `outbound` for connections that the code opens itself."""
    isolation: Isolation = "slot"
    """`slot`: sandboxes are shared by isolated slots. `sandbox`: each lease has a sandbox to itself, with the
    image's own user and working directory, thrown away afterwards. `none`: for trusted code only."""
    output_limit: Bytes = 10 * 1024 * 1024
    """Most bytes kept of each output stream of one command; 10 MiB."""
    acquire_timeout_s: Seconds = 300.0
    """How long a lease is waited for while nothing in the pool progresses."""
    execution_timeout_s: Seconds | None = 60.0
    """Deadline of a command that is given none of its own; None lets it run for ever."""

    slots_per_sandbox: PositiveCount = 1
    """Leases that one sandbox serves at a time; always one where `isolation` is `sandbox`."""
    target_slots_per_sandbox: PositiveCount | None = None
    """The pool grows when sandboxes have this many slots leased on average, and leases more in one only while there is
    no other; None is when all are full."""
    min_sandboxes: Count = 0
    """Sandboxes kept even when nothing needs them, from the first moment that a collected test does."""
    max_sandboxes: PositiveCount = 8
    """Sandboxes never passed, those that are just ending included."""
    buffer_sandboxes: Count = 2
    """Sandboxes kept warm beyond what is leased, as far as `max_sandboxes` allows."""
    scaledown_window: Seconds | None = None
    """A sandbox unused for so long ends if nothing is wanting without it; None leaves it to `idle_timeout`."""
    idle_timeout: Seconds | None = 600.0
    """A sandbox unused for so long ends, down to `min_sandboxes`, and what has been kept warm is no more until somebody
    waits again; None keeps it until the run ends."""
    max_lifetime: Seconds | None = None
    """A sandbox of this age gets no other lease, and ends with those that it has; None is as long as the backend
    allows."""
    max_uses: PositiveCount | None = None
    """A sandbox gets no more than so many leases, and ends with the last; None is no limit."""

    local: Section = {}
    """What only backend `local` understands. In this section as in the next three, a layer replaces those keys that it
    has, and takes away those that are null in it."""
    docker: Section = {}
    """What only backend `docker` understands, such as how the image is built."""
    modal: Section = {}
    """What only backend `modal` understands."""
    gcp: Section = {}
    """What only backend `gcp` understands."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Profile):
            return NotImplemented
        return self is other or (self.name, self._fingerprint) == (other.name, other._fingerprint)

    def __hash__(self) -> int:
        return hash((self.name, self._fingerprint))

    @property
    def capacity(self) -> int:
        """The most leases that the pool can have given out at one time."""
        return self.max_sandboxes * (1 if self.isolation == "sandbox" else self.slots_per_sandbox)

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits that tell pools apart: profiles with the same digest share sandboxes.

        It covers every field but `LEASE_FIELDS`, neither the name, nor an `app_name` that nobody has set, nor the
        sources, and is the same in each process.
        """
        recipe = {field: value for field, value in self.values() if field not in LEASE_FIELDS}
        if "app_name" not in self.sources:  # made of the profile's name
            del recipe["app_name"]
        return hashlib.sha256(_canonical(recipe)).hexdigest()[:16]

    @cached_property
    def _fingerprint(self) -> bytes:
        return _canonical(dict(self.values()))

    def values(self) -> Iterator[tuple[str, object]]:
        """Each field and its value, in the order of the class."""
        return ((field, getattr(self, field)) for field in FIELDS)

    def source(self, field: str) -> str:
        """Where the value of `field` came from; `default` when nothing set it."""
        return self.sources.get(field, "default")

    def override(self, changes: Mapping[str, object], source: str | Mapping[str, str]) -> Self:
        """`lay`, then `settled`: a profile that can be used."""
        return self.lay(changes, source).settled()

    def lay(self, changes: Mapping[str, object], source: str | Mapping[str, str]) -> Self:
        """A profile in which the fields in `changes` are replaced, each as a whole but for sections.

        `source` says where the changes were made: for all of them, or for each field and possibly each key of a
        section, as in `sources`. Raises ConfigurationError for an unknown field, and for a value of the wrong type or
        size.
        """
        checked: dict[str, object] = {}
        sources = dict(self.sources)
        for field, value in changes.items():
            origin = source if isinstance(source, str) else source[field]
            where = f"{origin}, profile {self.name!r}"
            check_known(field, FIELDS, "profile field", where)
            checked[field] = check_value(FIELDS[field], value, field, where)
            sources[field] = origin
            if field in SECTIONS:
                keys = [f"{field}.{key}" for key in cast("Section", checked[field])]
                sources.update(
                    (key, origin if isinstance(source, str) else source.get(key, origin)) for key in keys
                )
        laid = overlay({field: getattr(self, field) for field in SECTIONS & checked.keys()}, checked)
        for field in SECTIONS & checked.keys():
            section = cast("Section", laid[field])
            laid[field] = {key: item for key, item in section.items() if item is not None}
        return msgspec.structs.replace(self, **laid, sources=sources)

    def settled(self) -> Self:
        """The same profile, once all layers are there.

        Raises ConfigurationError for fields that contradict each other.
        """
        for low, high in _AT_MOST:
            lower, upper = getattr(self, low), getattr(self, high)
            # A default contradicts nobody: the pool goes as far towards it as the limit allows.
            if low in self.sources and lower is not None and lower > upper:
                raise ConfigurationError(
                    f"profile {self.name!r}: {low} is {lower} ({self.source(low)}), which is more than "
                    f"{high}, {upper} ({self.source(high)}); lower the one or raise the other"
                )
        return self


_AT_MOST = (
    ("min_sandboxes", "max_sandboxes"),
    ("buffer_sandboxes", "max_sandboxes"),
    ("target_slots_per_sandbox", "slots_per_sandbox"),
)

FIELDS: Mapping[str, object] = {
    each.name: each.type for each in msgspec.structs.fields(Profile) if each.name not in {"name", "sources"}
}
"""Every field that a file or a marker can set, with its type for `check_value`."""

SECTIONS = frozenset(field for field, annotation in FIELDS.items() if annotation == Section)
"""Those fields that belong to one backend each, by whose name they are called."""

LEASE_FIELDS = frozenset({"acquire_timeout_s", "execution_timeout_s", "output_limit"})
"""Fields of a lease and its commands, not of the sandbox: tests that differ in these alone share a pool.
Whoever leases takes them from the test's own profile, never from the pool's."""

_MEANT = dict.fromkeys(("timeout", "exec_timeout"), ("exec_timeout", "execution_timeout_s"))
"""Names used elsewhere, or by the marker, whose nearest spelling would be another field."""


def check_known(name: str, known: Iterable[str], what: str, where: str) -> None:
    """Raise ConfigurationError with the nearest right name unless `name` is one of the `known` ones."""
    if name not in known:
        meant = [each for each in _MEANT.get(name, ()) if each in known][:1]
        hint = f"; did you mean {meant[0]!r}?" if meant else did_you_mean(name, known)
        raise ConfigurationError(f"{where}: unknown {what} {shown(name)}{hint}")


def check_name(name: str, where: str) -> None:
    """Raise ConfigurationError unless a profile can have this name; `where` says who gives it."""
    # It becomes part of app names, labels and environment variables.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
        allowed = "letters, digits, '-', '_' and '.', at most 63, a letter or digit first"
        raise ConfigurationError(f"{where}: {shown(name)} cannot name a profile; a name has {allowed}")


def overlay(under: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    """What two layers say together: the upper one's fields, and within a section the upper one's keys, go first."""
    laid = {**under, **over}
    for field in SECTIONS & under.keys() & over.keys():
        below, above = under[field], over[field]
        if isinstance(below, Mapping) and isinstance(above, Mapping):  # else not checked yet, and wrong
            laid[field] = {**below, **above}
    return laid


def _canonical(recipe: Mapping[str, object]) -> bytes:
    """The same bytes for the same recipe, whatever the order of its mappings."""
    return json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()

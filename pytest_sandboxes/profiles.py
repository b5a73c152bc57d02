"""Profiles: named recipes of sandboxes, each value with its source.

A profile is built in layers: the defaults below, then what the profiles file says, then the arguments of a
test's marker. `Profile.override` adds one layer and is the only place where values enter, so a mistake reads
the same wherever it was made.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Self

import msgspec

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profile_fields import (
    Bytes,
    Cores,
    Count,
    Megabytes,
    Network,
    PositiveCount,
    Processes,
    Seconds,
    Section,
    Text,
    Texts,
    Variables,
    Workspace,
    check_value,
)
from pytest_sandboxes.settings import DEFAULT_PROFILES_FILE, Isolation
from pytest_sandboxes.wording import did_you_mean, shown, there_are

if TYPE_CHECKING:
    from pathlib import Path


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, eq=False, dict=True):
    """A recipe of a sandbox: what is in it, what it may use, and how many the pool keeps of it.

    `Profile()` is the built-in profile `default`; every other comes from `Profiles` or `override`, which
    check what they are given (the constructor does not). All times are in seconds. The mappings are not to be
    changed.

    Two profiles are equal when name and all fields are, wherever the values came from.
    `msgspec.to_builtins(profile)` is plain data, from which `msgspec.convert(data, Profile)` makes it again.
    """

    name: str = "default"
    """What users call it."""
    sources: Mapping[str, str] = {}
    """For each field that was set: where, such as `sandboxes.yaml:12` or `marker on test_x.py::test_y`."""

    image: Text | None = None
    """Container image; None is the backend's own default."""
    user: Text | None = None
    """User that code runs as, a name or an id; None is an unprivileged one, or the image's own where
    `isolation` is `sandbox`."""
    setup: Texts = ()
    """Shell commands run once in each new sandbox, in order, before its first lease."""
    workspace_base: Workspace = "/workspace"
    """Directory in the sandbox under which the workspaces of its slots are."""
    workspace_source: Text | None = None
    """Directory of the image (absolute) or of the project (relative), copied into each fresh workspace."""
    env_vars: Variables = {}
    """Environment variables of all that runs in the sandbox. A layer replaces the whole mapping."""
    secrets: Texts = ()
    """Names of secrets whose values are in the environment of the code. Never the values."""
    app_name: Text | None = None
    """Name under which a cloud backend groups the sandboxes; None makes one up."""

    gpu: Text | None = None
    """Kind, and with `:N` number, of GPUs, such as `A100:2`; None is no GPU."""
    cpu: Cores | None = None
    """Cores of a sandbox, fractions allowed; None sets no limit of ours."""
    memory: Megabytes | None = None
    """Memory limit of a sandbox in MB; None sets no limit of ours."""
    disk: Megabytes | None = None
    """Limit on what a sandbox may write, in MB; None sets no limit of ours."""
    pids: Processes | None = None
    """Limit on processes and threads in a sandbox; None sets no limit of ours."""
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
    """The pool grows when sandboxes have this many slots leased on average; None is when all are full."""
    min_sandboxes: Count = 0
    """Sandboxes kept even when nothing needs them."""
    max_sandboxes: PositiveCount = 8
    """Sandboxes never passed."""
    buffer_sandboxes: Count = 2
    """Sandboxes kept warm beyond what is leased, as far as `max_sandboxes` allows."""
    scaledown_window: Seconds | None = None
    """How long demand must have been low before surplus sandboxes end; None leaves them to `idle_timeout`."""
    idle_timeout: Seconds | None = 600.0
    """A sandbox unused for so long ends, down to `min_sandboxes`; None keeps it until the run ends."""
    max_lifetime: Seconds | None = None
    """A sandbox of this age is replaced at its next release; None is as long as the backend allows."""
    max_uses: PositiveCount | None = None
    """A sandbox is replaced after so many leases; None is never."""

    local: Section = {}
    docker: Section = {}
    modal: Section = {}
    gcp: Section = {}

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

        It covers every field but `LEASE_FIELDS`, neither the name nor the sources, and is the same in each
        process.
        """
        recipe = {field: value for field, value in self.values() if field not in LEASE_FIELDS}
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
        """A profile in which the fields in `changes` are replaced, each as a whole.

        `source` says where the changes were made: for all of them, or for each. Raises ConfigurationError for
        an unknown field, a value of the wrong type or size, and fields that contradict each other.
        """
        sources = dict.fromkeys(changes, source) if isinstance(source, str) else source
        checked: dict[str, object] = {}
        for field, value in changes.items():
            where = f"{sources[field]}, profile {self.name!r}"
            check_known(field, FIELDS, "profile field", where)
            checked[field] = check_value(FIELDS[field], value, field, where)
        applied = {field: sources[field] for field in checked}
        changed = msgspec.structs.replace(self, **checked, sources={**self.sources, **applied})
        changed._refuse_contradictions()  # noqa: SLF001 - an object of this class
        return changed

    def _refuse_contradictions(self) -> None:
        for low, high in _AT_MOST:
            lower, upper = getattr(self, low), getattr(self, high)
            # A default contradicts nobody: the pool goes as far towards it as the limit allows.
            if low in self.sources and lower is not None and lower > upper:
                raise ConfigurationError(
                    f"profile {self.name!r}: {low} is {lower} ({self.source(low)}), which is more than "
                    f"{high}, {upper} ({self.source(high)}); lower the one or raise the other"
                )


_AT_MOST = (
    ("min_sandboxes", "max_sandboxes"),
    ("buffer_sandboxes", "max_sandboxes"),
    ("target_slots_per_sandbox", "slots_per_sandbox"),
)

FIELDS: Mapping[str, object] = {
    each.name: each.type for each in msgspec.structs.fields(Profile) if each.name not in {"name", "sources"}
}
"""Every field that a file or a marker can set, with its type for `check_value`."""

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


def _canonical(recipe: Mapping[str, object]) -> bytes:
    """The same bytes for the same recipe, whatever the order of its mappings."""
    return json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode()


class Profiles:
    """The profiles of a run by name. `default` is always there, built in unless the file says what it is."""

    def __init__(self, profiles: Iterable[Profile] = (), *, origin: str = "") -> None:
        """`origin` names the file in messages."""
        self._by_name = {each.name: each for each in (Profile(), *profiles)}
        self._origin = origin

    @classmethod
    def load(cls, path: "Path | None", *, source: str) -> Self:
        """Read the profiles file at `path`, which the setting called `source` names; None reads nothing.

        Raises ConfigurationError when the file is missing, unreadable, malformed, or says something wrong.
        """
        if path is None:
            return cls()
        from pytest_sandboxes.profiles_file import read_profiles_file

        layers = read_profiles_file(path, source)
        return cls(
            (Profile(name=name).override(layer.values, layer.sources) for name, layer in layers.items()),
            origin=path.name,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """All names, `default` first, then in the order of the file."""
        return tuple(self._by_name)

    def __iter__(self) -> Iterator[Profile]:
        return iter(self._by_name.values())

    def get(self, name: str, source: str) -> Profile:
        """The profile called `name`; ConfigurationError with the nearest name when there is none.

        `source` says who asks for it.
        """
        try:
            return self._by_name[name]
        except KeyError:
            origin = self._origin or f"others would be defined in {DEFAULT_PROFILES_FILE} in the rootdir"
            hint = did_you_mean(name, self.names)
            raise ConfigurationError(
                f"{source}: unknown profile {shown(name)}, {there_are(self.names)} ({origin}){hint}"
            ) from None


def describe_profiles(profiles: Iterable[Profile]) -> str:
    """A block for each profile: its name and digest, then every field with its value and source, in columns.

    Values are written so that they can be copied into a profiles file.
    """
    return "\n\n".join(_describe(profile) for profile in profiles)


def _describe(profile: Profile) -> str:
    rows = [
        (field, one_line(json.dumps(value, ensure_ascii=False), 60), profile.source(field))
        for field, value in profile.values()
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"  {field:<{widths[0]}}  {value:<{widths[1]}}  {source}" for field, value, source in rows]
    return "\n".join([f"{profile.name} (digest {profile.digest})", *lines])

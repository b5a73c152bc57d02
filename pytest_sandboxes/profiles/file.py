"""The profiles file: YAML, read with the line of every key, so that each mistake can be pointed at.

Values are built from YAML's node graph rather than by `safe_load`, which forgets lines, lets the last of two
equal keys win in silence, and turns `no` into a boolean and `1:30` into a number. The file may come with a cloned
project: its size, its depth and what its aliases expand to are bounded.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.profile import SECTIONS, check_name
from pytest_sandboxes.wording import did_you_mean, shown, yaml_mistake

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_LARGEST_FILE = 256 * 1024  # more takes the YAML parser seconds, and says nothing that a profile could
_MOST_NODES = 50_000
_STANDARD = "tag:yaml.org,2002:"
_PLAIN_TAGS = {_STANDARD + name for name in ("str", "int", "float", "bool", "null", "seq", "map")}
_MERGE_TAG = _STANDARD + "merge"
_NULL_TAG = _STANDARD + "null"
_PARENT = "extends"
_UNMISTAKABLE = {
    _STANDARD + "bool": re.compile("true|false", re.IGNORECASE),
    _STANDARD + "int": re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9A-Fa-f_]+|0b[01_]+)"),
    _STANDARD + "float": re.compile(r"[^:]*"),
}
"""Spellings that mean to everybody what they mean to YAML, unlike `no`, `010` and `1:30`."""


@dataclass(frozen=True)
class Layer:
    """What the file says about one profile. That each field is there once is all that has been checked."""

    values: Mapping[str, object]
    sources: Mapping[str, str]
    """For each field, and for each key of a section as in `Profile.sources`, the file and the line of its key."""
    parent: str | None = None
    """Name of the profile that it extends. Whether there is one has not been checked."""
    parent_source: str = ""
    """The file and line that say so."""


def read_profiles_file(path: Path, source: str) -> dict[str, Layer]:
    """What the file at `path` says about each profile, in its order; `source` is the setting that named it.

    Raises ConfigurationError, with file and line, when it cannot be read as a mapping `profiles:` of names to
    fields.
    """
    label = _label(path)
    try:
        return _Reader(label).layers(_read_text(path, label, source))
    except RecursionError:
        raise ConfigurationError(f"{label}: nested too deeply") from None


def _label(path: Path) -> str:
    """The path as it is shortest to read: relative to the working directory where that is above it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative


def _read_text(path: Path, label: str, source: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        remedy = "correct the path or make the file" if missing else "name a file that can be read"
        raise ConfigurationError(
            f"cannot read the profiles file {label} ({source}): {error.strerror}; {remedy}"
        ) from None
    if len(content) > _LARGEST_FILE:
        raise ConfigurationError(f"the profiles file {label} ({source}) is larger than {_LARGEST_FILE} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{label}:{line}: not UTF-8") from None


class _Reader:
    """Builds plain data from the nodes of one file."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._construct: Callable[[yaml.Node], object] = yaml.SafeLoader("").construct_object

    def layers(self, text: str) -> dict[str, Layer]:
        """See `read_profiles_file`."""
        root = self._compose(text)
        if root is None:
            raise ConfigurationError(
                f"{self._label}: the file is empty; it must have a mapping called 'profiles'"
            )
        profiles = None
        for name, (key, value) in self._entries(root, "the file").items():
            if name != "profiles":
                raise self._error(key, f"unknown key {shown(name)}{did_you_mean(name, ['profiles'])}")
            profiles = value
        if profiles is None:
            raise ConfigurationError(f"{self._label}: there is no mapping called 'profiles'")
        return {
            self._profile_name(name, key): self._layer(name, value)
            for name, (key, value) in self._entries(profiles, "'profiles'").items()
        }

    def _layer(self, name: str, node: yaml.Node) -> Layer:
        if _is_null(node):  # `default:` with nothing behind it
            return Layer({}, {})
        fields = self._entries(node, f"profile {name!r}")
        key, value = fields.pop(_PARENT, (node, None))
        parent = None if value is None else self._parent(name, value)
        sources = {field: self._at(key) for field, (key, _) in fields.items()}
        for field in SECTIONS & fields.keys():
            section = fields[field][1]
            if isinstance(section, yaml.MappingNode):
                inside = self._entries(section, "the mapping")
                sources |= {f"{field}.{name}": self._at(key) for name, (key, _) in inside.items()}
        values = {field: self._plain(value) for field, (_, value) in fields.items()}
        return Layer(values, sources, parent, self._at(key))

    def _parent(self, name: str, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode) or _is_null(node):
            raise self._error(
                node, f"{_PARENT} of profile {name!r} must be the name of one profile, not {_kind(node)}"
            )
        return str(node.value)

    def _profile_name(self, name: str, key: yaml.Node) -> str:
        check_name(name, self._at(key))
        return name

    def _compose(self, text: str) -> yaml.Node | None:
        try:
            root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            number, reason = yaml_mistake(error, text)
            raise ConfigurationError(
                f"{self._label}:{number}: not valid YAML: {reason}; correct it there or just above"
            ) from None
        except yaml.reader.ReaderError as error:
            line = f":{text.count(chr(10), 0, error.position) + 1}"
            raise ConfigurationError(f"{self._label}{line}: not valid YAML: {error.reason}") from None
        if root is not None:
            self._refuse_bombs(root)
        return root

    def _refuse_bombs(self, root: yaml.Node) -> None:
        """Count the nodes with every alias replaced by what it stands for, which never ends in a cycle."""
        waiting, seen = [root], 0
        while waiting:
            node = waiting.pop()
            seen += 1
            if seen > _MOST_NODES:
                raise self._error(node, f"with all aliases expanded, the file has over {_MOST_NODES} values")
            if isinstance(node, yaml.MappingNode):
                waiting.extend(part for pair in node.value for part in pair)
            elif isinstance(node, yaml.SequenceNode):
                waiting.extend(node.value)

    def _entries(self, node: yaml.Node, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key and value nodes by the text of the key. What `<<` merges in yields to the mapping's own."""
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, f"{what} must be a mapping, not {_kind(node)}")
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if key.tag == _MERGE_TAG:
                origins = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for origin in reversed(origins):  # the first of several has the last word
                    merged.update(self._entries(origin, "what '<<' merges"))
            elif not isinstance(key, yaml.ScalarNode):
                raise self._error(key, f"a key of {what} must be text, not {_kind(key)}")
            elif key.value in own:
                first = own[key.value][0].start_mark.line + 1
                raise self._error(key, f"{shown(key.value)} is already in {what}, on line {first}")
            else:
                # The text as it stands in the file: here `on` and `1` are names, not a boolean and a number.
                own[key.value] = (key, value)
        return merged | own

    def _plain(self, node: yaml.Node) -> object:
        if node.tag not in _PLAIN_TAGS:
            kind = node.tag.removeprefix(_STANDARD)
            raise self._error(
                node, f"YAML's type {shown(kind)} has no meaning here; for text, put it in quotes"
            )
        if isinstance(node, yaml.MappingNode):
            return {key: self._plain(value) for key, (_, value) in self._entries(node, "the mapping").items()}
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item) for item in node.value]
        try:
            value = self._construct(node)
        except (
            ValueError,
            KeyError,
            yaml.YAMLError,
        ):  # `!!int x`, `!!bool x`, or more digits than Python takes
            raise self._error(node, f"{shown(node.value)} is no {node.tag.removeprefix(_STANDARD)}") from None
        if node.tag in _UNMISTAKABLE and not _UNMISTAKABLE[node.tag].fullmatch(node.value):
            meant = str(value).lower()  # as YAML writes booleans
            raise self._error(
                node, f"YAML takes {shown(node.value)} for {meant}; write {meant}, or put it in quotes"
            )
        return value

    def _at(self, node: yaml.Node) -> str:
        return f"{self._label}:{node.start_mark.line + 1}"

    def _error(self, node: yaml.Node, message: str) -> ConfigurationError:
        return ConfigurationError(f"{self._at(node)}: {message}")


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _NULL_TAG


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return "empty" if _is_null(node) else shown(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"

"""Benchmark tasks from a file, ready for `pytest.mark.parametrize`.

    @pytest.mark.parametrize("task", load_tasks("tasks.yaml"))
    def test_task(sandbox, task):
        sandbox.write_text("input.txt", task.input)
        ...

A task's values are read-only all the way down: a test that is retried gets the same objects again, and must
not find what its first attempt made of them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.wording import yaml_mistake

if TYPE_CHECKING:
    import pytest
    import yaml

_Class = TypeVar("_Class", bound=type)


def load_tasks(path: str | os.PathLike[str]) -> list[Task]:
    """The tasks of a file, in its order.

    The file is YAML (`.yaml`, `.yml`) or JSON (`.json`) with a list of mappings, or JSON lines (`.jsonl`)
    with one mapping per line.

    A relative `path` starts at the directory of the file that calls `load_tasks`, whatever the current
    directory is; only an interactive session, which has no file, starts at the current directory.

    The list goes into `parametrize` as it is. Tests are named by `Task.id`, unless `ids=` says otherwise.

    Raises ConfigurationError when the file is missing, malformed or empty, or a task in it is; the message
    names file, line and remedy.
    """
    __tracebackhide__ = True  # in a collection error, show the line that names the file and not this module
    file = _resolve(path, caller=sys._getframe(1).f_code.co_filename)
    read = _READERS.get(file.suffix.lower())
    if read is None:
        raise ConfigurationError(
            f"{_shown(file)}: task files end in {', '.join(_READERS)}, not in {file.suffix or 'nothing'!r}"
        )
    try:
        tasks = _checked(read(file, _text(file)))
    except RecursionError:
        raise ConfigurationError(
            f"{_shown(file)}: a value refers to itself or is nested too deeply; write it out flat"
        ) from None
    if not tasks:
        raise ConfigurationError(f"{_shown(file)} holds no tasks; without one, nothing would be tested")
    return tasks


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """One task: its `id`, its `sandbox` fields, and every other key of its mapping as an attribute.

    Nested mappings are read by key or by attribute (`case["stdin"]`, `case.stdin`; by key only where the name
    is also a method of `dict`, such as `items`). Lists and mappings compare and encode as JSON like any
    others but refuse changes; `copy.deepcopy` gives changeable ones.
    """

    id: str
    """Unique in its file: the key `id`, else the key `name`, else `task-` and the position, counted from 1.
    Control characters and lone surrogates are written as escapes, so that an id is safe in reports."""
    sandbox: Mapping[str, Any]
    """The key `sandbox`: arguments of the marker of the same name, such as `profile` or `exec_timeout`.
    They hold for every test parametrized with this task and win over markers in the code."""
    _data: Record
    _where: str

    @property
    def __name__(self) -> str:
        """Where pytest looks for the name of a parameter; escaped as it escapes what `ids=` returns."""
        return self.id.encode("unicode_escape").decode("ascii")

    def __getattr__(self, name: str) -> Any:
        __tracebackhide__ = True
        if "_data" not in self.__dict__:  # copy and pickle ask before they have filled the new object
            raise AttributeError(name)
        if name in self._data:
            return self._data[name]
        raise AttributeError(_missing(f"{self!r} has", name, self._data))

    def __repr__(self) -> str:
        return f"<Task {self.id!r}, {self._where}>"


def mark_item(item: pytest.Item) -> None:
    """Give `item` the `sandbox` fields of the tasks it is parametrized with, as its closest `sandbox` marker.

    Called for every item that pytest collects. A marker on the item rather than on the parameter lets users
    filter, combine and wrap tasks as they like before they parametrize with them.
    """
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return
    for value in callspec.params.values():
        if isinstance(value, Task) and value.sandbox:
            import pytest

            item.add_marker(pytest.mark.sandbox(**deepcopy(value.sandbox)), append=False)


def source_of(mark: pytest.Mark, item: pytest.Item) -> str | None:
    """Which task a `sandbox` mark of `item` comes from, in words for messages; None if from none."""
    callspec = getattr(item, "callspec", None)
    for value in {} if callspec is None else callspec.params.values():
        if isinstance(value, Task) and value.sandbox and value.sandbox == mark.kwargs:
            return f"sandbox of task {value.id!r} ({value._where})"
    return None


# --- read-only values


def _refuse(_self: object, *_args: object, **_kwargs: object) -> NoReturn:
    __tracebackhide__ = True
    raise TypeError(
        "the values of a task are read-only, because a retried test gets them again; "
        "change a copy made by copy.deepcopy()"
    )


def _without(*mutators: str) -> Callable[[_Class], _Class]:
    def decorate(cls: _Class) -> _Class:
        for name in mutators:
            setattr(cls, name, _refuse)
        return cls

    return decorate


# Subclasses of the builtin types, not tuples and mapping proxies: what a sandbox printed as JSON must compare
# equal, and json.dumps() must accept them as input for a sandbox.
@_without("__setitem__", "__delitem__", "__iadd__", "__imul__")
@_without("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse")
class Items(list[Any]):
    """A list that refuses changes; its copies are plain lists."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (), None, iter(self)


@_without("__setitem__", "__delitem__", "__ior__", "setdefault", "update", "pop", "popitem", "clear")
class Record(dict[Any, Any]):
    """A dict that refuses changes and has its keys as attributes; its copies are plain dicts."""

    __slots__ = ("_owner",)

    def __init__(self, items: Iterable[tuple[Any, Any]], owner: str) -> None:
        super().__init__(items)
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        __tracebackhide__ = True
        if name in self:
            return self[name]
        raise AttributeError(_missing(f"a mapping in {self._owner} has", name, self))

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (), None, None, iter(self.items())


def _frozen(value: Any, owner: str) -> Any:
    if isinstance(value, dict):
        return Record(((key, _frozen(item, owner)) for key, item in value.items()), owner)
    if isinstance(value, list):
        return Items(_frozen(item, owner) for item in value)
    if isinstance(value, tuple):  # a pair of YAML's !!omap and !!pairs
        return tuple(_frozen(item, owner) for item in value)
    if isinstance(value, set):
        return frozenset(value)
    return value


def _missing(subject: str, name: str, data: Mapping[Any, Any]) -> str:
    known = [key for key in data if isinstance(key, str)]
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"its keys: {', '.join(map(one_line, known)) or 'none'}"
    return f"{subject} no {name!r}; {hint}"


# --- from what a file says to tasks


def _checked(values: Iterable[tuple[str, Any]]) -> list[Task]:
    """Tasks made of `values`, which come with the place where each was read."""
    __tracebackhide__ = True
    tasks: dict[str, Task] = {}
    for position, (where, value) in enumerate(values, start=1):
        task = _task(value, position, where)
        first = tasks.setdefault(task.id, task)
        if first is not task:
            raise ConfigurationError(
                f"{where}: id {task.id!r} is taken by the task at {first._where}; "
                "give each task an `id` of its own"
            )
    return list(tasks.values())


def _task(value: Any, position: int, where: str) -> Task:
    __tracebackhide__ = True
    if not isinstance(value, dict):
        raise ConfigurationError(
            f"{where}: a task is a mapping such as {{id: …, prompt: …}}, not {_brief(value)}"
        )
    for key in value:
        if not isinstance(key, str):
            raise ConfigurationError(f"{where}: the key {_brief(key)} is no text; write it in quotes")
    id_ = _id(value, position, where)
    fields = value.get("sandbox", {})
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise ConfigurationError(
            f"{where}: `sandbox` is a mapping of marker arguments such as {{exec_timeout: 60}}, "
            f"not {_brief(fields)}"
        )
    owner = f"task {id_!r} ({where})"
    rest = {key: item for key, item in value.items() if key not in ("id", "sandbox")}
    return Task(id_, _frozen(fields, owner), _frozen(rest, owner), where)


def _id(value: dict[str, Any], position: int, where: str) -> str:
    __tracebackhide__ = True
    key = next((key for key in ("id", "name") if key in value), None)
    if key is None:
        return f"task-{position}"
    given = value[key]
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        raise ConfigurationError(f"{where}: `{key}` must be text that names the task, not {_brief(given)}")
    return one_line(str(given), limit=sys.maxsize)


def _brief(value: object) -> str:
    return one_line(repr(value), limit=60)


# --- files


def _resolve(path: str | os.PathLike[str], caller: str) -> Path:
    start = Path(caller).parent if os.path.isfile(caller) else Path()  # noqa: PTH113 - or `<stdin>`
    return Path(os.path.abspath(start / path))  # noqa: PTH100 - links stay as they are


def _shown(file: Path) -> str:
    here = Path.cwd()
    return one_line(str(file.relative_to(here) if file.is_relative_to(here) else file))


def _text(file: Path) -> str:
    __tracebackhide__ = True
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        message = (
            f"no task file {file}; a relative path starts at the directory of the file that calls load_tasks"
        )
    except UnicodeDecodeError as error:
        message = f"{_shown(file)}: byte {error.start} is not UTF-8; save the file as UTF-8"
    except OSError as error:
        message = f"{_shown(file)}: cannot be read: {error.strerror}"
    raise ConfigurationError(message)


def _read_yaml(file: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Each item of the top-level list with the line where it starts."""
    __tracebackhide__ = True
    import yaml

    # The loader in C, where PyYAML has it, is several times as fast, and every xdist worker reads the file.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    line = 1
    try:
        root = loader.get_single_node()
        if root is None:
            return
        if not isinstance(root, yaml.SequenceNode):
            raise ConfigurationError(f"{_shown(file)}:1: must be a list of tasks; begin each with `- id: …`")
        for node in root.value:
            line = node.start_mark.line + 1
            _refuse_repeated_keys(node)
            _keep_id_as_written(node)
            yield f"{_shown(file)}:{line}", loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line, problem = yaml_mistake(error, text)
        raise ConfigurationError(
            f"{_shown(file)}:{line}: not valid YAML: {problem}; correct it there or just above"
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # a control character; a date such as 2024-02-31
        raise ConfigurationError(
            f"{_shown(file)}:{line}: not valid YAML: {one_line(str(error))}; put such text in quotes, escaped"
        ) from None
    finally:
        loader.dispose()


def _refuse_repeated_keys(node: yaml.Node) -> None:
    """PyYAML would keep the last of two equal keys in silence."""
    import yaml

    seen_nodes: set[int] = set()  # an alias leads to the same node again

    def visit(node: yaml.Node) -> None:
        if id(node) in seen_nodes:
            return
        seen_nodes.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                visit(item)
        elif isinstance(node, yaml.MappingNode):
            keys: set[tuple[str, str]] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if (key.tag, key.value) in keys:
                        raise yaml.constructor.ConstructorError(
                            None, None, f"the key {key.value!r} occurs twice in one mapping", key.start_mark
                        )
                    keys.add((key.tag, key.value))
                visit(value)

    visit(node)


def _keep_id_as_written(node: yaml.Node) -> None:
    """YAML reads 010 as the number 8 and 1:30 as 90; an id means its characters."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            plain = isinstance(value, yaml.ScalarNode) and value.tag != "tag:yaml.org,2002:null"
            if key.value == "id" and plain:
                value.tag = "tag:yaml.org,2002:str"


def _read_json(file: Path, text: str) -> Iterator[tuple[str, Any]]:
    __tracebackhide__ = True
    values = _json_value(text, file, first_line=1)
    if not isinstance(values, list):
        raise ConfigurationError(
            f"{_shown(file)}:1: must be a list of tasks in [ ]; one task per line is a .jsonl file"
        )
    for position, value in enumerate(values, start=1):
        yield f"{_shown(file)}, task {position}", value


def _read_json_lines(file: Path, text: str) -> Iterator[tuple[str, Any]]:
    __tracebackhide__ = True
    # Not splitlines(): JSON allows U+2028 and its like inside of a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{_shown(file)}:{number}", _json_value(line, file, first_line=number)


def _json_value(text: str, file: Path, *, first_line: int) -> Any:
    __tracebackhide__ = True

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"the key {twice!r} occurs twice in {_brief(result)}")
        return result

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        problem = f"{error.msg} (column {error.colno}); correct it there or just before"
    except ValueError as error:  # which comes without a place
        line = first_line
        problem = f"{error}; correct it there or in a line below"
    raise ConfigurationError(f"{_shown(file)}:{line}: not valid JSON: {one_line(problem)}")


_READERS: dict[str, Callable[[Path, str], Iterator[tuple[str, Any]]]] = {
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".json": _read_json,
    ".jsonl": _read_json_lines,
}

"""load_tasks: what a task is, how pytest sees it, and what a mistake in a file gets."""

from __future__ import annotations

import copy
import json
import pickle
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.tasks import Task, load_tasks

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file into the current directory, so that messages name it without the path."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


YAML = """\
# two tasks
- id: double
  prompt: Double it.
  sandbox: {exec_timeout: 5, setup: [make]}
  cases:
    - {stdin: "1", expected: "2", more: {deep: [1, 2]}}

- name: halve
  cases: []
"""
SAME_AS_JSON: list[dict[str, Any]] = [
    {
        "id": "double",
        "prompt": "Double it.",
        "sandbox": {"exec_timeout": 5, "setup": ["make"]},
        "cases": [{"stdin": "1", "expected": "2", "more": {"deep": [1, 2]}}],
    },
    {"name": "halve", "cases": []},
]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tasks.yaml", YAML),
        ("tasks.YML", YAML),
        ("tasks.json", "\ufeff" + json.dumps(SAME_AS_JSON, indent=1)),
        ("tasks.jsonl", "\n".join(json.dumps(task) for task in SAME_AS_JSON) + "\n\n"),
    ],
)
def test_every_format_gives_the_same_tasks(write: Write, name: str, text: str) -> None:
    double, halve = load_tasks(write(name, text))
    assert (double.id, double.prompt) == ("double", "Double it.")
    assert double.sandbox == {"exec_timeout": 5, "setup": ["make"]}
    assert double.cases == SAME_AS_JSON[0]["cases"]
    assert double.cases[0].stdin == double.cases[0]["stdin"] == "1"
    assert double.cases[0].more.deep == [1, 2]
    assert (halve.id, halve.name, halve.sandbox, halve.cases) == ("halve", "halve", {}, [])


class TestIds:
    @pytest.mark.parametrize(
        ("text", "ids"),
        [
            ("[{a: 1}, {name: n}, {id: i, name: n}]", ["task-1", "n", "i"]),
            ("[{id: 7}, {id: 007}, {id: 0x7}, {id: 1:30}, {id: yes}]", ["7", "007", "0x7", "1:30", "yes"]),
            ("[{id: 2024-01-31}, {name: 12}]", ["2024-01-31", "12"]),
            ('[{id: "a\\x1b[2J\\nb"}]', ["a\\x1b[2J\\nb"]),
        ],
    )
    def test_come_from_id_or_name_or_position(self, write: Write, text: str, ids: list[str]) -> None:
        assert [task.id for task in load_tasks(write("tasks.yaml", text))] == ids

    def test_with_a_lone_surrogate_can_be_reported(self, write: Write) -> None:
        (task,) = load_tasks(write("tasks.json", r'[{"id": "a\ud800", "text": "\ud800"}]'))
        assert task.id == "a\\ud800"
        assert task.text == "\ud800"  # data stays what it is

    @pytest.mark.parametrize("bad", ["null", "''", "1.5", "[x]", "true"])
    def test_must_be_text(self, write: Write, bad: str) -> None:
        path = write("tasks.jsonl", f'{{"id": {bad}}}'.replace("''", '""').replace("[x]", "[1]"))
        with pytest.raises(ConfigurationError, match=r"^tasks.jsonl:1: `id` must be text"):
            load_tasks(path)


class TestReadOnly:
    @pytest.fixture
    def task(self, write: Write) -> Task:
        return load_tasks(write("tasks.yaml", YAML))[0]

    @pytest.mark.parametrize(
        "change",
        [
            lambda task: task.cases.append(1),
            lambda task: task.cases.sort(),
            lambda task: task.cases.__setitem__(0, 1),
            lambda task: task.cases.__iadd__([1]),
            lambda task: task.cases[0].update(a=1),
            lambda task: task.cases[0].__setitem__("stdin", 1),
            lambda task: task.cases[0].more.deep.clear(),
            lambda task: task.cases[0].more.setdefault("x", 1),
            lambda task: task.sandbox.__delitem__("exec_timeout"),
            lambda task: task.sandbox["setup"].extend(["x"]),
        ],
    )
    def test_values_refuse_changes_at_any_depth(self, task: Task, change: Callable[[Task], Any]) -> None:
        with pytest.raises(TypeError, match=r"read-only.*copy\.deepcopy"):
            change(task)
        assert json.loads(json.dumps(task.cases)) == SAME_AS_JSON[0]["cases"]

    @pytest.mark.parametrize("name", ["id", "prompt", "invented"])
    def test_attributes_refuse_assignment(self, task: Task, name: str) -> None:
        with pytest.raises(AttributeError):
            setattr(task, name, "x")
        with pytest.raises(AttributeError):
            setattr(task.cases[0], name, "x")

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
    def test_copies_are_plain_and_changeable(self, task: Task, duplicate: Callable[[Any], Any]) -> None:
        cases = duplicate(task.cases)
        cases[0]["more"]["deep"].append(3)
        assert (type(cases), type(cases[0])) == (list, dict)
        assert task.cases[0].more.deep == [1, 2]
        assert duplicate(task).cases == task.cases

    def test_sets_and_pairs_of_yaml_are_frozen_too(self, write: Write) -> None:
        (task,) = load_tasks(
            write("tasks.yaml", "- {tags: !!set {a, b}, steps: !!omap [one: [1]], on_day: 2024-02-29}")
        )
        assert task.tags == frozenset("ab")
        assert isinstance(task.tags, frozenset)
        assert task.steps == [("one", [1])]
        assert str(task.on_day) == "2024-02-29"


class TestMissingAttributes:
    def test_name_task_file_and_line(self, write: Write) -> None:
        double, halve = load_tasks(write("tasks.yaml", YAML))
        with pytest.raises(
            AttributeError, match=r"'double', tasks\.yaml:2> has no 'promt'; did you mean 'prompt'"
        ):
            _ = double.promt
        with pytest.raises(
            AttributeError, match=r"'halve', tasks\.yaml:8> has no 'zzz'; its keys: name, cases"
        ):
            _ = halve.zzz
        with pytest.raises(AttributeError, match=r"task 'double' \(tasks\.yaml:2\) has no 'stdn'"):
            _ = double.cases[0].stdn
        assert getattr(double, "hint", "none") == "none"


class TestRelativePath:
    def test_starts_at_the_calling_file(self, write: Write, pytester: pytest.Pytester) -> None:
        write("tasks.yaml", "[{id: wrong}]")  # in the current directory
        pytester.mkdir("suite").joinpath("tasks.yaml").write_text("[{id: right}]")
        caller = pytester.path / "suite" / "caller.py"
        caller.write_text("from pytest_sandboxes.tasks import load_tasks; tasks = load_tasks('tasks.yaml')")
        assert [task.id for task in runpy.run_path(str(caller))["tasks"]] == ["right"]

    def test_starts_at_the_current_directory_in_an_interactive_session(self, write: Write) -> None:
        write("tasks.yaml", "[{id: here}]")
        names: dict[str, Any] = {"load_tasks": load_tasks}
        typed = compile("tasks = load_tasks('tasks.yaml')", "<stdin>", "exec")
        exec(typed, names)
        assert [task.id for task in names["tasks"]] == ["here"]


class TestMistakes:
    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            (
                "tasks.toml",
                "",
                r"tasks\.toml: task files end in \.yaml, \.yml, \.json, \.jsonl, not in '\.toml'",
            ),
            ("tasks", "", r"tasks: task files end in .*, not in 'nothing'"),
            ("tasks.yaml", "", r"tasks\.yaml holds no tasks"),
            ("tasks.json", "[]", r"tasks\.json holds no tasks"),
            ("tasks.jsonl", "\n \n", r"tasks\.jsonl holds no tasks"),
            ("tasks.yaml", "- id: a\n- b: [1\n- c", r"tasks\.yaml:[34]: .* flow sequence from line 2"),
            (
                "tasks.yaml",
                "- id: a\n- !!python/name:os.system x",
                r"tasks\.yaml:2: not valid YAML: could not",
            ),
            (
                "tasks.yaml",
                "- id: a\n- day: 2024-02-31",
                r"tasks\.yaml:2: not valid YAML: day is out of range",
            ),
            ("tasks.yaml", "- id: a\x00", r"tasks\.yaml:1: not valid YAML"),
            ("tasks.yaml", "- id: a\n  b: {c: 1,\n   c: 2}", r"tasks\.yaml:3: .*the key 'c' occurs twice"),
            ("tasks.yaml", "- id: a\n- &loop [*loop]", r"tasks\.yaml:2: a task is a mapping"),
            ("tasks.yaml", "- id: a\n- b: &loop [*loop]", r"tasks\.yaml: a value refers to itself"),
            ("tasks.yaml", "tasks:\n- id: a", r"tasks\.yaml:1: must be a list of tasks"),
            ("tasks.yaml", "- id: a\n- on: 1", r"tasks\.yaml:2: the key True is no text; write it in quotes"),
            ("tasks.yaml", "- id: a\n- b\n", r"tasks\.yaml:2: a task is a mapping .* not 'b'"),
            (
                "tasks.yaml",
                "- id: a\n- name: b\n- id: a",
                r"tasks\.yaml:3: id 'a' is taken by .*tasks\.yaml:1",
            ),
            ("tasks.yaml", "- id: a\n  sandbox: 5", r"tasks\.yaml:1: `sandbox` is a mapping .* not 5"),
            ("tasks.json", '[{"id": "a"},\n{"id": }]', r"tasks\.json:2: not valid JSON: Expecting value"),
            ("tasks.json", '{"id": "a"}', r"tasks\.json:1: must be a list of tasks .*\.jsonl"),
            (
                "tasks.json",
                '[{"id": "a"}, {"id": "a"}]',
                r"tasks\.json, task 2: id 'a' is taken by .* task 1",
            ),
            (
                "tasks.json",
                '[{"id": "a", "id": "b"}]',
                r"tasks\.json:1: .* the key 'id' occurs twice in {'id'",
            ),
            ("tasks.jsonl", '{"id": "a"}\n\n{"id": "b"', r"tasks\.jsonl:3: not valid JSON: .*delimiter"),
            ("tasks.jsonl", '{"id": "a"}\n[1]', r"tasks\.jsonl:2: a task is a mapping .* not \[1\]"),
        ],
    )
    def test_are_told_with_file_line_and_remedy(
        self, write: Write, name: str, text: str, message: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=f"^{message}") as caught:
            load_tasks(write(name, text))
        assert "\n" not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(
            ConfigurationError, match=r"no task file .*here/nothing\.yaml; a relative path starts"
        ):
            load_tasks(tmp_path / "here" / "nothing.yaml")

    def test_a_directory(self, tmp_path: Path) -> None:
        tmp_path.joinpath("tasks.yaml").mkdir()
        with pytest.raises(ConfigurationError, match=r"cannot be read: Is a directory"):
            load_tasks(tmp_path / "tasks.yaml")

    def test_another_encoding(self, tmp_path: Path) -> None:
        tmp_path.joinpath("tasks.yaml").write_bytes("- id: é".encode("latin-1"))
        with pytest.raises(ConfigurationError, match=r"byte 6 is not UTF-8"):
            load_tasks(tmp_path / "tasks.yaml")


class TestInPytest:
    TASKS = """
    - id: one
      name: first
      sandbox: {exec_timeout: 1, setup: [a]}
    - {id: "zwei\u00e9", name: second}
    """

    def run(self, pytester: pytest.Pytester, decorators: str, *args: str) -> pytest.RunResult:
        pytester.makefile(".yaml", tasks=self.TASKS)
        pytester.makepyfile(
            f"""
            import pytest
            from pytest_sandboxes.tasks import load_tasks

            {decorators}
            def test_it(request, task):
                marker = request.node.get_closest_marker("sandbox")
                print("FIELDS", task.name, dict(marker.kwargs) if marker else None)
            """
        )
        return pytester.runpytest("-v", "-s", *args)

    def test_ids_function_gets_the_task(self, pytester: pytest.Pytester) -> None:
        result = self.run(
            pytester, "@pytest.mark.parametrize('task', load_tasks('tasks.yaml'), ids=lambda t: t.name)"
        )
        result.stdout.fnmatch_lines(["*::test_it[[]first]*", "*::test_it[[]second]*"])

    def test_without_ids_the_test_is_named_by_the_task(self, pytester: pytest.Pytester) -> None:
        for decorators in (
            "@pytest.mark.parametrize('task', load_tasks('tasks.yaml'))",
            "@pytest.mark.parametrize('task', load_tasks('tasks.yaml'), ids=lambda t: t.id)",
        ):
            result = self.run(pytester, decorators)
            result.stdout.fnmatch_lines(["*::test_it[[]one]*", "*::test_it[[]zwei\\xe9]*"])

    def test_sandbox_fields_become_the_closest_marker(self, pytester: pytest.Pytester) -> None:
        result = self.run(
            pytester,
            "@pytest.mark.sandbox(exec_timeout=9)\n"
            "            @pytest.mark.parametrize('n', [1])\n"
            "            @pytest.mark.parametrize(('task'), load_tasks('tasks.yaml'))\n"
            "            @pytest.mark.usefixtures('n')",
        )
        result.stdout.fnmatch_lines(
            [
                "*FIELDS first {'exec_timeout': 1, 'setup': [[]'a'[]]}",
                "*FIELDS second {'exec_timeout': 9}",
            ]
        )

    def test_a_mistake_shows_the_line_of_the_suite_and_nothing_of_ours(
        self, pytester: pytest.Pytester
    ) -> None:
        result = self.run(pytester, "@pytest.mark.parametrize('task', load_tasks('other.yaml'))")
        assert result.ret != 0
        output = result.stdout.str() + result.stderr.str()
        assert "no task file" in output
        assert "pytest_sandboxes/tasks.py" not in output

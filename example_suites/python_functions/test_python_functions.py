"""Can a candidate write Python functions? Each task of `tasks.yaml` is one test.

The candidate's code runs in a sandbox; this process compares what comes out of it with the right answers.
Code under test can fake an exit status, print what it likes, patch the driver, plant files and leave
watchers behind. None of it helps, because the only thing that counts is the answers, and

- right answers never enter the sandbox: arguments go in, one line of JSON for each call comes out;
- all cases of a task run in one process, in a fresh slot. Nothing of the candidate's runs before this only
  command, and nothing runs after it that planted files or leftover processes could turn. (One process per
  case would cost a start of Python each, and the first could prepare the ground for the others.)
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_sandboxes import ExecResult, Slot, Task, load_tasks

DRIVER = Path(__file__).with_name("driver.py").read_text(encoding="utf-8")


@pytest.mark.sandbox(exec_timeout=10)
@pytest.mark.parametrize("task", load_tasks("tasks.yaml"))
def test_function(sandbox: Slot, task: Task, solutions: Path) -> None:
    solution = solutions / f"{task.id}.py"
    if not solution.is_file():
        pytest.fail(f"no solution of {task.id}: {solution} is missing", pytrace=False)
    sandbox.write_bytes("solution.py", solution.read_bytes())
    sandbox.write_text("driver.py", DRIVER)
    calls = "".join(f"{as_json(case.args)}\n" for case in task.cases)
    result = sandbox.exec("python3", "-I", "driver.py", task.entry_point, input=calls)
    mistake = first_mistake(task, result)
    if mistake:
        pytest.fail(f"{mistake}\n{result!r}", pytrace=False)


def first_mistake(task: Task, result: ExecResult) -> str | None:
    """What is wrong with the answers, in a sentence; None when they are right.

    Answers are compared as text and never parsed, and not in an `assert`, for which pytest would work out a
    diff of texts that the candidate chose, however long that takes.
    """
    *answers, unfinished = result.stdout.split("\n")
    for number, case in enumerate(task.cases):
        call = f"{task.entry_point}({as_json(case.args)[1:-1]})"
        if number >= len(answers):
            return f"{call}: no answer"
        if answers[number] != as_json(case.returns):
            return f"{call} must be {as_json(case.returns)} and not {answers[number][:200]!a}"
    if unfinished or len(answers) > len(task.cases):
        return "there are more answers than calls"
    if result.returncode != 0:
        return f"the answers are right, but the solution ended with return code {result.returncode}"
    return None


def as_json(value: object) -> str:
    """ASCII on one line, the same for equal values; 1, 1.0 and true differ."""
    return json.dumps(value, sort_keys=True)

"""Files of tasks that are wrong end the run before its first test, wherever they are read."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Inner, Refused

TASKS = {
    "- {id: a}\n- {id: a}\n": "tasks.yaml",
    "- id: [\n": "tasks.yaml",
    "- {id: a, sandbox: {memori: 64}}\n": "memori",
}


@pytest.mark.parametrize("text", TASKS)
@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["", "xdist"])
def test_tasks(inner: Inner, refused: Refused, text: str, workers: tuple[str, ...]) -> None:
    inner.write("tasks.yaml", text)
    inner.write(
        "test_it.py",
        """
        import pytest
        from pytest_sandboxes import load_tasks

        @pytest.mark.parametrize("task", load_tasks("tasks.yaml"))
        def test_it(sandbox, task):
            pass
        """,
    )
    inner.write("test_other.py", "def test_other(): pass\n")
    sentence = refused(*workers)
    assert TASKS[text] in sentence


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ("{memori: 64}", ": unknown argument 'memori'; did you mean 'memory'?"),
        ("{exec_timeout: -1}", ": exec_timeout is -1 (int), but must be "),
        ("{output_limit: 0}", ", profile 'default': output_limit is 0 (int), but must be "),
        ("{gpu: A100}", ": gpu of profile 'default' cannot be kept: "),
    ],
)
def test_a_mistake_in_a_task_names_the_task(
    inner: Inner, refused: Refused, fields: str, complaint: str
) -> None:
    inner.write("tasks.yaml", f"- {{id: a, sandbox: {{slots: 1}}}}\n- {{id: b, sandbox: {fields}}}\n")
    inner.write(
        "test_it.py",
        """
        import pytest
        from pytest_sandboxes import load_tasks

        @pytest.mark.sandbox(exec_timeout=9)
        @pytest.mark.parametrize("task", load_tasks("tasks.yaml"))
        def test_it(sandbox, task):
            pass
        """,
    )
    assert refused().startswith(f"sandbox of task 'b' (tasks.yaml:2){complaint}")


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["", "xdist"])
def test_tasks_of_a_conftest_file(inner: Inner, refused: Refused, workers: tuple[str, ...]) -> None:
    inner.write(
        "below/conftest.py", 'from pytest_sandboxes import load_tasks\nTASKS = load_tasks("tasks.yaml")\n'
    )
    inner.write("below/test_below.py", "def test_below(): pass\n")
    assert refused(*workers).startswith("no task file ")


def test_tasks_of_the_first_conftest_file(inner: Inner) -> None:
    """What happens before plugins are asked for anything is reported by pytest itself."""
    inner.write("conftest.py", 'from pytest_sandboxes import load_tasks\nTASKS = load_tasks("tasks.yaml")\n')
    run = inner.run()
    assert run.exit_code == pytest.ExitCode.USAGE_ERROR
    assert "conftest.py:2: in <module>" in run.stderr
    assert run.stderr.splitlines()[-1].startswith(
        "E   pytest_sandboxes.errors.ConfigurationError: no task file "
    )
    assert "pytest_sandboxes/" not in run.stderr, "a traceback of ours"


def test_tasks_of_a_hook(inner: Inner, refused: Refused) -> None:
    inner.write(
        "conftest.py",
        """
        from pytest_sandboxes import load_tasks

        def pytest_generate_tests(metafunc):
            metafunc.parametrize("task", load_tasks("missing.yaml"))
        """,
    )
    inner.write("test_it.py", "def test_it(sandbox, task): pass\n")
    assert "missing.yaml" in refused()

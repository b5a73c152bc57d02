"""What is wrong ends the run before its first test: exit code 4, one sentence with the remedy, nothing started."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import pytest

from tests.integration.conftest import Inner, Run

TESTS = """
import pytest

def test_it(sandbox):
    sandbox.list_files()
"""


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every launch of a sandbox, in this process."""
    from pytest_sandboxes.backends.local import LocalBackend

    seen: list[object] = []
    launch = LocalBackend.launch

    def recorded(*args: Any) -> object:
        seen.append(args)
        return launch(*args)

    monkeypatch.setattr(LocalBackend, "launch", recorded)
    return seen


@pytest.fixture
def refused(inner: Inner, launches: list[object]) -> Callable[..., str]:
    """Runs that have to be refused; returns the sentence."""
    inner.write("test_it.py", TESTS)

    def run(*args: str) -> str:
        sentence = check_refusal(inner.run(*args))
        assert launches == []
        return sentence

    return run


def check_refusal(run: Run) -> str:
    """The run was refused with one sentence, which is returned."""
    said = [line for line in run.stderr.splitlines() if line]
    assert run.exit_code == pytest.ExitCode.USAGE_ERROR, run.stdout + run.stderr
    assert len(said) == 1, said
    assert said[0].startswith("ERROR: ")
    output = run.stdout + run.stderr
    assert "Traceback" not in output
    assert "INTERNALERROR" not in output
    assert "passed" not in output
    return said[0].removeprefix("ERROR: ")


# -- options

OPTIONS = {
    "--sandbox-backend=lokal": "--sandbox-backend: there is no backend 'lokal', there are local, docker, second, liar and unsteady; did you mean 'local'?",
    "--sandbox-backend=modal": "--sandbox-backend: backend 'modal' is not part of this version; there are local, ",
    "--sandbox-backend=gcp": "--sandbox-backend: backend 'gcp' is not part of this version; there are local, ",
    "--sandbox-backend=local,local": "--sandbox-backend is 'local,local', but must be backend names, each once",
    "--sandbox-backend=": "--sandbox-backend is '', but must be backend names",
    "--sandbox-profile=gpu": "--sandbox-profile: unknown profile 'gpu', there is default (sandboxes.yaml)",
    "--sandbox-profile=defalt": "--sandbox-profile: unknown profile 'defalt', there is default (sandboxes.yaml); did you mean 'default'?",
    "--sandbox-profiles-file=none.yaml": "cannot read the profiles file none.yaml (--sandbox-profiles-file): No such file or directory; correct the path or make the file",
    "--sandbox-isolation=nothing": "--sandbox-isolation is 'nothing', but must be slot, sandbox or none",
    "--sandbox-enforcement=strikt": "--sandbox-enforcement is 'strikt', but must be strict or best-effort; did you mean 'strict'?",
    "--sandbox-infra-retries=-1": "--sandbox-infra-retries is '-1', but must be a whole number from 0 to 100",
    "--sandbox-infra-retries=many": "--sandbox-infra-retries is 'many', but must be a whole number from 0 to 100",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options(refused: Callable[..., str], option: str) -> None:
    assert refused(option).startswith(OPTIONS[option])


def test_options_are_checked_even_where_no_test_needs_them(inner: Inner) -> None:
    inner.write("test_it.py", "def test_it(): pass\n")
    assert "no backend 'lokal'" in check_refusal(inner.run("--sandbox-backend=lokal"))


def test_variable(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_SANDBOXES_INFRA_RETRIES", "-1")
    expected = "environment variable PYTEST_SANDBOXES_INFRA_RETRIES is '-1', but must be a whole number from 0 to 100"
    assert refused() == expected


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("PYTEST_SANDBOXES_BACKENDS", "; did you mean 'PYTEST_SANDBOXES_BACKEND'?"),
        ("PYTEST_SANDBOXES_PROFILE_FILE", "; did you mean 'PYTEST_SANDBOXES_PROFILES_FILE'?"),
        ("PYTEST_SANDBOXES_XYZZY_QQQ_WWWWWWWWWWWW", "; unset it"),
    ],
)
def test_mistyped_variable(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.setenv(name, "docker")
    assert refused() == f"environment variable {name} is no setting{hint}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PYTEST_SANDBOXES_PROFILE_GPU_MEMORY", "64"),
        ("PYTEST_SANDBOXES_PROFILES", "gpu"),
        ("PYTEST_SANDBOXES_DEFAULT_MEMORY", "64"),
        ("PYTEST_SANDBOXES_BACKENDS", ""),
    ],
)
def test_variables_of_a_later_version_and_empty_ones(
    inner: Inner, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    inner.write("test_it.py", TESTS)
    monkeypatch.setenv(name, value)
    assert inner.run().verdicts == {"test_it": "passed"}


def test_ini(inner: Inner, refused: Callable[..., str]) -> None:
    inner.write("pytest.ini", "[pytest]\nsandbox_backend = lokal\n")
    assert refused().startswith("ini option sandbox_backend in pytest.ini: there is no backend 'lokal'")


# -- the profiles file

PROFILES = {
    "profiles:\n  default:\n    memori: 64\n": "sandboxes.yaml:3, profile 'default': unknown profile field 'memori'; did you mean 'memory'?",
    "profiles:\n  default:\n    memory: lots\n": "sandboxes.yaml:3, profile 'default': memory is 'lots' (str), but must be a whole number of MB above 0",
    "profiles:\n  default:\n    memory: -1\n": "sandboxes.yaml:3, profile 'default': memory is -1 (int), but must be a whole number of MB above 0",
    "profiles:\n  default: {min_sandboxes: 9}\n": "profile 'default': min_sandboxes is 9 (sandboxes.yaml:2), which is more than max_sandboxes, 8 (default)",
    "profiles:\n  default: {\n": "sandboxes.yaml:2: not valid YAML: while parsing a flow node from line 2, ",
    "profiles:\n  default: {memory: 64,\n    disk: 64\n": "sandboxes.yaml:3: not valid YAML: while parsing a flow mapping from line 2, ",
    "profiles: [default]\n": "sandboxes.yaml:1: 'profiles' must be a mapping, not a list",
    "profile: {}\n": "sandboxes.yaml:1: unknown key 'profile'; did you mean 'profiles'?",
    "": "sandboxes.yaml: the file is empty; it must have a mapping called 'profiles'",
    "profiles:\n  default: {gpu: A100}\n": "sandboxes.yaml:2: gpu of profile 'default' cannot be kept: backend local has none: backends docker and modal can",
    "profiles:\n  default: {network: outbound}\n": "sandboxes.yaml:2: network of profile 'default' cannot be kept: backend local cannot give a sandbox a network",
}


IMPOSSIBLE = {
    "memory: 1": "sandboxes.yaml:3: memory of profile 'default' is 1, but must be at least 16: MB for the agent",
    "pids: 1": "sandboxes.yaml:3: pids of profile 'default' is 1, but must be at least 2: processes",
    "pids: 9999999": "sandboxes.yaml:3, profile 'default': pids is 9999999 (int), but must be a whole number above 0, up to 4194304",
    "memory: 9007199254740992": "sandboxes.yaml:3, profile 'default': memory is 9007199254740992 (int), but must be a whole number of MB",
    "disk: 9007199254740992": "sandboxes.yaml:3, profile 'default': disk is 9007199254740992 (int), but must be a whole number of MB above 0, up to 1073741824",
    "timeout: 3": "sandboxes.yaml:3, profile 'default': unknown profile field 'timeout'; did you mean 'execution_timeout_s'?",
    "workspace_base: /usr/src/app": "sandboxes.yaml:3: workspace_base of profile 'default' is '/usr/src/app', but sandboxes of backend local have /usr there",
    f"workspace_base: {sys.base_prefix}": "sandboxes.yaml:3: workspace_base of profile 'default' is ",
}


@pytest.mark.parametrize("line", IMPOSSIBLE)
def test_values_that_cannot_work(inner: Inner, refused: Callable[..., str], line: str) -> None:
    inner.write("sandboxes.yaml", f"profiles:\n  default:\n    {line}\n")
    sentence = refused()
    if sys.base_prefix.startswith("/usr") and line.endswith(sys.base_prefix):
        assert "outside of directories of the system" in sentence
    else:
        assert sentence.startswith(IMPOSSIBLE[line])
    assert "bubblewrap" not in sentence


@pytest.mark.parametrize(
    "path",
    [
        "/proc",
        "/dev/shm",
        "/usr",
        "/usr/bin",
        "/usr/src",
        "/lib",
        "/lib/x",
        "/etc",
        "/sys",
        "/run",
        "/var/run/",
    ],
)
def test_a_workspace_in_a_directory_of_the_system(
    inner: Inner, refused: Callable[..., str], path: str
) -> None:
    inner.write("sandboxes.yaml", f"profiles:\n  default:\n    workspace_base: {path}\n")
    said = f"sandboxes.yaml:3, profile 'default': workspace_base is '{path}' (str), but must be an absolute path other "
    assert refused("--collect-only").startswith(said)


@pytest.mark.parametrize("text", PROFILES)
def test_profiles_file(inner: Inner, refused: Callable[..., str], text: str) -> None:
    inner.write("sandboxes.yaml", text)
    assert refused().startswith(PROFILES[text])


def test_a_profiles_file_that_is_none(inner: Inner, refused: Callable[..., str]) -> None:
    inner.write("sandboxes.yaml", "").unlink()
    (inner.path / "sandboxes.yaml").mkdir()
    assert (
        refused()
        == "cannot read the profiles file sandboxes.yaml (sandboxes.yaml in the rootdir): Is a directory; name a file that can be read"
    )


# -- markers

MARKERS = {
    "profil='default'": "unknown argument 'profil'; did you mean 'profile'?",
    "profile='gpu'": "unknown profile 'gpu', there is default (sandboxes.yaml)",
    "'default'": "all arguments are keywords, but 'default' has no name; write profile='default'",
    "timeout=3": "unknown argument 'timeout'; did you mean 'exec_timeout'?",
    "slots=0": "slots is 0 (int), but must be a whole number above 0",
    "slots='2'": "slots is '2' (str), but must be a whole number above 0",
    "slots=9": "slots is 9, but the pool of profile 'default' never has more than 8; raise max_sandboxes",
    "exec_timeout=-1": "exec_timeout is -1 (int), but must be a number of seconds above 0",
    "exec_timeout=1, execution_timeout_s=1": "exec_timeout and execution_timeout_s are the same setting; give only one of them",
    "retry_safe='no'": "retry_safe is 'no' (str), but must be true or false",
    "memory=1.5": "memory is 1.5 (float), but must be a whole number of MB above 0",
    "min_sandboxes=3, max_sandboxes=2": "min_sandboxes is 3 ",
    "secrets=['KEY']": "secrets of profile 'default' cannot be kept: backend local has none: pass values with exec(env=…)",
}


@pytest.mark.parametrize("arguments", MARKERS)
def test_markers(inner: Inner, refused: Callable[..., str], arguments: str) -> None:
    inner.write("test_it.py", TESTS.replace("\ndef", f"\n@pytest.mark.sandbox({arguments})\ndef"))
    sentence = refused()
    assert "marker on test_it.py::test_it" in sentence
    assert MARKERS[arguments] in sentence
    if "cannot be kept" not in sentence:
        assert refused("--collect-only") == sentence


@pytest.mark.parametrize("fixture", ["sandbox", ""])
def test_a_typo_in_one_marker_of_a_thousand(inner: Inner, refused: Callable[..., str], fixture: str) -> None:
    inner.write(
        "test_it.py",
        f"""
        import pytest

        @pytest.mark.parametrize("number", [
            pytest.param(number, marks=pytest.mark.sandbox(**{{"slot" if number == 777 else "slots": 1}}))
            for number in range(1000)
        ])
        def test_it({fixture or "tmp_path"}, number):
            pass
        """,
    )
    assert refused() == "marker on test_it.py::test_it[777]: unknown argument 'slot'; did you mean 'slots'?"


# -- files of tasks

TASKS = {
    "- {id: a}\n- {id: a}\n": "tasks.yaml",
    "- id: [\n": "tasks.yaml",
    "- {id: a, sandbox: {memori: 64}}\n": "memori",
}


@pytest.mark.parametrize("text", TASKS)
@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["", "xdist"])
def test_tasks(inner: Inner, refused: Callable[..., str], text: str, workers: tuple[str, ...]) -> None:
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
    inner: Inner, refused: Callable[..., str], fields: str, complaint: str
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


HOOKS = {
    "{'elsewhere': 3}": "hook pytest_sandboxes_backends (*) must return a mapping of names to ",
    "['bad']": "hook pytest_sandboxes_backends (*) must return a mapping of names to ",
    "{'elsewhere': dict}": "backend 'elsewhere' cannot be made: <class 'dict'>, called with one BackendOptions, raised ",
}


@pytest.mark.parametrize("result", HOOKS)
def test_a_hook_that_returns_no_backends(inner: Inner, refused: Callable[..., str], result: str) -> None:
    inner.write("conftest.py", f"def pytest_sandboxes_backends(config): return {result}\n")
    assert fnmatchcase(refused("--sandbox-backend=elsewhere"), f"{HOOKS[result]}*")


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["", "xdist"])
def test_tasks_of_a_conftest_file(
    inner: Inner, refused: Callable[..., str], workers: tuple[str, ...]
) -> None:
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


def test_tasks_of_a_hook(inner: Inner, refused: Callable[..., str]) -> None:
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


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["", "xdist"])
def test_other_errors_of_collection_stay_what_they_are(inner: Inner, workers: tuple[str, ...]) -> None:
    inner.write("test_it.py", "raise ValueError('mine')\n")
    run = inner.run(*workers)
    assert run.exit_code in {pytest.ExitCode.INTERRUPTED, pytest.ExitCode.TESTS_FAILED}
    assert run.counts.keys() == {"errors"}  # one of each worker
    assert "ValueError: mine" in run.stdout


def test_markers_in_workers_of_xdist(inner: Inner, refused: Callable[..., str]) -> None:
    inner.write("test_it.py", TESTS.replace("\ndef", "\n@pytest.mark.sandbox(slot=1)\ndef"))
    assert (
        refused("-n", "2") == "marker on test_it.py::test_it: unknown argument 'slot'; did you mean 'slots'?"
    )

"""The example suite `python_functions`, as users copy it: right solutions pass, no others do."""

from __future__ import annotations

import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from textwrap import dedent

import pytest

from pytest_sandboxes import load_tasks

pytest_plugins = ["pytester"]

EXAMPLES = Path(__file__).parents[2] / "example_suites"
SUITE = EXAMPLES / "python_functions"
TASKS = [task.id for task in load_tasks(SUITE / "tasks.yaml")]

# Any function that the driver asks a candidate for, with an answer that is right for no case of its task.
ANY_FUNCTION = """
def __getattr__(name):
    return lambda *arguments: {"no": "answer"}
"""

# The answer to ACCOMPLICE_TASK, put wherever a later solution might find it.
ACCOMPLICE_TASK = "thin_out"
PLANT = """
import os, site
ANSWER = ''' ... '''
HOME = os.path.expanduser("~")
PLACES = [".", "..", HOME, site.getusersitepackages(), "/tmp", "/var/tmp", "/dev/shm", "/run"]
NAMES = ["stolen.py", "solution.py", "driver.py", "json.py", "sitecustomize.py", "usercustomize.py"]

def plant():
    for place in PLACES:
        for name in NAMES:
            try:
                os.makedirs(place, exist_ok=True)
                with open(os.path.join(place, name), "w") as file:
                    file.write(ANSWER)
            except OSError:
                pass
"""
ACCOMPLICE = """
import os, site, sys, time
for _ in range(10):
    sys.path += [".", "..", os.path.expanduser("~"), "/tmp", "/var/tmp", "/dev/shm", "/run"]
    try:
        from stolen import thin_out
        break
    except ImportError:
        time.sleep(0.1)  # for a watcher to wake up
"""

HOSTILE = {
    "endless loop that ignores signals": """
        import signal
        for number in set(range(1, 65)) - {9, 19, 32, 33}:
            signal.signal(number, signal.SIG_IGN)
        while True: pass
    """,
    "exit status 0": "import os; os._exit(0)",
    "exit status 0 in the call": """
        import os
        def __getattr__(name):
            return lambda *arguments: os._exit(0)
    """,
    "guessed answers on every descriptor": """
        import os
        for descriptor in range(64):
            try:
                os.write(descriptor, b"null\\n0\\n1\\n[]\\n{}\\ntrue\\n\\"\\"\\n" * 3)
            except OSError:
                pass
        os._exit(0)
    """,
    "answers once more at exit": """
        import atexit, os
        atexit.register(os.write, 3, b"null\\n" * 8)
    """,
    "patches the driver": """
        import builtins, json
        class Anything(str):
            __eq__ = lambda self, other: True
            __hash__ = str.__hash__
        json.dumps = lambda *args, **kwargs: Anything("anything")
    """,
    "searches the driver for right answers": """
        import gc, sys
        def search(arguments):
            frame = sys._getframe()
            while frame:
                gc.collect()
                for found in [*frame.f_locals.values(), *gc.get_objects()]:
                    for case in found if isinstance(found, (list, tuple)) else [found]:
                        if isinstance(case, dict) and case.get("args") == arguments:
                            return case.get("returns", case.get("expected"))
                frame = frame.f_back
        def __getattr__(name):
            return lambda *arguments: search(list(arguments))
    """,
    "plants files that Python loads": PLANT + "plant()",
    "leaves a watcher that rewrites files": PLANT
    + dedent("""
        import signal, time
        if os.fork() == 0:
            os.setsid()
            for number in set(range(1, 65)) - {9, 19, 32, 33}:
                signal.signal(number, signal.SIG_IGN)
            if os.fork() == 0:
                os.closerange(0, 64)
                end = time.monotonic() + 60
                while time.monotonic() < end:
                    plant()
            os._exit(0)
    """),
    "kills init": "import os; os.kill(1, 9)",
    "kills its parent": "import os; os.kill(os.getppid(), 9)",
    "kills all it can": "import os; os.kill(-1, 9)",
    "stops all it can": """
        import os, signal, time
        os.kill(-1, signal.SIGSTOP)
        time.sleep(1)
    """,
    "takes away descriptors": """
        import os, resource
        for process in (1, os.getppid(), os.getpid()):
            try:
                resource.prlimit(process, resource.RLIMIT_NOFILE, (4, 4))
            except OSError:
                pass
        os.closerange(0, 64)
    """,
    "fills the memory": """
        hoard = []
        while len(hoard) < 64:
            hoard.append(b"x" * (8 << 20))
    """,
    "fills the process table": """
        import os, time
        for _ in range(300):
            try:
                if os.fork() == 0:
                    time.sleep(60)
            except OSError:
                pass
    """,
    "fills the disk": """
        for place in (".", "/tmp", "/dev/shm"):
            try:
                with open(f"{place}/full", "wb") as file:
                    for _ in range(100):
                        file.write(b"x" * (1 << 20))
            except OSError:
                pass
    """,
    "floods the output": """
        import os
        for _ in range(400):
            os.write(1, b"null\\n" * 20000)
            os.write(2, b"\\x1b]0;owned\\x07\\xff\\xed\\xa0\\x80" * 10000)
        os._exit(0)
    """,
    "answers with what no report can hold": """
        def __getattr__(name):
            return lambda *arguments: "\\ud800\\x1b[2J\\x00\\u202e"
    """,
}


@pytest.fixture
def suite(pytester: pytest.Pytester) -> Path:
    """A copy of the suite, which must not depend on the place it comes from."""
    copied = pytester.path / "example_suites"
    shutil.copytree(EXAMPLES, copied, ignore=shutil.ignore_patterns("__pycache__"))
    return copied / "python_functions"


def verdicts(pytester: pytest.Pytester, *args: str | Path) -> dict[str, str]:
    """What JUnit says about each task: `passed`, `failure` or `error`."""
    report = pytester.path / "report.xml"
    pytester.runpytest_subprocess("-p", "no:cacheprovider", f"--junitxml={report}", *args)
    found = {}
    for case in ET.parse(report).iter("testcase"):
        task = case.attrib["name"].removeprefix("test_function[").removesuffix("]")
        kinds = {child.tag for child in case} - {"properties", "system-out", "system-err"}
        found[task] = "+".join(sorted(kinds)) or "passed"
    return found


@pytest.mark.parametrize("where", ["example_suites", "example_suites/python_functions"])
def test_references_pass(pytester: pytest.Pytester, suite: Path, where: str) -> None:
    assert verdicts(pytester, where) == dict.fromkeys(TASKS, "passed")


@pytest.mark.parametrize("attempt", ["first", "second"])
def test_every_wrong_solution_fails(pytester: pytest.Pytester, suite: Path, attempt: str) -> None:
    found = verdicts(pytester, suite, f"--solutions={suite / 'wrong' / attempt}")
    assert found == dict.fromkeys(TASKS, "failure")


def test_hostile_solutions_get_no_credit_and_hurt_nobody(pytester: pytest.Pytester, suite: Path) -> None:
    """One run: hostile solutions of some tasks between references of the others, which must still pass."""
    solutions = suite / "references"
    answer = solutions.joinpath(f"{ACCOMPLICE_TASK}.py").read_text()
    solutions.joinpath(f"{ACCOMPLICE_TASK}.py").write_text(ACCOMPLICE)
    tasks = [task for task in TASKS if task != ACCOMPLICE_TASK]
    attacked = dict(zip(HOSTILE, tasks, strict=False))
    for attack, task in attacked.items():
        code = dedent(HOSTILE[attack]).replace(" ... ", answer)
        solutions.joinpath(f"{task}.py").write_text(
            f"{code}\n{'' if 'def __getattr__' in code else ANY_FUNCTION}"
        )
    assert TASKS.index(ACCOMPLICE_TASK) > TASKS.index(attacked["leaves a watcher that rewrites files"])

    found = verdicts(pytester, suite)

    assert {attack: found[task] for attack, task in attacked.items()} == dict.fromkeys(HOSTILE, "failure")
    assert found[ACCOMPLICE_TASK] == "failure"
    untouched = set(tasks) - set(attacked.values())
    assert {task: found[task] for task in untouched} == dict.fromkeys(untouched, "passed")


def test_the_accomplice_would_have_used_what_was_planted(suite: Path, tmp_path: Path) -> None:
    """Its failure above is the sandbox's merit: here it finds the plant and answers right."""
    shutil.copy(suite / "references" / f"{ACCOMPLICE_TASK}.py", tmp_path / "stolen.py")
    script = f"{ACCOMPLICE}\nprint({ACCOMPLICE_TASK}([0, 2, 4, 6], 3))"
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=True, text=True
    )
    assert found.stdout == "[0, 4, 6]\n"


def test_an_endless_loop_is_reported_as_a_timeout(pytester: pytest.Pytester, suite: Path) -> None:
    pytester.makepyfile(**{"mine/drive": "def drive(grid, commands):\n    while True: pass\n"})
    result = pytester.runpytest_subprocess(suite, "--solutions=mine", "-k", "drive")
    result.assert_outcomes(failed=1, deselected=len(TASKS) - 1)
    result.stdout.fnmatch_lines(["*ExecTimeoutError*"])


def test_a_missing_solution_fails_its_task(pytester: pytest.Pytester, suite: Path) -> None:
    mine = pytester.mkdir("mine")
    shutil.copy(suite / "references" / "drive.py", mine)
    result = pytester.runpytest_subprocess(suite, "--solutions", "mine", "-k", "drive or bounce")
    result.assert_outcomes(passed=1, failed=1, deselected=len(TASKS) - 2)
    result.stdout.fnmatch_lines(["no solution of bounce: *mine/bounce.py is missing"])


def test_a_missing_directory_is_a_usage_error(pytester: pytest.Pytester, suite: Path) -> None:
    result = pytester.runpytest_subprocess(suite, "--solutions=nowhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --solutions: no directory *nowhere; name one *"])

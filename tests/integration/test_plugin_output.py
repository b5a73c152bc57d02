"""Whatever a sandbox says, in whichever place a test puts it: neither terminals nor CI systems nor reports obey it."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest

from tests.integration.conftest import Inner, Run

# What terminals obey (OSC, CSI, DCS, C1, a lone return), what reorders a line, what cannot be encoded, and what cannot be
# in XML. The code is in the sandbox, so the traceback's own copy of it does no harm.
ATTACK = r"""
import sys
hostile = [
    "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\link", "\x1b[2J\x1b[31m", "\x9b31m", "\x1bPq\x1b\\", "over\rwritten", "\b\b\b",
    "\u202ereversed\u202c", "\u2066isolated\u2069", "\u200fmark", "\u2028line", "\x00nul", "\x7fdel", "\ufeffbom",
]
commands = ["::add-mask::secret", "  ::error file=x::y", "##[command]x", "text ##[error]x", "##vso[task.setvariable x=y]z",
    "##teamcity[buildStop]"]
sys.stdout.reconfigure(errors="surrogatepass")
print(*commands, *hostile, "\ud800lone", sep="\n")
"""

TESTS = """
import logging
import pytest

@pytest.fixture
def hostile(sandbox):
    sandbox.write_text("attack.py", ATTACK)
    return sandbox.exec("python3", "attack.py", check=True).stdout

def test_assertion(hostile):
    assert hostile == "harmless"

def test_message(hostile):
    assert False, hostile

def test_exception(hostile):
    raise ValueError(hostile)

def test_group(hostile):
    raise ExceptionGroup(hostile, [ValueError(hostile)])

def test_chain(hostile):
    try:
        raise ValueError(hostile)
    except ValueError as error:
        raise KeyError(hostile) from error

def test_print(hostile):
    print(hostile)
    logging.warning(hostile)
    assert False

def test_fail(hostile):
    pytest.fail(hostile, pytrace=False)

def test_skip(hostile):
    pytest.skip(hostile)

def test_xfail(hostile):
    pytest.xfail(hostile)

def test_property(hostile, record_property):
    record_property(hostile.splitlines()[0], hostile)
    record_property("list", [hostile])

def test_passing_print(hostile):
    print(hostile)

def test_result(sandbox):
    result = sandbox.exec("python3", "-c", ATTACK, check=False)
    assert result.returncode == 1, result

def test_command_failed(sandbox):
    sandbox.exec("python3", "-c", ATTACK + "\\nsys.exit(1)", check=True)

def test_name(sandbox):
    sandbox.read_text("\\x1b]0;title\\x07")

def test_surrogates_of_the_test(sandbox):
    assert False, "\\ud800" + sandbox.sh("printf '\\\\033[2J'").stdout

@pytest.fixture
def teardown(hostile):
    yield
    raise ValueError(hostile)

def test_teardown(teardown):
    pass
"""

SUBTESTS = """
def test_subtests(hostile, subtests):
    with subtests.test(hostile, given=hostile):
        print(hostile)
        logging.warning(hostile)
        assert False, hostile
    with subtests.test(msg=None):
        pass
"""

UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""What no output may contain, but for pytest's own colours."""
COMMAND = re.compile(r"^\s*::|##\[|##vso\[|##teamcity\[", re.MULTILINE)
ESCAPED = ("\\x1b]0;title\\x07", "\\x9b31m", "\\u202ereversed\\u202c", "::add-mask::secret", "[command]x")


def write_tests(inner: Inner) -> None:
    subtests = SUBTESTS if pytest.version_tuple >= (9, 0) else ""
    inner.write("test_hostile.py", f"ATTACK = {ATTACK!r}\n{TESTS}\n{subtests}")


def check_harmless(text: str) -> None:
    """There is nothing to obey in `text`, and what was hostile in it can be read."""
    for line in text.splitlines():
        assert not UNSAFE.search(line), line.encode("unicode_escape")
        # a traceback shows the test's own source, where `ATTACK` stands as one escaped literal
        assert not COMMAND.search(line) or "ATTACK = " in line, line
    for expected in ESCAPED:
        assert expected in text, expected


def terminal_of(run: Run) -> str:
    return run.stdout + run.stderr


def test_terminal(inner: Inner) -> None:
    write_tests(inner)
    run = inner.run("-rA", "-v", "--tb=long", "--color=no")
    assert run.counts["failed"] >= 10
    assert run.counts["skipped"] == run.counts["xfailed"] == 1
    check_harmless(terminal_of(run))


@pytest.mark.parametrize("style", ["auto", "long", "short", "line", "native"])
def test_terminal_in_ci(inner: Inner, monkeypatch: pytest.MonkeyPatch, style: str) -> None:
    """There the summary has whole messages, with all of their lines."""
    monkeypatch.setenv("CI", "true")
    write_tests(inner)
    check_harmless(terminal_of(inner.run("-rA", f"--tb={style}", "--color=no")))


def test_colours_are_those_of_pytest(inner: Inner) -> None:
    write_tests(inner)
    output = terminal_of(inner.run("-rA", "-vv", "--color=yes"))
    assert "\x1b[31mFAILED\x1b[0m" in output
    check_harmless(re.sub("\x1b\\[[0-9;]*m", "", output))
    hostile_lines = [line for line in output.splitlines() if "\\x1b[2J\\x1b[31m" in line]
    assert hostile_lines
    assert not [line for line in output.splitlines() if "\x1b[2J" in line]
    assert "\\x1b[0m" not in output, "a colour of pytest's that was taken for one of the sandbox"


def test_junit(inner: Inner) -> None:
    write_tests(inner)
    run = inner.run("-o", "junit_logging=all")
    text = inner.report.read_text(encoding="utf-8")
    check_harmless(text.replace("&#10;", "\n"))
    assert run.verdicts["test_property"] == "passed"
    assert run.verdicts["test_teardown"] == "error"


def test_workers_of_xdist(inner: Inner) -> None:
    write_tests(inner)
    run = inner.run("-n", "2", "-rA", "--color=no")
    assert "INTERNALERROR" not in terminal_of(run)
    assert run.exit_code == pytest.ExitCode.TESTS_FAILED
    check_harmless(terminal_of(run))
    check_harmless(inner.report.read_text(encoding="utf-8").replace("&#10;", "\n"))


def test_a_lost_attempt_says_nothing_hostile_either(inner: Inner) -> None:
    inner.write(
        "test_lost.py",
        f"""
        ATTACK = {ATTACK!r}

        def test_it(sandbox, lose):
            sandbox.write_text("attack.py", ATTACK)
            hostile = sandbox.exec("python3", "attack.py", check=True).stdout
            lose()
            assert False, hostile
        """,
    )
    run = inner.run("-rA", "--color=no")
    assert run.verdicts == {"test_it": "failure"}
    assert "What the test made of it" in run.stdout
    check_harmless(terminal_of(run))
    check_harmless(inner.report.read_text(encoding="utf-8").replace("&#10;", "\n"))


def test_a_post_mortem_debugger_prints_nothing_hostile(inner: Inner) -> None:
    inner.write(
        "test_pdb.py",
        f"""
        ATTACK = {ATTACK!r}

        def test_it(sandbox):
            hostile = sandbox.exec("python3", "-c", ATTACK).stdout
            print(hostile)
            assert False, hostile
        """,
    )
    run = inner.run("--pdb", "--pdbcls=tests.integration.test_plugin_output:Silent", "--color=no")
    assert run.verdicts == {"test_it": "failure"}
    check_harmless(run.stdout)


class Silent:
    """A debugger with nobody at its prompt."""

    def __init__(self, *_: object, **__: object) -> None:
        self.quitting = False

    def __getattr__(self, name: str) -> object:
        return lambda *_, **__: None


def test_lines_of_a_megabyte(inner: Inner) -> None:
    inner.write(
        "test_long.py",
        """
        import pytest

        def test_message(sandbox):
            line = sandbox.sh("printf '\\\\033[2J'; head -c 1000000 /dev/zero | tr '\\\\0' x").stdout
            print(line)
            pytest.fail(line)

        def test_result(sandbox):
            result = sandbox.sh("head -c 1000000 /dev/zero | tr '\\\\0' x; exit 1")
            assert result.success, result
        """,
    )
    run = inner.run("-n", "2")
    assert run.counts == {"failed": 2}
    assert "\x1b" not in run.stdout
    assert len(run.cases["test_result"].text) < 100_000


def test_tests_without_a_sandbox_print_as_ever(inner: Inner) -> None:
    inner.write(
        "test_mine.py",
        """
        def test_sandbox(sandbox): pass

        def test_mine():
            print("\\x1b[31mred\\x1b[0m ##[group]mine")
            assert {"a": 1} == {"a": 2}
        """,
    )
    output = inner.run("--color=yes", "-vv").stdout
    assert "\x1b[31mred\x1b[0m ##[group]mine" in output
    assert "\\x1b" not in output.replace('"\\x1b[31mred\\x1b[0m', "")


def test_workers_of_xdist_account_for_what_they_have_used(inner: Inner) -> None:
    inner.write("sandboxes.yaml", "profiles:\n  default: {app_name: x}\n")
    inner.write(
        "test_it.py",
        """
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_it(sandbox, number):
            assert number % 2
        """,
    )
    run = inner.run_apart("-n", "2", "--sandbox-keep-failed")
    assert run.counts == {"passed": 2, "failed": 2}
    ends = [line.partition(":")[2] for line in run.stdout.splitlines() if line.startswith("  end:")]
    for end in ends:
        subprocess.run(shlex.split(end), check=True)
    assert len(ends) == 2
    assert run.stdout.count("= sandboxes =") == 1
    assert run.stdout.count("app_name not used by backend local") == 1
    assert ", 4 leased, " in run.stdout

"""Where profiles come from, in runs of pytest: file, environment, marker; what is listed, refused, and said of each backend."""

from __future__ import annotations

import re

import pytest

from tests.integration.conftest import Inner, Run

FILE = """
profiles:
  default: {buffer_sandboxes: 0, env_vars: {SAYS: file}}
  own: {extends: default, output_limit: 7}
"""
SAYS = """
import pytest

def said(sandbox):
    result = sandbox.sh("printf %s $SAYS")
    return result.stdout, result.truncated

def test_plain(sandbox):
    assert said(sandbox) == (EXPECTED[0], False)

@pytest.mark.sandbox(profile="own")
def test_own(sandbox):
    assert said(sandbox) == (EXPECTED[1], False)

@pytest.mark.sandbox(profile="own", env_vars={"SAYS": "marker"}, output_limit=4)
def test_marked(sandbox):
    assert said(sandbox) == ("mark", True)
"""
SHOWS = """
import pytest

@pytest.mark.sandbox(profile="own", execution_timeout_s=7)
@pytest.mark.parametrize("number", range(4))
def test_it(sandbox_pool, number):
    listed = sandbox_pool.profiles()
    assert [each.profile.name for each in listed] == ["default", "own", "new"]
    assert [each.active for each in listed] == [True, True, False]
    own = listed[1].profile
    assert (own.output_limit, own.source("output_limit")) == (7, "sandboxes.yaml:4")
    assert (own.execution_timeout_s, own.source("execution_timeout_s")) == (60, "default")
    new = listed[2].profile
    assert (new.pids, new.source("pids")) == (9, "environment variable PYTEST_SANDBOXES_PROFILE_NEW_PIDS")
    assert new.app_name == "pytest-sandboxes-new"
"""
GENEROUS = """
from pytest_sandboxes.backends.base import Checked
from pytest_sandboxes.backends.local import LocalBackend

class Generous(LocalBackend):
    name = "generous"

    def check(self, profile):
        return Checked(unused=("app_name",) if profile.source("app_name") != "default" else ())

def pytest_sandboxes_backends(config):
    return {"generous": Generous}
"""
WORKERS = pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["", "xdist"])
PREFIX = "PYTEST_SANDBOXES_"


def set_variables(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, text in variables.items():
        monkeypatch.setenv(PREFIX + name, text)


def in_workers(variables: dict[str, str]) -> str:
    """A conftest file that gives workers other variables than the controller has."""
    return f"""
import pytest

@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs):
    for spec in specs:
        spec.env = { ({PREFIX + name: text for name, text in variables.items()})!r}
"""


def run(inner: Inner, *args: str) -> Run:
    return inner.run_apart(*args) if "-n" in args else inner.run(*args)


class TestOrder:
    @WORKERS
    @pytest.mark.parametrize(
        ("variables", "expected"),
        [
            ({}, ("file", "file")),
            ({"DEFAULT_ENV_VARS": "SAYS=all"}, ("all", "all")),
            ({"PROFILE_OWN_ENV_VARS": "SAYS=own;A=1"}, ("file", "own")),
            ({"PROFILE_OWN_ENV_VARS": "SAYS=own", "DEFAULT_ENV_VARS": "SAYS=all"}, ("all", "own")),
        ],
    )
    def test_file_then_environment_then_marker(
        self,
        inner: Inner,
        monkeypatch: pytest.MonkeyPatch,
        variables: dict[str, str],
        expected: tuple[str, str],
        workers: tuple[str, ...],
    ) -> None:
        set_variables(monkeypatch, **variables)
        inner.write("sandboxes.yaml", FILE)
        inner.write("test_it.py", f"EXPECTED = {expected!r}\n{SAYS}")
        passed = dict.fromkeys(("test_plain", "test_own", "test_marked"), "passed")
        assert run(inner, *workers).verdicts == passed

    def test_the_environment_alone(self, inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
        (inner.path / "sandboxes.yaml").unlink()
        variables = {"PROFILES": "own", "PROFILE_OWN_ENV_VARS": "SAYS=own", "DEFAULT_BUFFER_SANDBOXES": "0"}
        set_variables(monkeypatch, **variables)
        inner.write("test_it.py", f"EXPECTED = ('', 'own')\n{SAYS}")
        ran = inner.run("-k", "not plain")
        assert ran.counts == {"passed": 2, "deselected": 1}
        assert "sandboxes: backend local, profile default, profiles from the environment" in ran.stdout


class TestListed:
    @WORKERS
    def test_by_the_pool(
        self, inner: Inner, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
    ) -> None:
        set_variables(monkeypatch, PROFILES="new", PROFILE_NEW_PIDS="9")
        inner.write("sandboxes.yaml", FILE)
        inner.write("test_it.py", SHOWS)
        assert run(inner, *workers).counts == {"passed": 4}

    def test_workers_have_the_controllers(self, inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
        """However another file or environment they see."""
        set_variables(monkeypatch, PROFILES="new", PROFILE_NEW_PIDS="9")
        inner.write("sandboxes.yaml", FILE)
        inner.write("test_it.py", SHOWS)
        inner.write("conftest.py", in_workers({"PROFILES": "other", "DEFAULT_OUTPUT_LIMIT": "3"}))
        ran = run(inner, "-n", "2")
        assert ran.counts == {"passed": 4}, ran.stdout + ran.stderr

    def test_workers_have_none_where_the_controller_has_none(self, inner: Inner) -> None:
        (inner.path / "sandboxes.yaml").unlink()
        inner.write(
            "test_it.py",
            """
            import os

            def test_it(sandbox_pool):
                assert os.environ["PYTEST_SANDBOXES_DEFAULT_MEMORY"] == "3"
                (listed,) = sandbox_pool.profiles()
                assert listed.profile.memory is None
                assert listed.profile.app_name == "pytest-sandboxes-default"
            """,
        )
        inner.write("conftest.py", in_workers({"DEFAULT_MEMORY": "3"}))
        ran = run(inner, "-n", "1")
        assert ran.counts == {"passed": 1}, ran.stdout + ran.stderr

    @WORKERS
    def test_instead_of_tests(
        self, inner: Inner, monkeypatch: pytest.MonkeyPatch, workers: tuple[str, ...]
    ) -> None:
        set_variables(monkeypatch, PROFILES="new", PROFILE_NEW_PIDS="9", DEFAULT_CPU="2")
        inner.write("sandboxes.yaml", FILE)
        inner.write("test_it.py", "raise RuntimeError('collected')")
        ran = run(
            inner, "--sandbox-list-profiles", "--sandbox-profile=own", "--sandbox-isolation=sandbox", *workers
        )
        assert ran.exit_code == 0
        assert "collected" not in ran.stdout
        heads = re.findall(r"^(\S+) \(digest [0-9a-f]{16}, (.*)\)$", ran.stdout, re.MULTILINE)
        assert heads == [("default", "not active"), ("own", "active"), ("new", "not active")]
        for line in (
            r"  output_limit +7 +sandboxes\.yaml:4",
            r"  pids +9 +environment variable PYTEST_SANDBOXES_PROFILE_NEW_PIDS",
            r"  cpu +2\.0 +environment variable PYTEST_SANDBOXES_DEFAULT_CPU",
            r'  isolation +"sandbox" +--sandbox-isolation',
            r'  app_name +"pytest-sandboxes-own" +default',
        ):
            assert re.search(f"^{line}$", ran.stdout, re.MULTILINE), line

    def test_names_of_secrets_and_no_values(self, inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MY_KEY", "hunter2")
        set_variables(monkeypatch, DEFAULT_SECRETS="MY_KEY")
        ran = inner.run("--sandbox-list-profiles")
        assert '["MY_KEY"]' in ran.stdout
        assert "hunter2" not in ran.stdout + ran.stderr

    def test_a_mistake_is_refused_there_too(self, inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
        set_variables(monkeypatch, DEFAULT_MEMORY="lots")
        ran = inner.run("--sandbox-list-profiles")
        assert ran.exit_code == pytest.ExitCode.USAGE_ERROR
        assert (
            "environment variable PYTEST_SANDBOXES_DEFAULT_MEMORY, profile 'default': memory is" in ran.stderr
        )


class TestBackends:
    def test_each_decides_for_itself(self, inner: Inner) -> None:
        inner.write("conftest.py", GENEROUS)
        inner.write("sandboxes.yaml", "profiles: {default: {gpu: A100, app_name: a, buffer_sandboxes: 0}}")
        inner.write("test_it.py", "def test_it(sandbox):\n    sandbox.list_files()\n")

        assert inner.run("--sandbox-backend=generous").counts == {"passed": 1}
        both = inner.run("--sandbox-backend=generous,local")
        assert both.exit_code == pytest.ExitCode.USAGE_ERROR
        assert both.stderr.strip() == (
            "ERROR: sandboxes.yaml:1: gpu of profile 'default' cannot be kept: backend local has none: backends docker "
            "and modal can; --sandbox-enforcement best-effort goes without"
        )
        without = inner.run("--sandbox-backend=generous,local", "--sandbox-enforcement=best-effort")
        assert without.counts == {"passed": 2}
        for line in (
            "sandboxes: profile default: app_name not used by backend generous",
            "sandboxes: profile default: app_name not used by backend local",
            "sandboxes: profile default: gpu dropped, which backend local cannot keep (--sandbox-enforcement best-effort)",
        ):
            assert without.stdout.count(line) == 1
        assert "gpu dropped, which backend generous" not in without.stdout

    def test_a_profile_that_no_test_asks_for_is_no_matter(self, inner: Inner) -> None:
        inner.write("sandboxes.yaml", "profiles: {default: {buffer_sandboxes: 0}, big: {gpu: A100}}")
        inner.write("test_it.py", "def test_it(sandbox):\n    sandbox.list_files()\n")
        assert inner.run().counts == {"passed": 1}

    @pytest.mark.parametrize(
        ("source", "complaint"),
        [
            (
                "missing",
                "is 'missing', but the rootdir .* has no such directory: correct the path or make it",
            ),
            ("test_it.py", "is 'test_it.py', but the rootdir .* has no such directory"),
            ("away", "is 'away', which leads out of the rootdir .*: name a directory of the project"),
            ("round", "is 'round', but the rootdir .* has no such directory"),
            ("data", None),
            ("inside", None),
            ("/testbed", None),
        ],
    )
    def test_a_workspace_source_is_looked_for_where_the_backend_has_any(
        self, inner: Inner, source: str, complaint: str | None
    ) -> None:
        inner.write("conftest.py", GENEROUS)
        inner.write("data/x", "")
        for name, target in (("away", "/usr/share"), ("inside", "data"), ("round", "round")):
            (inner.path / name).symlink_to(target)
        inner.write(
            "sandboxes.yaml",
            f"""
            profiles:
              default: {{buffer_sandboxes: 0}}
              own: {{extends: default, workspace_source: {source}}}
            """,
        )
        inner.write(
            "test_it.py",
            "import pytest\n\n@pytest.mark.sandbox(profile='own')\ndef test_it(sandbox): sandbox.list_files()\n",
        )
        ran = inner.run("--sandbox-backend=generous", "test_it.py")
        if complaint is None:
            assert ran.counts == {"passed": 1}
        else:
            assert ran.exit_code == pytest.ExitCode.USAGE_ERROR
            assert re.fullmatch(
                rf"ERROR: sandboxes.yaml:4: workspace_source of profile 'own' {complaint}.*",
                ran.stderr.strip(),
            )

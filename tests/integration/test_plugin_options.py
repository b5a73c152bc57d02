"""Each option, in each of its three spellings, reaches what it is there for; and what a run says about itself."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.integration.conftest import Inner, Run

SPELLINGS = ("command line", "environment", "ini")

ONE = """
def test_it(sandbox):
    assert sandbox.sh("echo 42").stdout == "42\\n"
"""


def spell(inner: Inner, monkeypatch: pytest.MonkeyPatch, spelling: str, name: str, value: str) -> list[str]:
    """Give an option in one of its spellings; the value `true` is that of a flag."""
    if spelling == "command line":
        return [f"--sandbox-{name}" if value == "true" else f"--sandbox-{name}={value}"]
    if spelling == "environment":
        monkeypatch.setenv(f"PYTEST_SANDBOXES_{name.upper().replace('-', '_')}", value)
    else:
        inner.write("pytest.ini", f"[pytest]\nsandbox_{name.replace('-', '_')} = {value}\n")
    return []


@pytest.fixture(params=SPELLINGS)
def spelling(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run_with(inner: Inner, monkeypatch: pytest.MonkeyPatch, spelling: str) -> Callable[..., Run]:
    """Runs with one option, in the spelling at hand."""

    def run(name: str, value: str, *args: str) -> Run:
        return inner.run(*spell(inner, monkeypatch, spelling, name, value), *args)

    return run


def test_backend(inner: Inner, run_with: Callable[..., Run]) -> None:
    inner.write("test_it.py", ONE)
    run = run_with("backend", "second")
    assert run.verdicts == {"test_it": "passed"}
    assert run.cases["test_it"].properties["backend"] == "second"
    assert "sandboxes: backend second, profile default, profiles from " in run.stdout


def test_profile_and_profiles_file(inner: Inner, run_with: Callable[..., Run], spelling: str) -> None:
    inner.write("test_it.py", "def test_it(sandbox):\n    assert sandbox.workspace == '/elsewhere'\n")
    inner.write("more.yaml", "profiles:\n  other: {workspace_base: /elsewhere, buffer_sandboxes: 0}\n")
    if spelling == "ini":
        inner.write("pytest.ini", "[pytest]\nsandbox_profile = other\nsandbox_profiles_file = more.yaml\n")
        run = inner.run()
    else:
        run = run_with("profile", "other", "--sandbox-profiles-file=more.yaml")
    assert run.verdicts == {"test_it": "passed"}
    assert run.cases["test_it"].properties["profile"] == "other"
    assert re.search(
        r"^sandboxes: backend local, profile other, profiles from .*more\.yaml$", run.stdout, re.MULTILINE
    )


def test_profiles_file(inner: Inner, run_with: Callable[..., Run]) -> None:
    inner.write("test_it.py", "def test_it(sandbox):\n    assert sandbox.workspace == '/elsewhere'\n")
    inner.write("more.yaml", "profiles:\n  default: {workspace_base: /elsewhere, buffer_sandboxes: 0}\n")
    assert run_with("profiles-file", "more.yaml").verdicts == {"test_it": "passed"}


def test_list_profiles(inner: Inner, run_with: Callable[..., Run]) -> None:
    inner.write("test_it.py", "raise RuntimeError('collected')")
    inner.write("sandboxes.yaml", "profiles:\n  big: {memory: 4096}\n")
    run = run_with("list-profiles", "true")
    assert run.exit_code == 0
    assert re.search(r"^big \(digest [0-9a-f]{16}, not active\)$", run.stdout, re.MULTILINE)
    assert re.search(r"^  memory +4096 +sandboxes\.yaml:2$", run.stdout, re.MULTILINE)
    assert "test session starts" not in run.stdout


def test_isolation(inner: Inner, run_with: Callable[..., Run]) -> None:
    inner.write(
        "test_it.py",
        """
        import os

        def test_it(sandbox):
            assert sandbox.sh("readlink /proc/self/ns/pid").stdout.strip() == os.readlink("/proc/self/ns/pid")
        """,
    )
    run = run_with("isolation", "none")
    assert run.verdicts == {"test_it": "passed"}
    assert "isolation none" in run.stdout
    assert inner.run("--sandbox-isolation=slot").verdicts == {"test_it": "failure"}


def test_enforcement(inner: Inner, run_with: Callable[..., Run]) -> None:
    inner.write("test_it.py", "import pytest\n\n@pytest.mark.sandbox(network='outbound')" + ONE)
    assert run_with("enforcement", "best-effort").verdicts == {"test_it": "passed"}
    refused = inner.run("--sandbox-enforcement=strict")
    assert refused.exit_code == pytest.ExitCode.USAGE_ERROR
    assert "backend local cannot give a sandbox a network" in refused.stderr


def test_infra_retries(inner: Inner, run_with: Callable[..., Run]) -> None:
    inner.write("test_it.py", "def test_it(sandbox, fault):\n    fault(sandbox)\n")
    run = run_with("infra-retries", "4", "--fault=always")
    assert run.verdicts == {"test_it": "error"}
    assert run.cases["test_it"].attempts == 5


def test_command_line_over_environment_over_ini(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    inner.write("test_it.py", ONE)
    inner.write("pytest.ini", "[pytest]\nsandbox_backend = nowhere\n")
    monkeypatch.setenv("PYTEST_SANDBOXES_BACKEND", "second")
    assert inner.run().cases["test_it"].properties["backend"] == "second"
    assert inner.run("--sandbox-backend=local").cases["test_it"].properties["backend"] == "local"
    monkeypatch.delenv("PYTEST_SANDBOXES_BACKEND")
    assert "ini option sandbox_backend in pytest.ini" in inner.run().stderr


def test_properties(inner: Inner) -> None:
    inner.write(
        "test_it.py",
        """
        import pytest

        @pytest.mark.sandbox(image="python:3.12", slots=2)
        def test_it(sandbox):
            for slot in sandbox:
                slot.exec("true")
            sandbox[0].reset()
        """,
    )
    properties = dict(inner.run().cases["test_it"].properties)
    numbers = {name: float(properties.pop(name)) for name in ("queue_wait", "sandbox_seconds", "peak_memory")}
    assert all(number > 0 for number in numbers.values()), numbers
    assert len(set(properties.pop("sandbox").split(", "))) == 3
    assert properties == {
        "backend": "local",
        "profile": "default",
        "image": "python:3.12",
        "slot": "0, 1",
        "execs": "2",
        "attempts": "1",
    }


def test_recipes_that_do_not_apply_are_named_once(inner: Inner) -> None:
    inner.write("sandboxes.yaml", "profiles:\n  default: {image: 'python:3.12', buffer_sandboxes: 0}\n")
    inner.write(
        "test_it.py",
        "import pytest\n\n@pytest.mark.parametrize('n', range(3))\ndef test_it(sandbox, n): pass\n",
    )
    run = inner.run()
    assert run.stdout.count("sandboxes: profile default: image not used by backend local\n") == 1


def test_promises_that_are_dropped_are_named_once(inner: Inner) -> None:
    fields = "{app_name: x, network: outbound, user: bob, buffer_sandboxes: 0}"
    inner.write("sandboxes.yaml", f"profiles:\n  default: {fields}\n")
    inner.write(
        "test_it.py",
        "import pytest\n\n@pytest.mark.parametrize('n', range(3))\ndef test_it(sandbox, n): pass\n",
    )
    run = inner.run("--sandbox-enforcement=best-effort")
    assert [line for line in run.stdout.splitlines() if line.startswith("sandboxes: profile")] == [
        "sandboxes: profile default: app_name not used by backend local",
        (
            "sandboxes: profile default: user, network dropped, which backend local cannot keep "
            "(--sandbox-enforcement best-effort)"
        ),
    ]


def test_no_control_groups_are_named_with_each_limit(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_sandboxes.backends import cgroups

    monkeypatch.setattr(cgroups, "_find_parents", lambda: (True, {}))
    inner.write("sandboxes.yaml", "profiles:\n  default: {memory: 100, pids: 50, buffer_sandboxes: 0}\n")
    inner.write("test_it.py", "def test_it(sandbox): assert sandbox.exec('true').success\n")
    run = inner.run("--sandbox-enforcement=best-effort")
    assert run.verdicts == {"test_it": "passed"}
    assert "sandboxes: profile default: memory, pids dropped, which backend local cannot keep " in run.stdout


def test_no_isolation_is_told_once_for_each_profile(inner: Inner) -> None:
    text = "profiles:\n  default: {isolation: none, buffer_sandboxes: 0}\n  other: {isolation: none}\n"
    inner.write("sandboxes.yaml", text)
    inner.write(
        "test_it.py",
        """
        import pytest

        def test_one(sandbox): pass
        def test_two(sandbox): pass
        @pytest.mark.sandbox(isolation="slot")
        def test_three(sandbox): pass
        def test_four(sandbox_factory):
            sandbox_factory(profile="other")
        """,
    )
    told = "sandboxes: profile default: isolation none (sandboxes.yaml:2): its code runs as you, not isolated"
    run = inner.run()
    lines = run.stdout.splitlines()
    assert [line for line in lines if line.startswith("sandboxes: profile ")] == [told]
    assert "profile other: isolation none (sandboxes.yaml:3): its code runs as you, not isolated" in lines
    assert "its code runs as you" not in inner.run("--sandbox-isolation=none").stdout, "the header says it"


def test_summary(inner: Inner) -> None:
    inner.write(
        "test_it.py",
        """
        def test_loss(sandbox, fault):
            fault(sandbox)

        def test_reset(sandbox):
            sandbox.reset()
        """,
    )
    run = inner.run("--fault=once")
    (summary,) = [line for line in run.stdout.splitlines() if "sandbox-seconds" in line]
    parts = [re.sub(r"[\d.]+ s\b|[\d.]+ (?=sandbox-seconds)", "N ", part) for part in summary.split(", ")]
    assert parts == [
        "4 started",
        "3 leased",
        "3 waited (N )",
        "1 reset",
        "1 lost and replaced",
        "1 tried again after a loss",
        "N sandbox-seconds",
    ]


def test_nothing_to_say_without_sandboxes(inner: Inner) -> None:
    inner.write("test_it.py", "def test_it(): pass\n")
    run = inner.run()
    assert run.counts == {"passed": 1}
    assert "sandbox-seconds" not in run.stdout
    assert "= sandboxes =" not in run.stdout


def test_several_backends_run_each_test_on_each(inner: Inner) -> None:
    inner.write(
        "test_it.py",
        """
        import pytest

        def test_slot(sandbox):
            sandbox.list_files()

        @pytest.mark.parametrize("number", [1, 2])
        def test_numbers(sandbox, number):
            pass

        @pytest.fixture(scope="module")
        def shared(sandbox_factory):
            with sandbox_factory() as slot:
                yield slot

        def test_shared(shared, sandbox_backend):
            assert shared.backend == sandbox_backend

        def test_pool(sandbox_pool):
            pass

        def test_other():
            pass
        """,
    )
    single = inner.run()
    alone = {"test_slot", "test_numbers[1]", "test_numbers[2]", "test_shared", "test_pool", "test_other"}
    assert single.verdicts == dict.fromkeys(alone, "passed")

    both = inner.run("--sandbox-backend=local,second")
    backends = {
        name: case.properties["backend"] for name, case in both.cases.items() if "backend" in case.properties
    }
    assert backends == {
        name.format(backend): backend
        for backend in ("local", "second")
        for name in ("test_slot[{}]", "test_numbers[{}-1]", "test_numbers[{}-2]", "test_shared[{}]")
    }
    assert set(both.verdicts.values()) == {"passed"}
    assert both.cases.keys() - backends.keys() == {"test_pool", "test_other"}


def test_a_test_of_one_backend_can_be_selected(inner: Inner) -> None:
    inner.write("test_it.py", ONE)
    run = inner.run("--sandbox-backend=local,second", "-k", "second")
    assert run.verdicts == {"test_it[second]": "passed"}
    assert run.counts == {"passed": 1, "deselected": 1}

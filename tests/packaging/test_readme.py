"""The README is true: its tables list what there is, its examples run, and CI runs its commands."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

import pytest_sandboxes
from pytest_sandboxes import UnsupportedError
from pytest_sandboxes.backends import isolated
from pytest_sandboxes.backends.base import DEFAULT_DISK_MEGABYTES, BackendOptions, Checked
from pytest_sandboxes.backends.bubblewrap import explain
from pytest_sandboxes.backends.local import LocalBackend
from pytest_sandboxes.lease import Lease, Loss
from pytest_sandboxes.markers import read_marker
from pytest_sandboxes.profiles.profile import FIELDS, Profile
from pytest_sandboxes.settings import settings

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text("utf-8")


def section(title: str) -> str:
    """The text below a heading, up to the next of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", README, re.DOTALL | re.MULTILINE)
    assert found, f"no heading {title}"
    return found[1]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table, without the head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_first_section_has_exactly_two_commands_and_ci_runs_them() -> None:
    assert README.index("\n## Quick start\n") < min(
        README.index(other) for other in ("\n## Writing", "\n### ")
    )
    script = (PROJECT / ".ci" / "run").read_text("utf-8")
    reader = re.search(r"^readme_command\(\) \{.*?^\}", script, re.DOTALL | re.MULTILINE)
    assert reader
    first, second = blocks(section("Quick start"), "sh")
    for number, block in ((1, first), (2, second), (3, "")):
        read = subprocess.run(
            ["bash", "-c", f"{reader[0]}\nreadme_command {number}"],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert read.stdout == block
        assert block.strip().count("\n") == block.count(
            " &&\n"
        )  # one command, whose parts stop at the first failure
    assert "-m pytest example_suites" in first
    assert "-m pytest tests" in second
    for caller in ("root", "user"):
        for number in (1, 2):
            assert re.search(rf"{caller}.* bash -euxc \"\$\(readme_command {number}\)\"", script)


def test_the_table_of_options_lists_every_option_in_its_three_spellings() -> None:
    spelled = [[option.flag, option.variable, option.key] for option in settings._OPTIONS]
    assert [[names(cell)[0] for cell in row[:3]] for row in rows("Options")] == spelled


def test_the_table_of_options_has_the_defaults() -> None:
    shown = {names(row[0])[0]: row[3] for row in rows("Options")}
    default = settings.Settings()
    assert shown["--sandbox-backend"] == f"`{','.join(default.backends)}`"
    assert shown["--sandbox-profile"] == f"`{default.profile}`"
    assert shown["--sandbox-enforcement"] == f"`{default.enforcement}`"
    assert shown["--sandbox-infra-retries"] == f"`{default.infra_retries}`"
    assert f"`{settings.DEFAULT_PROFILES_FILE}`" in shown["--sandbox-profiles-file"]


def test_the_table_of_profile_fields_lists_every_field_once() -> None:
    listed = [name for row in rows("Profiles") for name in names(row[0])]
    assert sorted(listed) == sorted(FIELDS)


def test_the_table_of_profile_fields_has_the_defaults() -> None:
    shown = {name: row[1] for row in rows("Profiles") for name in names(row[0]) if row[1] != "\u2013"}
    default = dict(Profile().values())
    for field, cell in shown.items():
        value = default[field]
        if isinstance(value, int | float):
            assert float(cell) == value, field
        elif isinstance(value, str):
            assert names(cell) == [value], field
        elif field in IMPLIED:
            assert float(cell) == IMPLIED[field], field
        else:
            assert not value, field
            assert cell in {"none", "no limit"}, field


IMPLIED = {"disk": DEFAULT_DISK_MEGABYTES, "pids": isolated._PROCESS_LIMIT}
"""What backend local makes of None."""

VALUES: dict[str, object] = {
    "gpu": "A100",
    "user": "root",
    "secrets": ["PATH"],
    "setup": ["true"],
    "workspace_source": "data",
    "local": {"any": 1},
    "docker": {"any": 1},
    "modal": {"any": 1},
    "gcp": {"any": 1},
    "network": "outbound",
    "image": "python:3.12",
    "app_name": "app",
    "slots_per_sandbox": 2,
    "target_slots_per_sandbox": 1,
    "max_lifetime": 60,
    "idle_timeout": 60,
    "max_uses": 5,
    "scaledown_window": 60,
    "env_vars": {"NAME": "value"},
    "workspace_base": "/elsewhere",
    "disk": 8,
    "execution_timeout_s": 5,
    "acquire_timeout_s": 5,
    "output_limit": 5,
    "min_sandboxes": 1,
    "max_sandboxes": 2,
    "buffer_sandboxes": 1,
    "isolation": "sandbox",
}
"""For each field one that is not its default; `memory`, `pids` and `cpu` depend on the machine."""


@pytest.mark.parametrize("field", sorted(FIELDS.keys() - {"memory", "pids", "cpu"}))
def test_backend_local_does_with_a_field_what_the_table_says(field: str) -> None:
    (says,) = [row[2] for row in rows("Profiles") if field in names(row[0])]
    backend = LocalBackend(BackendOptions())
    profile = Profile().override({field: VALUES[field]}, "here")
    if says.startswith("refuses"):
        with pytest.raises(UnsupportedError, match=f"^here: {field} of profile 'default' cannot be kept: "):
            backend.check(profile)
    else:
        reported = says == "does not use them, and says so once at the start"
        assert backend.check(profile) == Checked(
            unused=(field,) if reported else (), isolated=profile.isolation != "none"
        )


def test_what_is_not_used_is_said_at_the_start(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import pytest\n@pytest.mark.sandbox(image='i', app_name='x')\ndef test_it(sandbox): pass"
    )
    ran = pytester.runpytest_inprocess()
    ran.assert_outcomes(passed=1)
    ran.stdout.fnmatch_lines(["sandboxes: profile default: image, app_name not used by backend local"])


def test_the_table_of_marker_arguments_is_complete() -> None:
    own = [names(row[0])[0] for row in rows("Marker")[:-1]]
    values = {"profile": "default", "slots": 1, "exec_timeout": 1, "retry_safe": False}
    assert sorted(own) == sorted(values)
    read_marker(values, (), "here")


def test_every_error_is_in_the_table() -> None:
    errors = {
        name
        for name in pytest_sandboxes.__all__
        if name.endswith("Error") and name not in {"SandboxesError", "InfrastructureError"}
    }
    assert {name for row in rows("The slot") for name in names(row[0])} >= errors


def test_every_call_of_a_slot_is_in_the_table() -> None:
    listed = {name.split("(")[0] for row in rows("The slot") for name in names(row[0])}
    calls = {name for name in dir(pytest_sandboxes.Slot) if not name.startswith("_")}
    assert calls <= listed


def test_the_first_suite_gives_the_verdicts_that_it_is_said_to(pytester: pytest.Pytester) -> None:
    suite, *_ = blocks(section("Writing a suite"), "python")
    pytester.makepyfile(suite)
    pytester.runpytest_inprocess().assert_outcomes(passed=1, failed=1)


def test_the_task_file_can_be_read(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("tasks.yaml").write_text(blocks(section("Writing a suite"), "yaml")[0])
    pytester.makepyfile(
        """
        import pytest
        from pytest_sandboxes import load_tasks

        @pytest.mark.parametrize("task", load_tasks("tasks.yaml"))
        def test_task(sandbox, task):
            for case in task.cases:
                result = sandbox.exec("rev", input=case.stdin + "\\n")
                assert result.stdout == case.expected, result
        """
    )
    ran = pytester.runpytest_inprocess("-v")
    ran.assert_outcomes(passed=1)
    ran.stdout.fnmatch_lines(["*::test_task[[]reverse[]] PASSED*"])


def test_several_slots_by_the_factory(pytester: pytest.Pytester) -> None:
    (lease,) = re.findall(r"`(with sandbox_factory\(.*?:)`", section("Fixtures"))
    pytester.path.joinpath("sandboxes.yaml").write_text("profiles: {big: {}}")
    pytester.makepyfile(
        f"def test_it(sandbox_factory):\n    {lease}\n        assert one.workspace == two.workspace\n"
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=1)


def test_the_profiles_file_is_right(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("sandboxes.yaml").write_text(blocks(section("Profiles"), "yaml")[0])
    listed = pytester.runpytest_inprocess("--sandbox-list-profiles")
    listed.stdout.fnmatch_lines(["small (digest *, not active)", "*memory * 256 *sandboxes.yaml:5"])


def test_the_variables_of_profiles_are_right(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    (script,) = blocks(section("Profiles"), "sh")
    for name, text in re.findall(r"^export (\w+)=(\S+|'.*?') +#", script, re.MULTILINE):
        monkeypatch.setenv(name, text.strip("'"))
    listed = pytester.runpytest_inprocess("--sandbox-list-profiles").stdout.str()
    high, quick = (listed.partition(f"\n{name} (digest ")[2] for name in ("high-memory", "quick"))
    for block, line in (
        (high, r"  memory +8192 +environment variable PYTEST_SANDBOXES_PROFILE_HIGH_MEMORY_MEMORY"),
        (high, r'  env_vars +{"LANG": "C", "TZ": "UTC"} +environment variable .*'),
        (quick, r'  setup +\["make", "make check"\] +environment variable .*'),
        (quick, r"  idle_timeout +null +environment variable .*"),
    ):
        assert re.search(f"^{line}$", block, re.MULTILINE), line


def test_what_hooks_may_read_of_a_lease_is_there() -> None:
    lease = Lease(SimpleNamespace(), "holder", Profile(), 0.0)
    listed = [(name, names(row[1])) for row in rows("Backends of your own") for name in names(row[0])]
    assert len(listed) >= 8
    for name, details in listed:
        value = getattr(lease, name.removesuffix("()"))
        if name == "losses":
            assert details == [each.name for each in dataclasses.fields(Loss)]
        if name == "usage()":
            assert details == [each.name for each in dataclasses.fields(value())]


def test_the_use_outside_of_pytest(capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = blocks(section("Outside of pytest"), "python")
    exec(script, {})
    assert capsys.readouterr().out == "42\n\n"


@pytest.mark.parametrize(
    "complaint",
    [
        "bwrap: No permissions to create new namespace, likely because the kernel does not allow it.",
        "bwrap: Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces exceeded (ENOSPC)",
        "bwrap: setting up uid map: Permission denied",
        "bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted",
        "bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
    ],
)
def test_the_remedies_are_those_of_the_message(complaint: str) -> None:
    message = explain(complaint)
    assert message
    remedies = re.findall(
        r"--[a-z-]+ [a-z]+[=a-z]*|sysctl \S+[a-z]|bwrap-userns-\w+|(?:apt|dnf) \w+ \w+", message
    )
    assert len(remedies) >= 8
    shown = " ".join(section("When isolation is not available").split())
    assert [remedy for remedy in remedies if remedy not in shown] == []


def test_a_backend_of_ones_own(pytester: pytest.Pytester) -> None:
    (conftest,) = blocks(section("Backends of your own"), "python")
    pytester.makeconftest(conftest)
    pytester.makepyfile("def test_it(sandbox): assert sandbox.backend == 'elsewhere'")
    ran = pytester.runpytest_inprocess("--sandbox-backend=elsewhere")
    ran.assert_outcomes(passed=1)


def test_a_suite_with_a_backend_of_its_own_runs_without_the_plugin(pytester: pytest.Pytester) -> None:
    (conftest,) = blocks(section("Backends of your own"), "python")
    pytester.makeconftest(conftest)
    pytester.makepyfile("def test_it(): pass")
    pytester.runpytest_subprocess("-p", "no:sandboxes").assert_outcomes(passed=1)


def test_the_properties_in_junit(pytester: pytest.Pytester) -> None:
    report = pytester.path / "report.xml"
    pytester.makepyfile("def test_it(sandbox): sandbox.exec('true')")
    pytester.runpytest_inprocess(f"--junitxml={report}").assert_outcomes(passed=1)
    written = set(re.findall(r'<property name="([^"]+)"', report.read_text("utf-8")))
    described = set(re.findall(r"`(sandbox\.\w+)`", section("Outcomes")))
    assert described - written == {"sandbox.lost"}
    assert written < described


def test_the_changelog_knows_this_version() -> None:
    version = re.search(r'^version = "(.*)"', (PROJECT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert version
    assert f"\n## {version[1]} " in (PROJECT / "CHANGELOG.md").read_text("utf-8")

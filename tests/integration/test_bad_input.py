"""What is wrong ends the run before its first test: exit code 4, one sentence with the remedy, nothing started."""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase

import pytest

from tests.integration.conftest import NEEDS_A_SANDBOX, Inner, Refused, check_refusal

# -- options

OPTIONS = {
    "--sandbox-backend=lokal": "--sandbox-backend: there is no backend 'lokal', there are local, docker, modal, gcp, second, liar and unsteady; did you mean 'local'?",
    "--sandbox-backend=gcp": "backend gcp needs a bucket for what it sends and for what comes back: gcloud storage buckets create ",
    "--sandbox-backend=gcp,local": "--sandbox-backend is 'gcp,local', but backend gcp runs whole tests, and cannot be one of several: ",
    "--sandbox-backend=local,local": "--sandbox-backend is 'local,local', but must be backend names, each once",
    "--sandbox-backend=": "--sandbox-backend is '', but must be backend names",
    "--sandbox-profile=gpu": "--sandbox-profile: unknown profile 'gpu', there is default (sandboxes.yaml)",
    "--sandbox-profile=defalt": "--sandbox-profile: unknown profile 'defalt', there is default (sandboxes.yaml); did you mean 'default'?",
    "--sandbox-profiles-file=none.yaml": "cannot read the profiles file none.yaml (--sandbox-profiles-file): No such file or directory; correct the path or make the file",
    "--sandbox-isolation=nothing": "--sandbox-isolation is 'nothing', but must be slot, sandbox or none",
    "--sandbox-enforcement=strikt": "--sandbox-enforcement is 'strikt', but must be strict or best-effort; did you mean 'strict'?",
    "--sandbox-budget=0": "--sandbox-budget is '0', but must be a whole number from 1 to 999999999999",
    "--sandbox-budget=1.5": "--sandbox-budget is '1.5', but must be a whole number from 1 to 999999999999",
    "--sandbox-infra-retries=-1": "--sandbox-infra-retries is '-1', but must be a whole number from 0 to 100",
    "--sandbox-infra-retries=many": "--sandbox-infra-retries is 'many', but must be a whole number from 0 to 100",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options(refused: Refused, option: str) -> None:
    assert refused(option).startswith(OPTIONS[option])


def test_options_are_checked_even_where_no_test_needs_them(inner: Inner) -> None:
    inner.write("test_it.py", "def test_it(): pass\n")
    assert "no backend 'lokal'" in check_refusal(inner.run("--sandbox-backend=lokal"))


def test_variable(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_mistyped_variable(refused: Refused, monkeypatch: pytest.MonkeyPatch, name: str, hint: str) -> None:
    monkeypatch.setenv(name, "docker")
    assert refused() == f"environment variable {name} is no setting{hint}"


def test_empty_variables_are_none(inner: Inner, monkeypatch: pytest.MonkeyPatch) -> None:
    inner.write("test_it.py", NEEDS_A_SANDBOX)
    for name in ("BACKENDS", "PROFILES", "PROFILE_NOBODY_MEMORY", "DEFAULT_MEMORY"):
        monkeypatch.setenv(f"PYTEST_SANDBOXES_{name}", "")
    assert inner.run().verdicts == {"test_it": "passed"}


PROFILE_VARIABLES = {
    "PROFILES=a,a": "PROFILES has 'a' 2 times; name each profile once",
    "PROFILES=a b": "PROFILES: 'a b' cannot name a profile; a name has letters, digits, ",
    "DEFAULT_MEMORI=1": "DEFAULT_MEMORI: unknown profile field 'memori'; did you mean 'memory'?",
    "DEFAULT_MEMORY=lots": "DEFAULT_MEMORY, profile 'default': memory is 'lots' (str), but must be a whole number",
    "DEFAULT_ENV_VARS=A": "DEFAULT_ENV_VARS: 'A' in env_vars is no name with a value; write them as NAME=VALUE",
    "PROFILE_DEFAULT_WORKSPACE_SOURCE=..": "PROFILE_DEFAULT_WORKSPACE_SOURCE, profile 'default': workspace_source is '..' ",
    "PROFILE_GPU_MEMORY=1": "PROFILE_GPU_MEMORY: no profile is called 'GPU', there is default; others can be named in ",
    "PROFILE_DEFAULT_GPU=A100": "PROFILE_DEFAULT_GPU: gpu of profile 'default' cannot be kept: backend local has none",
    "DEFAULT_SECRETS=XY_ZZY": "DEFAULT_SECRETS: secrets of profile 'default' has 'XY_ZZY', which is not in the environment; set it",
    "DEFAULT_\x1b[31m=1": "DEFAULT_\\x1b[31m: unknown profile field '\\x1b[31m'",
    "DEFAULT_\udcff=1": "DEFAULT_\\udcff: unknown profile field '\\udcff'",
}


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["", "xdist"])
@pytest.mark.parametrize("variable", PROFILE_VARIABLES)
def test_variables_of_profiles(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, variable: str, workers: tuple[str, ...]
) -> None:
    name, _, text = variable.partition("=")
    monkeypatch.setenv(f"PYTEST_SANDBOXES_{name}", text)
    assert refused(*workers).startswith(
        f"environment variable PYTEST_SANDBOXES_{PROFILE_VARIABLES[variable]}"
    )


def test_ini(inner: Inner, refused: Refused) -> None:
    inner.write("pytest.ini", "[pytest]\nsandbox_backend = lokal\n")
    assert refused().startswith("ini option sandbox_backend in pytest.ini: there is no backend 'lokal'")


# -- the profiles file

PROFILES = {
    "profiles:\n  default:\n    memori: 64\n": "sandboxes.yaml:3, profile 'default': unknown profile field 'memori'; did you mean 'memory'?",
    "profiles:\n  default:\n    memory: lots\n": "sandboxes.yaml:3, profile 'default': memory is 'lots' (str), but must be a whole number of MB above 0",
    "profiles:\n  default:\n    memory: -1\n": "sandboxes.yaml:3, profile 'default': memory is -1 (int), but must be a whole number of MB above 0",
    "profiles:\n  default: {min_sandboxes: 9}\n": "profile 'default': min_sandboxes is 9 (sandboxes.yaml:2), which is more than max_sandboxes, 8 (default)",
    "profiles:\n  default: {target_slots_per_sandbox: 2}\n": "profile 'default': target_slots_per_sandbox is 2 (sandboxes.yaml:2), which is more than slots_per_sandbox, 1 (default)",
    "profiles:\n  default: {extends: a}\n  a: {extends: default}\n": "sandboxes.yaml:2: profile 'default' extends 'a', which extends 'default'; one of them must not",
    "profiles:\n  default: {extends: defalt}\n": "sandboxes.yaml:2: profile 'default' extends 'defalt', which is none, there is default; did you mean 'default'?",
    "profiles:\n  default: {network: no}\n": "sandboxes.yaml:2: YAML takes 'no' for false; write false, or put it in quotes",
    "profiles:\n  default: {memory: 1e3}\n": "sandboxes.yaml:2, profile 'default': memory is '1e3' (str), but must be a whole number of MB above 0, up to 1073741824 or null; write 1000 without quotes",
    "profiles:\n  default: {workspace_source: a/../../b}\n": "sandboxes.yaml:2, profile 'default': workspace_source is 'a/../../b' (str), but must be the path of a directory without '..' in it",
    "profiles:\n  default: {user: a}\n": "sandboxes.yaml:2: user of profile 'default' cannot be kept: backend local has none",
    "profiles:\n  default: {workspace_source: a}\n": "sandboxes.yaml:2: workspace_source of profile 'default' is 'a', but the rootdir ",
    "profiles:\n  default: {docker: {a: 1, a: 2}}\n": "sandboxes.yaml:2: 'a' is already in the mapping, on line 2",
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
def test_values_that_cannot_work(inner: Inner, refused: Refused, line: str) -> None:
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
def test_a_workspace_in_a_directory_of_the_system(inner: Inner, refused: Refused, path: str) -> None:
    inner.write("sandboxes.yaml", f"profiles:\n  default:\n    workspace_base: {path}\n")
    said = f"sandboxes.yaml:3, profile 'default': workspace_base is '{path}' (str), but must be an absolute path other "
    assert refused("--collect-only").startswith(said)


@pytest.mark.parametrize("text", PROFILES)
def test_profiles_file(inner: Inner, refused: Refused, text: str) -> None:
    inner.write("sandboxes.yaml", text)
    assert refused().startswith(PROFILES[text])
    assert refused("-n", "2").startswith(PROFILES[text])


def test_a_profiles_file_that_is_none(inner: Inner, refused: Refused) -> None:
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
    "secrets=['']": "secrets[0] is '' (str), but must be non-empty text",
}


@pytest.mark.parametrize("arguments", MARKERS)
def test_markers(inner: Inner, refused: Refused, arguments: str) -> None:
    inner.write("test_it.py", NEEDS_A_SANDBOX.replace("\ndef", f"\n@pytest.mark.sandbox({arguments})\ndef"))
    sentence = refused()
    assert "marker on test_it.py::test_it" in sentence
    assert MARKERS[arguments] in sentence
    if "cannot be kept" not in sentence:
        assert refused("--collect-only") == sentence


@pytest.mark.parametrize("fixture", ["sandbox", ""])
def test_a_typo_in_one_marker_of_a_thousand(inner: Inner, refused: Refused, fixture: str) -> None:
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


HOOKS = {
    "{'elsewhere': 3}": "hook pytest_sandboxes_backends (*) must return a mapping of names to ",
    "['bad']": "hook pytest_sandboxes_backends (*) must return a mapping of names to ",
    "{'elsewhere': dict}": "backend 'elsewhere' cannot be made: <class 'dict'>, called with one BackendOptions, raised ",
}


@pytest.mark.parametrize("result", HOOKS)
def test_a_hook_that_returns_no_backends(inner: Inner, refused: Refused, result: str) -> None:
    inner.write("conftest.py", f"def pytest_sandboxes_backends(config): return {result}\n")
    assert fnmatchcase(refused("--sandbox-backend=elsewhere"), f"{HOOKS[result]}*")


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["", "xdist"])
def test_other_errors_of_collection_stay_what_they_are(inner: Inner, workers: tuple[str, ...]) -> None:
    inner.write("test_it.py", "raise ValueError('mine')\n")
    run = inner.run(*workers)
    assert run.exit_code in {pytest.ExitCode.INTERRUPTED, pytest.ExitCode.TESTS_FAILED}
    assert run.counts.keys() == {"errors"}  # one of each worker
    assert "ValueError: mine" in run.stdout


def test_markers_in_workers_of_xdist(inner: Inner, refused: Refused) -> None:
    inner.write("test_it.py", NEEDS_A_SANDBOX.replace("\ndef", "\n@pytest.mark.sandbox(slot=1)\ndef"))
    assert (
        refused("-n", "2") == "marker on test_it.py::test_it: unknown argument 'slot'; did you mean 'slots'?"
    )

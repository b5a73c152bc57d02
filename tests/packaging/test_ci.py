"""The rule of the project's conftest.py: in CI, a test that does not run has failed, unless its reason is listed."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[2] / "conftest.py"

SUITE = """
    import pytest

    def test_runs(): pass

    @pytest.mark.skip(reason="no engine here")
    def test_by_mark(): pass

    def test_by_call(): pytest.skip("no engine here")

    @pytest.fixture
    def engine(): pytest.skip("no engine here")

    def test_by_fixture(engine): pass

    @pytest.mark.xfail(reason="no engine here")
    def test_expected_to_fail(): assert False
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST.read_text("utf-8"))
    pytester.makepyfile(SUITE)
    return pytester


def test_elsewhere_a_skip_is_a_skip(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    project.runpytest_inprocess().assert_outcomes(passed=1, skipped=3, xfailed=1)


def test_in_ci_a_skip_is_a_failure(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    ran = project.runpytest_inprocess()
    ran.assert_outcomes(passed=1, failed=2, errors=2)
    assert ran.ret == pytest.ExitCode.TESTS_FAILED
    ran.stdout.fnmatch_lines(["did not run, in CI, *ALLOWED_SKIPS*: no engine here"])


def test_in_ci_a_skipped_module_is_an_error(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    project.makepyfile(test_engine="import pytest\npytest.skip('no engine here', allow_module_level=True)")
    assert project.runpytest_inprocess().ret == pytest.ExitCode.INTERRUPTED


@pytest.mark.parametrize(("allowed", "failed"), [("True", 1), ("False", 4)])
def test_listed_reasons_may_be_skipped_where_they_hold(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, allowed: str, failed: int
) -> None:
    monkeypatch.setenv("CI", "true")
    listed = "ALLOWED_SKIPS: dict[str, bool] = {"
    changed = CONFTEST.read_text("utf-8").replace(listed, f"{listed}'no engine .*': {allowed}, ")
    project.makeconftest(changed)
    outcomes = project.runpytest_inprocess().parseoutcomes()
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) == failed
    assert outcomes.get("skipped", 0) == 4 - failed

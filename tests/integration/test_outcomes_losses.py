"""A lost attempt never counts, whatever the test made of the loss: invariant 4, with agents killed for real."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.integration.conftest import Inner, Run

needs_subtests = pytest.mark.skipif(pytest.version_tuple < (9, 0), reason="subtests came with pytest 9")

UNTOUCHED = {"test_untouched"}
"""Tests of the suite `losses` that no fault strikes."""
ALWAYS_RUN_CODE = {"test_process"}
EXPECTED_FAILURES = {"test_xfail", "test_xfail_strict", "test_imperative_xfail"}
FAILS_BY_ITSELF = {"test_teardown_of_a_failure"}
WORDS = {"passed": "passed", "failure": "failed", "error": "errors", "skipped": "xfailed"}
"""How the terminal counts what JUnit calls otherwise."""


@pytest.fixture
def losses(inner: Inner) -> Inner:
    inner.use_suite("losses")
    inner.load("asyncio")
    return inner


def check_counts(run: Run) -> None:
    """The terminal has counted what JUnit says, each test once, and the exit code fits."""
    expected = Counter(WORDS[verdict] for verdict in run.verdicts.values())
    assert Counter(run.counts) == expected
    assert run.exit_code == (1 if expected["failed"] or expected["errors"] else 0)


def check_records(run: Run, attempts: int, name: str) -> None:
    """Each attempt but one that passed is on record, in order, and no property is there twice."""
    case = run.cases[name]
    lost = attempts - (case.verdict in {"passed", "skipped"})
    assert [record.partition(":")[0] for record in case.lost] == [f"attempt {n + 1}" for n in range(lost)]
    assert all("was lost" in record for record in case.lost)
    assert case.repeated == ()


def test_without_a_fault_every_test_ends_as_it_should(losses: Inner) -> None:
    run = losses.run()
    special = dict.fromkeys(EXPECTED_FAILURES, "skipped") | dict.fromkeys(FAILS_BY_ITSELF, "failure")
    assert run.verdicts == {name: special.get(name, "passed") for name in run.cases}
    assert {case.attempts for case in run.cases.values()} == {1}
    check_counts(run)


@pytest.mark.parametrize("after", [(), ("--after-code",)], ids=["before code", "after code"])
def test_one_loss_is_made_good_by_a_second_attempt(losses: Inner, after: tuple[str, ...]) -> None:
    run = losses.run("--fault=once", *after)
    assert run.verdicts == {name: "skipped" if name in EXPECTED_FAILURES else "passed" for name in run.cases}
    check_counts(run)
    for name in run.cases.keys() - UNTOUCHED:
        assert run.cases[name].attempts == 2, name
        check_records(run, 2, name)
    repeated = len(run.cases) - len(UNTOUCHED)
    assert f"{repeated} tried again after a loss" in run.stdout


def test_losses_without_end_are_an_error(losses: Inner) -> None:
    run = losses.run("--fault=always")
    expected = dict.fromkeys(run.cases, "error")
    expected |= dict.fromkeys(UNTOUCHED, "passed") | dict.fromkeys(ALWAYS_RUN_CODE, "failure")
    assert run.verdicts == expected
    check_counts(run)
    for name in run.cases.keys() - UNTOUCHED - ALWAYS_RUN_CODE:
        assert run.cases[name].attempts == 3, name
        check_records(run, 3, name)
        assert "infrastructure failed, which says nothing about the code" in run.cases[name].text


def test_code_that_loses_its_sandbox_twice_has_failed(losses: Inner) -> None:
    run = losses.run("--fault=always", "--after-code")
    assert run.verdicts == {name: "passed" if name in UNTOUCHED else "failure" for name in run.cases}
    check_counts(run)
    for name in run.cases.keys() - UNTOUCHED:
        assert run.cases[name].attempts == 2, name
        check_records(run, 2, name)
        assert "brought down its sandbox twice" in run.cases[name].text


@pytest.mark.parametrize("after", [(), ("--after-code",)], ids=["before code", "after code"])
def test_without_retries_the_first_loss_is_an_error(losses: Inner, after: tuple[str, ...]) -> None:
    run = losses.run("--fault=always", "--sandbox-infra-retries=0", *after)
    assert run.verdicts == {name: "passed" if name in UNTOUCHED else "error" for name in run.cases}
    assert {case.attempts for case in run.cases.values()} == {1}
    check_counts(run)


def test_a_second_attempt_has_nothing_of_the_first(inner: Inner) -> None:
    inner.write(
        "test_traces.py",
        """
        def test_it(sandbox, fault, attempt, record_property):
            print("printed in attempt", attempt)
            record_property("attempt", attempt)
            fault(sandbox)
            assert False
        """,
    )
    run = inner.run("--fault=once")
    assert run.verdicts == {"test_it": "failure"}
    assert "printed in attempt 2" in run.stdout
    assert "printed in attempt 1" not in run.stdout
    assert run.cases["test_it"].repeated == ()


@needs_subtests
def test_a_loss_in_a_subtest_concerns_the_whole_test(inner: Inner) -> None:
    inner.use_suite("losses_in_subtests")
    run = inner.run("--fault=once", "-v")
    assert run.verdicts == {"test_subtests": "passed", "test_unittest_subtests": "passed"}
    assert {case.attempts for case in run.cases.values()} == {2}
    assert run.counts == {"passed": 2, "subtests": 6}, "subtests of the lost attempts do not count"
    assert "SUBFAILED" not in run.stdout

    run = inner.run("--fault=always", "-v")
    assert run.verdicts == {"test_subtests": "error", "test_unittest_subtests": "error"}
    assert run.counts == {"errors": 2}
    assert run.exit_code == 1

    run = inner.run("--fault=always", "--after-code")
    assert run.verdicts == {"test_subtests": "failure", "test_unittest_subtests": "failure"}
    assert run.counts == {"failed": 2}


@needs_subtests
def test_failures_of_subtests_count_when_nothing_is_lost(inner: Inner) -> None:
    inner.write(
        "test_subtests.py",
        """
        def test_it(sandbox, subtests, fault):
            fault(sandbox)
            for number in range(3):
                with subtests.test(number=number):
                    assert sandbox.sh(f"exit {number}").returncode < 2
        """,
    )
    for fault in ("never", "once"):
        run = inner.run(f"--fault={fault}", "-v")
        assert run.counts == {"failed": 2, "subtests": 2}
        assert run.verdicts == {"test_it": "failure"}

"""Losses that a second attempt cannot make good, or need not: leases of wider scope, and of a test that gets its own."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Inner

FACTORY = """
import pytest

@pytest.fixture(scope="module")
def shared(sandbox_factory):
    with sandbox_factory() as slot:
        yield slot
"""


def test_whoever_uses_a_lost_slot_of_wider_scope_is_an_error_and_nobody_else(inner: Inner) -> None:
    inner.write("conftest.py", FACTORY)
    inner.write(
        "test_shared.py",
        """
        import pytest

        def test_before(shared):
            assert shared.sh("echo 42").stdout == "42\\n"

        def test_loses_it(shared, lose):
            shared.list_files()
            lose()

        def test_does_not_use_it(shared):
            pass

        def test_does_not_ask_for_it():
            pass

        def test_swallows(shared):
            with pytest.raises(Exception):
                shared.list_files()

        def test_meets_it(shared):
            shared.list_files()
        """,
    )
    run = inner.run()
    assert run.verdicts == {
        "test_before": "passed",
        "test_loses_it": "error",
        "test_does_not_use_it": "passed",
        "test_does_not_ask_for_it": "passed",
        "test_swallows": "error",
        "test_meets_it": "error",
    }
    assert {run.cases[name].attempts for name in ("test_loses_it", "test_swallows", "test_meets_it")} == {1}
    assert "in test_swallows" not in run.cases["test_meets_it"].text, "a traceback of another test"
    assert run.counts == {"passed": 3, "errors": 3}


def test_a_reset_makes_a_slot_of_wider_scope_good_again(inner: Inner) -> None:
    inner.write("conftest.py", FACTORY)
    inner.write(
        "test_shared.py",
        """
        import pytest

        @pytest.fixture(autouse=True)
        def fresh(shared):
            shared.reset()

        def test_loses_it(shared, lose):
            lose()

        def test_has_a_new_one(shared):
            shared.list_files()
        """,
    )
    run = inner.run()
    assert run.verdicts == {"test_loses_it": "error", "test_has_a_new_one": "passed"}


def test_a_test_that_resets_what_it_has_lost_is_repeated(inner: Inner) -> None:
    inner.write(
        "test_reset.py",
        """
        def test_it(sandbox, attempt, lose):
            if attempt == 1:
                lose()
                sandbox.reset()
            sandbox.list_files()
            assert attempt == 2
        """,
    )
    run = inner.run()
    assert (run.verdicts, run.cases["test_it"].attempts) == ({"test_it": "passed"}, 2)


def test_a_process_of_a_wider_fixture_takes_its_losses_to_the_tests(inner: Inner) -> None:
    inner.write(
        "test_server.py",
        """
        import pytest

        @pytest.fixture(scope="module")
        def server(sandbox_factory):
            with sandbox_factory() as slot:
                yield slot.popen("cat")

        def test_before(server):
            server.write("hello\\n")
            assert server.stdout.readline() == "hello\\n"

        def test_loss(server, lose):
            lose()
            server.stdout.readline()

        def test_in_a_group(server):
            try:
                server.wait()
            except Exception as error:
                raise ExceptionGroup("two", [error, ValueError()])

        def test_swallowed(server):
            with pytest.raises(Exception):
                server.stderr.read()

        def test_does_not_use_it(server):
            pass
        """,
    )
    run = inner.run()
    innocent = {"test_before": "passed", "test_does_not_use_it": "passed"}
    assert run.verdicts == innocent | dict.fromkeys(run.cases.keys() - innocent, "error")
    assert {len(case.lost) for name, case in run.cases.items() if name not in innocent} == {1}


def test_a_loss_that_comes_out_of_an_older_wait(inner: Inner) -> None:
    """Nothing of the slot is used in the test, but what raises is infrastructure all the same."""
    inner.write(
        "test_future.py",
        """
        from concurrent.futures import ThreadPoolExecutor
        import pytest

        @pytest.fixture(scope="module")
        def running(sandbox_factory):
            with ThreadPoolExecutor() as threads, sandbox_factory() as slot:
                yield slot, threads.submit(slot.exec, "sleep", "1000")

        def test_before(running, lose):
            running[0].list_files()
            lose()
            assert running[1].exception()

        def test_alone(running):
            assert running[1].result().success

        def test_in_a_group(running):
            try:
                running[1].result()
            except Exception as error:
                raise ExceptionGroup("two", [ValueError(), error])

        def test_other(running):
            assert not running
        """,
    )
    run = inner.run()
    assert run.verdicts == {
        "test_before": "error",
        "test_alone": "error",
        "test_in_a_group": "error",
        "test_other": "failure",
    }
    assert "was lost" in run.cases["test_alone"].lost[0]


@pytest.mark.parametrize(("failures", "first"), [(1, ("passed", 2)), (3, ("error", 3))])
def test_a_wider_fixture_that_failed_is_set_up_again(
    inner: Inner, failures: int, first: tuple[str, int]
) -> None:
    inner.write(
        "test_fixture.py",
        f"""
        import pytest
        from tests.integration.faults import lose_all

        setups = []
        ends = []

        @pytest.fixture(scope="module")
        def prepared(sandbox_factory, request):
            request.addfinalizer(lambda: ends.append(len(setups)))
            setups.append(1)
            with sandbox_factory() as slot:
                if len(setups) <= {failures}:
                    lose_all()
                    slot.list_files()
                yield slot

        def test_first(prepared):
            prepared.list_files()

        def test_second(prepared):
            prepared.list_files()
            assert ends == list(range(1, len(setups))), "each setup but this one has been ended"
        """,
    )
    run = inner.run()
    found = {name: (case.verdict, case.attempts) for name, case in run.cases.items()}
    assert found == {"test_first": first, "test_second": ("passed", 1)}


def test_a_slot_that_a_test_comes_by_on_its_way(inner: Inner) -> None:
    """Nobody knew that these are sandbox tests, so they cannot be repeated, but a loss is an error all the same."""
    inner.write(
        "test_way.py",
        """
        import pytest
        from tests.integration.faults import lose_all

        @pytest.fixture
        def slot(request):
            return request.getfixturevalue("sandbox")

        def test_honest(slot):
            assert slot.sh("echo 42").stdout == "42\\n"

        def test_wrong(slot):
            assert slot.sh("echo 42").stdout == "43\\n"

        def test_lost(slot):
            lose_all()
            slot.list_files()

        def test_after_code(slot):
            slot.exec("true")
            lose_all()

        @pytest.mark.xfail
        def test_xfail(slot):
            lose_all()
            slot.list_files()

        @pytest.fixture
        def losing(slot):
            lose_all()
            with pytest.raises(Exception):
                slot.list_files()

        def test_setup(losing):
            pass

        def test_innocent():
            pass
        """,
    )
    run = inner.run()
    honest = {"test_honest": "passed", "test_wrong": "failure", "test_innocent": "passed"}
    assert run.verdicts == honest | dict.fromkeys(run.cases.keys() - honest, "error")
    assert run.counts == {"passed": 2, "failed": 1, "errors": 4}
    assert {case.attempts for name, case in run.cases.items() if name != "test_innocent"} == {1}


@pytest.mark.skipif(pytest.version_tuple < (9, 0), reason="subtests came with pytest 9")
def test_a_slot_that_a_test_with_subtests_comes_by_on_its_way(inner: Inner) -> None:
    inner.write(
        "test_way.py",
        """
        from tests.integration.faults import lose_all

        def test_it(request, subtests):
            slot = request.getfixturevalue("sandbox")
            for number in range(4):
                with subtests.test(number=number):
                    if number == 2:
                        lose_all()
                    slot.list_files()
        """,
    )
    run = inner.run()
    assert run.verdicts == {"test_it": "error"}
    assert run.counts == {"errors": 1}


def test_a_test_that_is_not_retry_safe_is_an_error_at_once(inner: Inner) -> None:
    inner.write(
        "test_safe.py",
        """
        import pytest

        @pytest.mark.parametrize("safe", [
            pytest.param(value, marks=pytest.mark.sandbox(retry_safe=value)) for value in (False, True)
        ])
        def test_it(sandbox, fault, safe):
            fault(sandbox)
        """,
    )
    run = inner.run("--fault=once")
    assert run.verdicts == {"test_it[False]": "error", "test_it[True]": "passed"}
    assert [case.attempts for case in run.cases.values()] == [1, 2]


def test_a_mutable_parameter_is_told_apart_by_nobody(inner: Inner) -> None:
    """What a test does to its own objects outlives the attempt; the marker's `retry_safe=False` is for that."""
    inner.write(
        "test_mutable.py",
        """
        import pytest

        @pytest.mark.parametrize("seen", [[]])
        def test_it(sandbox, fault, seen):
            seen.append(1)
            fault(sandbox)
            assert len(seen) == 2
        """,
    )
    assert inner.run("--fault=once").verdicts == {"test_it[seen0]": "passed"}

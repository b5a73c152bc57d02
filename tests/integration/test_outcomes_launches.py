"""What becomes of a test whose launch, wait or reset fails, and of one that goes over its limit."""

from __future__ import annotations

import os

import pytest

from pytest_sandboxes.backends.cgroups import Groups, Limits
from tests.integration.conftest import Inner


@pytest.mark.parametrize(("failing", "retries"), [(1, 1), (2, 2)])
def test_launches_that_fail_are_repeated_within_the_setup(inner: Inner, failing: int, retries: int) -> None:
    inner.write("test_launch.py", "def test_it(sandbox):\n    sandbox.list_files()\n")
    run = inner.run(
        "--sandbox-backend=unsteady", f"--failing-launches={failing}", f"--sandbox-infra-retries={retries}"
    )
    assert run.verdicts == {"test_it": "passed"}
    assert run.cases["test_it"].attempts == 1
    assert f"{failing} failed to start" in run.stdout


@pytest.mark.parametrize("test", ["fixture", "swallowed"])
def test_launches_that_never_succeed_are_an_error(inner: Inner, test: str) -> None:
    inner.write(
        "test_launch.py",
        """
        import pytest

        def test_fixture(sandbox):
            pass

        def test_swallowed(sandbox_factory):
            with pytest.raises(Exception):
                with sandbox_factory() as slot:
                    slot.list_files()
        """,
    )
    run = inner.run("--sandbox-backend=unsteady", "--failing-launches=1000", "-k", test)
    assert run.verdicts == {f"test_{test}": "error"}
    assert run.counts == {"errors": 1, "deselected": 1}
    assert "the far end is on strike" in run.cases[f"test_{test}"].text
    assert run.cases[f"test_{test}"].attempts == 1


def test_a_lease_that_cannot_be_had_is_an_error_even_where_an_exception_is_expected(inner: Inner) -> None:
    inner.write(
        "test_wait.py",
        """
        import pytest

        @pytest.mark.sandbox(max_sandboxes=1, acquire_timeout_s=0.2)
        def test_it(sandbox, sandbox_factory):
            with pytest.raises(Exception, match="held by test_wait.py::test_it") as caught:
                with sandbox_factory(max_sandboxes=1, acquire_timeout_s=0.2):
                    pass
            assert not isinstance(caught.value, TimeoutError)
        """,
    )
    run = inner.run()
    assert run.verdicts == {"test_it": "error"}
    assert "has waited for 1 slot(s)" in run.cases["test_it"].lost[0]


def test_a_reset_that_fails_is_an_error_even_where_an_exception_is_expected(inner: Inner) -> None:
    inner.write(
        "test_reset.py",
        """
        import pytest
        from tests.integration import faulty_backends

        def test_it(sandbox, monkeypatch):
            sandbox.exec("true")
            def fail(*_):
                raise faulty_backends.SandboxStartError("the far end is on strike")
            monkeypatch.setattr(faulty_backends.Second, "launch", fail)
            with pytest.raises(Exception, match="on strike"):
                sandbox.reset()
        """,
    )
    run = inner.run("--sandbox-backend=second")
    assert run.verdicts == {"test_it": "error"}


def test_going_over_the_memory_limit_is_a_failure(inner: Inner) -> None:
    inner.write(
        "test_memory.py",
        """
        import pytest

        HOARD = "hoard = []\\nwhile len(hoard) < 512: hoard.append(bytearray(b'x') * (1 << 20))"

        @pytest.mark.sandbox(memory=64)
        def test_code(sandbox):
            result = sandbox.exec("python3", "-c", HOARD)
            assert result.success, result

        @pytest.mark.sandbox(memory=64)
        def test_files(sandbox):
            for number in range(512):
                sandbox.write_bytes(f"{number}", b"x" * (1 << 20))
        """,
    )
    run = inner.run()
    if os.geteuid() != 0 and not Groups().can(Limits(64, None)):
        assert run.exit_code == pytest.ExitCode.USAGE_ERROR
        assert "memory of profile 'default' cannot be kept" in run.stderr
    else:
        assert run.verdicts == {"test_code": "failure", "test_files": "failure"}
        assert run.counts == {"failed": 2}
        assert {case.attempts for case in run.cases.values()} == {1}

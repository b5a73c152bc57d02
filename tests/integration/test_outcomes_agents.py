"""Agents that die, stop, dawdle or lie: the sandbox is lost, whatever was said last."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Inner


@pytest.fixture
def hasty(inner: Inner) -> None:
    """A fixture for the project: from its use on, an agent is soon given up. Honest agents have all the time they need."""
    inner.write(
        "conftest.py",
        """
        import pytest

        @pytest.fixture
        def lose_patience(monkeypatch):
            return lambda: monkeypatch.setattr("pytest_sandboxes.connection.TICK", 0.02)
        """,
    )


def test_a_liar_is_found_out_and_its_answer_does_not_count(inner: Inner) -> None:
    inner.use_suite("lies")
    run = inner.run("--sandbox-backend=liar")
    assert run.verdicts == dict.fromkeys(run.cases, "passed")
    assert len(run.cases) > 20
    records = {name: case.lost for name, case in run.cases.items()}
    late = {name for name in records if "late" in name}
    assert {name for name, lost in records.items() if len(lost) != 1} == set()
    assert {name for name in records if "broke the protocol" not in records[name][0]} == late
    assert {name for name in late if "the machine stood still" not in records[name][0]} == set()


def test_a_liar_that_does_not_stop_has_failed(inner: Inner) -> None:
    """Only code in the sandbox can have made the agent lie: it is no way around a failure."""
    inner.write(
        "test_lies.py",
        """
        import pytest
        from pytest_sandboxes.agent import wire
        from tests.integration.faulty_backends import Liar

        @pytest.fixture(autouse=True)
        def lying(sandbox):
            def say_nothing(kind, number, payload):
                return wire.frame(kind, number, wire.encode({}) if kind == wire.RESULT else payload)

            Liar.forge = say_nothing
            yield
            Liar.forge = None

        def test_code(sandbox):
            assert sandbox.exec("false").returncode == 0

        def test_files(sandbox):
            sandbox.list_files()
        """,
    )
    run = inner.run("--sandbox-backend=liar")
    assert run.verdicts == {"test_code": "failure", "test_files": "error"}
    assert run.cases["test_code"].attempts == 2
    assert run.cases["test_files"].attempts == 3


def test_an_agent_that_never_answers(inner: Inner, hasty: None) -> None:
    """It takes the pings of its controller, but a command's end is never heard of."""
    inner.write(
        "test_silence.py",
        """
        import pytest
        from pytest_sandboxes.agent import wire
        from tests.integration.faulty_backends import Liar

        @pytest.fixture(autouse=True)
        def silence(sandbox, attempt, lose_patience):
            if attempt == 1:
                lose_patience()
                Liar.forge = lambda *frame: b"" if frame[0] == wire.RESULT else wire.frame(*frame)
            yield
            Liar.forge = None

        def test_it(sandbox, attempt):
            sandbox.exec("true", timeout=0.1 if attempt == 1 else 60)
        """,
    )
    run = inner.run("--sandbox-backend=liar")
    assert run.verdicts == {"test_it": "passed"}
    assert "did not end a command at its deadline" in run.cases["test_it"].lost[0]


@pytest.mark.parametrize(("when", "verdict", "attempts"), [("once", "passed", 2), ("always", "error", 3)])
def test_a_stopped_agent_is_given_up(
    inner: Inner, hasty: None, when: str, verdict: str, attempts: int
) -> None:
    inner.write(
        "test_stopped.py",
        f"""
        import signal
        from tests.integration.faults import signal_agents

        def test_it(sandbox, attempt, lose_patience):
            if {when == "always"} or attempt == 1:
                lose_patience()
                signal_agents(signal.SIGSTOP)
            sandbox.list_files()
        """,
    )
    run = inner.run()
    assert run.verdicts == {"test_it": verdict}
    assert run.cases["test_it"].attempts == attempts
    assert "has not answered for" in run.cases["test_it"].lost[0]


def test_code_that_kills_its_sandbox_gets_no_credit(inner: Inner) -> None:
    """By the means that code has: it cannot reach the agent, and what it does to itself is its own end."""
    inner.write(
        "test_kill.py",
        """
        import pytest

        @pytest.mark.parametrize("target", ["1", "-1", "os.getppid()"])
        def test_kill(sandbox, target):
            result = sandbox.exec("python3", "-c", f"import os; os.kill({target}, 9); print('credit')")
            assert (result.returncode, result.stdout) == (0, "credit")
        """,
    )
    run = inner.run()
    assert run.verdicts == {f"test_kill[{target}]": "failure" for target in ("1", "-1", "os.getppid()")}
    assert run.counts == {"failed": 3}

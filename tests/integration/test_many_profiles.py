"""Calls on slots of several profiles at once, in pytest's own process and in workers."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Inner

PROFILES = """
profiles:
  default: {buffer_sandboxes: 0, env_vars: {WHO: one}}
  other: {buffer_sandboxes: 0, env_vars: {WHO: two}}
"""
SUITE = """
from pytest_sandboxes import ManyCallsError
import pytest

def test_both(sandbox, sandbox_factory, sandbox_pool):
    with sandbox_factory(profile="other") as other:
        results = sandbox_pool.exec_many([(slot, ["printenv", "WHO"]) for slot in (sandbox, other, sandbox)])
        assert [result.stdout for result in results] == ["one\\n", "two\\n", "one\\n"]
        calls = [(slot, {"name": "bash", "input": {"command": "echo $WHO"}}) for slot in (sandbox, other)]
        assert [result.content for result in sandbox_pool.exec_many(calls)] == ["one", "two"]

def test_a_loss_in_a_group_is_no_verdict(sandbox, sandbox_factory, sandbox_pool):
    with sandbox_factory(profile="other") as other:
        other._lease.port(0).lose("for a test")
        with pytest.raises(ManyCallsError) as caught:
            sandbox_pool.exec_many([(sandbox, ["printenv", "WHO"]), (other, ["true"])])
        assert caught.value.results[0].stdout == "one\\n"
"""


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["", "xdist"])
def test_several_profiles_at_once(inner: Inner, workers: tuple[str, ...]) -> None:
    inner.write("sandboxes.yaml", PROFILES)
    inner.write("test_it.py", SUITE)
    ran = inner.run_apart("--sandbox-infra-retries=0", *workers)
    assert ran.verdicts == {"test_both": "passed", "test_a_loss_in_a_group_is_no_verdict": "error"}

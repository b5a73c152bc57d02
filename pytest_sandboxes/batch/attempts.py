"""How a test's reports follow one another: in attempts, each announcing the next, of which the last one is whole.

Plugins that repeat tests report what does not count with an outcome of their own, such as `rerun`, often in the
midst of an attempt; what else they report of it varies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_sandboxes.batch.events import Report

OUTCOMES = frozenset({"passed", "failed", "skipped", "rerun", "retried"})
_VERDICTS = frozenset({"passed", "failed", "skipped"})
PHASES = frozenset({"setup", "call", "teardown"})


def announces_another(reports: Sequence[Report]) -> bool:
    """Whether an attempt has come to no verdict, and a plugin has said so."""
    return _is_announced(reports) and what_is_wrong(reports) is not None


def _is_announced(reports: Sequence[Report]) -> bool:
    return any(each.outcome not in _VERDICTS for each in reports)


def what_is_wrong(reports: Sequence[Report]) -> str | None:
    """Why an attempt gives its test no verdict, as what such a test is; None where it does.

    It does when the test was set up, called once if that went well, and torn down, in this order; or when its worker
    has crashed, which is all that is told then. Subtests may come anywhere, for some plugins report the phases of an
    attempt when all of it is over.
    """
    verdicts = [each for each in reports if each.outcome in _VERDICTS]
    phases = [each for each in verdicts if each.subtest is None]
    subtests = [each for each in verdicts if each.subtest is not None]
    names = [each.when for each in phases]
    if names == ["???"] and phases[0].outcome == "failed":
        return None
    if names not in (["setup", "call", "teardown"], ["setup", "teardown"]):
        return f"a test that was not set up, called and torn down once: {', '.join(names[:10])}"
    is_called, was_set_up = len(names) == 3, phases[0].outcome == "passed"
    if not was_set_up:
        return "a test that was called and must not be" if is_called or subtests else None
    # where the session ends in the midst of a test, a subtest that has failed is all that there is
    is_broken_off = any(each.outcome == "failed" for each in subtests) and not _is_announced(reports)
    return None if is_called or is_broken_off else "a test that was set up and not called"

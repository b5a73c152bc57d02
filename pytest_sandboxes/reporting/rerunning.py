"""Making a second attempt at a test begin as the first did, among plugins that expect one.

Everything here reaches into pytest and its plugins where they offer no way of their own.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest


def is_done_by_others(item: pytest.Item) -> bool:
    """pytest-rerunfailures runs this test in a protocol of its own, which then also repeats what was lost."""
    plugin: Any = item.config.pluginmanager.getplugin("rerunfailures")
    if plugin is None or plugin.get_reruns_count(item) is None:
        return False
    is_excluded = getattr(plugin, "_is_rerun_path_excluded", None)  # newer versions only
    return is_excluded is None or not is_excluded(item)


def forget_attempt(item: pytest.Item) -> None:
    """Undo what an attempt has left on its item, and guard the next one as the first was guarded."""
    getattr(item, "_report_sections", []).clear()
    if getattr(item, "_excinfo", None):  # of a unittest.TestCase: failures that found no report
        item._excinfo = None  # type: ignore[attr-defined]
    forget_failed_subtests(item)
    timeouts: Any = item.config.pluginmanager.getplugin("timeout")
    if timeouts is not None:
        # it guards a test once, and stops at the first exception
        item.config.hook.pytest_timeout_cancel_timer(item=item)
        settings = timeouts._get_item_settings(item)
        if settings.timeout and not settings.func_only:
            item.config.hook.pytest_timeout_set_timer(item=item, settings=settings)


def forget_failed_subtests(item: pytest.Item) -> None:
    """Undo what would fail a test for its subtests."""
    with contextlib.suppress(ImportError):  # pytest before version 9
        from _pytest.subtests import failed_subtests_key

        failed_subtests: Any = item.config.stash.get(failed_subtests_key, {})
        failed_subtests.pop(
            getattr(item, "id", item.nodeid), None
        )  # the key's type depends on pytest's version


def forget_reports_of_subtests(session: pytest.Session, nodeid: str) -> None:
    """Take the subtests of an attempt that does not count out of the counts, as pytest-rerunfailures does."""
    plugin: Any = session.config.pluginmanager.getplugin("rerunfailures")
    forget = getattr(plugin, "_remove_failed_subtest_reports_from_stats", None)  # newer versions only
    if forget is not None:
        forget(session.config, session, nodeid)


def forget_failed_fixtures(item: pytest.Item, kind: type[Exception]) -> None:
    """Have fixtures of wider scope that failed with an error of this kind set up again, not raise it once more."""
    known = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {})
    for definitions in known.values():
        for definition in definitions:
            if definition.cached_result is None:
                continue
            cached: Any = definition.cached_result[2]
            error = cached[0] if isinstance(cached, tuple) else cached  # pytest before 8.3 keeps no traceback
            if isinstance(error, kind):
                definition.finish(item._request)  # type: ignore[attr-defined]

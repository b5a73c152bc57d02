"""Conditions of roles, as gcp-check reads them: what it cannot read it does not judge."""

from __future__ import annotations

import pytest

from pytest_sandboxes.batch.runners.gcp.project import _holds

OBJECTS = "projects/_/buckets/mine/objects/pytest-sandboxes/"
OWN = f'resource.name.startsWith("{OBJECTS}")'
OTHER = "resource.name.startsWith('projects/_/buckets/mine/objects/other/')"


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (None, True),
        ({"expression": OWN}, True),
        ({"expression": f"{OTHER} || {OWN}"}, True),
        ({"expression": OTHER}, False),
        ({"expression": f"!{OWN}"}, None),
        ({"expression": f"{OWN} && request.time < timestamp('2020-01-01T00:00:00Z')"}, None),
    ],
)
def test_whether_a_binding_counts(condition: dict[str, str] | None, holds: bool | None) -> None:
    assert _holds(condition, OBJECTS) is holds

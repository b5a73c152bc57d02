#!/bin/sh
# Makes /testbed as the images of SWE-bench have it: a project's git repository with its history, installed editable, and
# with a defect that one of its tests shows.
set -eu
git config --system user.name Testbed
git config --system user.email testbed@example.com

mkdir -p /testbed/spans /testbed/tests
cd /testbed
git init -q -b main

cat >.gitignore <<'END'
__pycache__/
*.egg-info/
.pytest_cache/
END
cat >pyproject.toml <<'END'
[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"

[project]
name = "spans"
version = "1.0"

[tool.setuptools]
packages = ["spans"]
END
cat >spans/__init__.py <<'END'
"""Spans of whole numbers, each with its first and its last."""


def merge(spans):
    """Return the spans in order, those that overlap or touch made one."""
    merged = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    return [tuple(span) for span in merged]
END
# Fixed times make the same commits, with the same names, each time.
commit() {
  git add --all
  GIT_AUTHOR_DATE=$1 GIT_COMMITTER_DATE=$1 git commit -q -m "$2"
}
commit 2024-01-01T00:00:00Z 'Merge spans'

cat >tests/test_spans.py <<'END'
from spans import merge


def test_overlapping_spans_are_merged():
    assert merge([(4, 9), (1, 5)]) == [(1, 9)]


def test_touching_spans_are_merged():
    assert merge([(1, 3), (4, 6)]) == [(1, 6)]
END
commit 2024-01-02T00:00:00Z 'Test how spans are merged'

PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install -q --no-index --no-build-isolation --no-cache-dir --root-user-action ignore \
  --editable .

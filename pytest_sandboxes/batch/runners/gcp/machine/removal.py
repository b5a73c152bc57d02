"""The end of a run's objects, when nobody else is there to remove them."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

from pytest_sandboxes.batch.runners.gcp.machine.bucket import Bucket, GoneError


def remove(bucket: Bucket, names: list[str]) -> None:
    """Remove objects as far as that can be done."""
    for name in names:
        with contextlib.suppress(GoneError):
            bucket.delete(name)


def remove_run(bucket: Bucket, wave: int) -> None:
    """Remove what is known of the run: what was ordered up to this wave, or behind it, and what became of that."""
    archives: set[str] = set()
    for each in itertools.count():
        orders = list(_orders(bucket, each))
        for name, order in orders:
            state = f"state/{order['shard']}.json"
            found = bucket.get(state)
            names = [] if found is None else json.loads(found[0])["names"]
            archives.update(order["job"][kind]["path"] for kind in ("project", "environment"))
            remove(bucket, [*names, state, name])
        if each >= wave and not orders:
            break
    remove(bucket, sorted(archives))


def _orders(bucket: Bucket, wave: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for task in itertools.count():
        name = f"orders/{wave}-{task}.json"
        found = bucket.get(name)
        if found is None:
            return
        yield name, json.loads(found[0])

"""What shards on this machine leave in their pipes."""

from __future__ import annotations

import os

from pytest_sandboxes.batch.runners import local


def test_who_goes_on_to_write_when_a_shard_has_ended_is_not_listened_to_for_ever() -> None:
    endless = os.open("/dev/zero", os.O_RDONLY)
    try:
        assert sum(map(len, local.left_in(endless))) == local.MOST_LEFT
    finally:
        os.close(endless)


def test_what_is_left_is_read_to_its_end_or_to_where_somebody_could_write_more() -> None:
    reads, writes = os.pipe()
    os.set_blocking(reads, False)
    os.write(writes, b"the last")
    assert b"".join(local.left_in(reads)) == b"the last"
    os.close(writes)
    assert list(local.left_in(reads)) == []
    os.close(reads)

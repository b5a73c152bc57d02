"""Records of parked sandboxes: who may read and write them, what is refused, and that each is claimed once."""

from __future__ import annotations

import os
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.parking_records import Parked, Records


def parked(**changes: Any) -> Parked:
    fields: dict[str, Any] = {
        "backend": "docker",
        "host": "unix:///somewhere",
        "sandbox": "0123456789abcdef",
        "recipe": "r",
        "profile": "default",
        "directory": "/project",
        "users": (20_001,),
        "interpreter": ("python3", "-c"),
        "started": 10.0,
        "uses": 3,
        "key": b"\xff" + b"k" * 31,
        "expires": 1000.0,
    }
    return Parked(**{**fields, **changes})


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "state" / "parked")


def only_file(records: Records) -> Path:
    (file,) = records.directory.iterdir()
    return file


def test_what_is_added_is_found_by_this_user_alone(records: Records) -> None:
    records.add(parked())
    assert list(records.list().values()) == [parked()]
    assert stat.S_IMODE(records.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(only_file(records).stat().st_mode) == 0o600


def test_whatever_the_umask_is(records: Records) -> None:
    before = os.umask(0)
    try:
        records.add(parked())
    finally:
        os.umask(before)
    assert len(records.list()) == 1


def test_those_that_end_last_come_first(records: Records) -> None:
    for expires in (2.0, 3.0, 1.0):
        records.add(parked(expires=expires))
    assert [each.expires for each in records.list().values()] == [3.0, 2.0, 1.0]


def test_there_need_be_nothing(records: Records) -> None:
    assert records.list() == {}
    assert not records.claim("x")
    assert not records.directory.exists(), "to look makes nothing"


def test_of_all_who_claim_one_has_it(records: Records) -> None:
    for _ in range(20):
        records.add(parked())
    names = list(records.list())
    with ThreadPoolExecutor(8) as threads:
        claims = list(threads.map(records.claim, names * 8))
    assert sum(claims) == len(names)
    assert records.list() == {}


def test_a_key_is_in_no_repr() -> None:
    assert "kkk" not in repr(parked())


def widen_file(records: Records) -> None:
    only_file(records).chmod(0o640)


def widen_directory(records: Records) -> None:
    records.directory.chmod(0o701)


def link_to_file(records: Records) -> None:
    file = only_file(records)
    file.rename(file.parent.parent / "elsewhere")
    file.symlink_to(file.parent.parent / "elsewhere")


def link_to_directory(records: Records) -> None:
    records.directory.rename(records.directory.with_name("elsewhere"))
    records.directory.symlink_to("elsewhere")


def fifo(records: Records) -> None:
    file = only_file(records)
    file.unlink()
    os.mkfifo(file, 0o600)


def listen(records: Records) -> None:
    file = only_file(records)
    file.unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(file))


def no_directory(records: Records) -> None:
    only_file(records).unlink()
    records.directory.rmdir()
    records.directory.touch()


def nonsense(records: Records) -> None:
    only_file(records).write_bytes(b'{"backend": "docker"\x1b[31m')


def other_type(records: Records) -> None:
    file = only_file(records)
    file.write_bytes(file.read_bytes().replace(b"[20001]", b'["0:0"]'))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (widen_file, r"is open to others \(mode 0640\)"),
        (widen_directory, r"is open to others \(mode 0701\)"),
        (link_to_file, "cannot be opened"),
        (link_to_directory, "cannot be used"),
        (fifo, "is no regular file"),
        (listen, "cannot be opened"),
        (no_directory, "cannot be used"),
        (nonsense, "is no record of a parked sandbox"),
        (other_type, "is no record of a parked sandbox"),
    ],
)
def test_what_others_may_have_had_a_hand_in_is_refused(
    records: Records, spoil: Any, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    records.add(parked())
    spoil(records)
    with pytest.raises(ConfigurationError, match=f"^{records.directory}.* {why}.*: ") as refused:
        records.list()
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize("looks", [0, 1], ids=["directory", "file"])
def test_what_is_another_users_is_refused(
    records: Records, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.add(parked())
    us = os.geteuid()
    who = chain(repeat(us, looks), repeat(us + 1))  # only root could give it away, so others look at it
    monkeypatch.setattr(os, "geteuid", lambda: next(who))
    with pytest.raises(ConfigurationError, match=f"belongs to user {us} and not to you"):
        records.list()


def test_nothing_is_written_where_others_can_read(records: Records) -> None:
    records.directory.mkdir(parents=True)
    records.directory.chmod(0o755)
    with pytest.raises(ConfigurationError, match=r"is open to others \(mode 0755\)"):
        records.add(parked())
    assert list(records.directory.iterdir()) == []


def test_the_usual_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert Records().directory == Path("/state/pytest-sandboxes/parked")
    monkeypatch.setenv("HOME", "/home/me")
    for none in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", none)
        assert Records().directory == Path("/home/me/.local/state/pytest-sandboxes/parked")

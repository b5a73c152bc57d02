"""What comes from a container that a shell serves is checked before it is believed."""

from __future__ import annotations

import random
import socket
import struct
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_sandboxes.agent import wire
from pytest_sandboxes.agent.wire import ProtocolError
from pytest_sandboxes.backends.docker.shell import execs, scripts
from pytest_sandboxes.backends.docker.shell import listing as listing_module
from pytest_sandboxes.backends.docker.shell.listing import Listing
from pytest_sandboxes.backends.docker.shell.main_loop import MainLoop


class TestMainLoop:
    @pytest.fixture
    def other_end(self) -> Iterator[socket.socket]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.loop = MainLoop(ours)
            yield theirs

    def says(self, text: bytes) -> None:
        self.loop.feed(memoryview(struct.pack(">BxxxL", 1, len(text)) + text))

    def test_an_answer_is_for_its_order(self, other_end: socket.socket) -> None:
        first, second = self.loop.order("all"), self.loop.order("beat")
        numbers = [line.split()[0] for line in other_end.recv(1000).splitlines()]
        self.says(numbers[1] + b" 0\n" + numbers[0])
        assert second.result(0) == 0
        assert not first.done()
        self.says(b" 12\n")
        assert first.result(0) == 12

    @pytest.mark.parametrize(
        "lie", [b"1 0\n", b"\n", b"x" * 65, b"NUMBER -1\n", b"NUMBER \n", b"NUMBER 99999999999\n"]
    )
    def test_lies(self, other_end: socket.socket, lie: bytes) -> None:
        self.loop.order("all")
        number = other_end.recv(1000).split()[0]
        with pytest.raises(ProtocolError):
            self.says(lie.replace(b"NUMBER", number))

    def test_no_answer_comes_twice(self, other_end: socket.socket) -> None:
        self.loop.order("all")
        number = other_end.recv(1000).split()[0]
        self.says(number + b" 0\n")
        with pytest.raises(ProtocolError):
            self.says(number + b" 0\n")

    def test_orders_fail_with_it(self, other_end: socket.socket) -> None:
        order = self.loop.order("all")
        self.loop.end()
        with pytest.raises(ConnectionError):
            order.result(0)
        with pytest.raises(ConnectionError):
            self.loop.order("all").result(0)

    def test_an_order_that_fails_as_the_loop_ends_fails_once(self, other_end: socket.socket) -> None:
        lock = threading.Lock()

        class EndsNext:
            """A lock, and a thread that has waited for it to end the loop."""

            def __enter__(self) -> None:
                lock.acquire()

            def __exit__(self, *_: object) -> None:
                lock.release()
                loop._lock = lock
                loop.end()

        loop: Any = self.loop
        loop._lock = EndsNext()
        other_end.close()
        with pytest.raises(ConnectionError):
            self.loop.order("all").result(0)

    def test_one_that_takes_nothing_is_not_waited_for(self, other_end: socket.socket) -> None:
        with pytest.raises(ConnectionError):
            for _ in range(100_000):
                answer = self.loop.order("beat")
                if answer.done():
                    answer.result(0)


class TestListing:
    SIGN = b"=" + b"f" * 32

    def listed(self, *entries: bytes, limit: int = 10) -> Listing:
        listing = Listing(limit)
        for byte in b"".join(self.SIGN + b" " + entry + b"\n" for entry in entries):
            listing.feed(bytes((byte,)))
        self.given: list[Any] = [wire.decode(entry[4:]) for entry in listing.entries()]
        return listing

    @pytest.mark.parametrize(
        "lie",
        [
            b"81a4 1 2 - /etc/passwd",
            b"81a4 -1 2 - ./x",
            b"zzzz 1 2 - ./x",
            b"81a4 1 2 abc ./x",
            b"81a4 1",
            b"",
            b"81a4 99999999999999999999999 2 - ./x",
            b"81a4 1 2 - ./x\0y",
        ],
    )
    def test_lies(self, lie: bytes) -> None:
        with pytest.raises(ProtocolError):
            self.listed(lie)

    def test_a_name_may_have_anything_in_it(self) -> None:
        listing = Listing(10)
        listing.feed(self.SIGN + b" 81a4 1 2 - ./a\n=\nb \xff\n" + self.SIGN + b" 41ed 1 2 - ./z\n")
        assert b"a\n=\nb \xff" in next(listing.entries())
        assert not listing.truncated

    def test_more_than_wanted(self) -> None:
        assert self.listed(b"81a4 1 2 - ./a", b"81a4 1 2 - ./b", limit=1).truncated
        assert not self.listed(b"81a4 1 2 - ./a", b"81a4 1 2 - ./b", limit=2).truncated

    @pytest.mark.parametrize("limit", [0, 1, 7, 500])
    def test_the_first_ones_in_the_order_of_a_walk(self, limit: int) -> None:
        paths = [
            b"%d%s" % (number % 90, rest)
            for number in range(90)
            for rest in (b"", b"/x", b" x", b"-", b"/~/\xff")
        ]
        random.Random(1).shuffle(paths)
        listing = self.listed(*(b"81a4 1 2 - ./" + path for path in paths), limit=limit)
        assert [path for path, *_ in self.given] == sorted(paths, key=lambda path: path.split(b"/"))[:limit]
        assert listing.truncated == (limit < len(paths))

    def test_what_is_said_of_one(self) -> None:
        self.listed(b"81a4 99 -3 " + b"ab" * 32 + b" ./d/e", b"a1ff 7 2 - ./d/f")
        assert self.given == [
            [b"d/e", "file", 99, 0o644, -3.0, "ab" * 32],
            [b"d/f", "symlink", 7, 0o777, 2.0, None],
        ]

    @pytest.mark.parametrize(("limit", "most"), [(10, 1 << 20), (1000, 8 << 20)])
    def test_what_is_kept_is_as_long_as_what_is_wanted(self, limit: int, most: int) -> None:
        listing = Listing(limit)
        deep = b"/x" * 2000
        tracemalloc.start()
        try:
            for number in range(1000):
                listing.feed(b"%s 41ed 1 2 - ./%d%s\n" % (self.SIGN, number, deep))
            assert tracemalloc.get_traced_memory()[1] < most
        finally:
            tracemalloc.stop()
        assert len(list(listing.entries())) == limit

    def test_more_than_can_be_sorted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listing_module, "_MOST_SORTED", 5)
        listing = Listing(2)
        entry = self.SIGN + b" 81a4 1 2 - ./x\n"
        assert [listing.feed(entry) for _ in range(7)] == [True] * 6 + [False]

    def test_an_endless_entry_is_not_kept(self) -> None:
        listing = Listing(10)
        with pytest.raises(ProtocolError):
            for _ in range(1000):
                listing.feed(b"x" * 10_000)


class TestExec:
    @pytest.fixture(autouse=True)
    def _stream(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            monkeypatch.setattr(execs, "start_exec", lambda *_: (ours, b""))
            yield

    def exec_that_says(self, **said: Any) -> execs.Exec:
        api: Any = SimpleNamespace(exec_create=lambda *_, **__: {"Id": "1"}, exec_inspect=lambda _: said)
        made = execs.Exec(api, "container", [b"true"], user="", environment={}, stdin=False)
        made.look_soon()
        return made

    @pytest.mark.parametrize("code", [True, -1, 256, "0", 0.0])
    def test_an_exit_code_that_is_none(self, code: object) -> None:
        with pytest.raises(execs.ExecError, match="exit code"):
            self.exec_that_says(Running=False, ExitCode=code).has_ended()

    def test_an_unknown_end_is_no_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = self.exec_that_says(Running=False, ExitCode=None)
        assert not made.has_ended()
        later = time.monotonic() + 100
        monkeypatch.setattr(time, "monotonic", lambda: later)
        with pytest.raises(execs.ExecError, match="does not know how"):
            made.has_ended()

    @pytest.mark.parametrize(
        ("code", "status"), [(0, 0), (3, 3 << 8), (128, 128 << 8), (137, 9), (192, 64), (255, 255 << 8)]
    )
    def test_ends(self, code: int, status: int) -> None:
        made = self.exec_that_says(Running=False, ExitCode=code)
        assert made.has_ended()
        assert made.status == status


@pytest.mark.parametrize(
    "word", [b"plain", b"", b"\xff0", b"%s\\n\n", b"\xfe\n\n", b"0123\xfd-x", "grüße".encode()]
)
def test_words_arrive_byte_by_byte(word: bytes) -> None:
    command = scripts.run('printf "%s|" "$@"', word, b"last\n")
    assert all(scripts.is_text(each) for each in command)
    assert subprocess.run(command, capture_output=True, check=True, timeout=30).stdout == word + b"|last\n|"

"""Shards that are tasks of Batch, through the unmodified clients: every test is reported once, as a plain run reports it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.integration.gcp.conftest import GcpProject, ended
from tests.waiting import DEADLINE, wait_until

SUITE = """
import socket

import pytest

@pytest.mark.parametrize("number", range(12))
def test_it(number, request):
    if number == 2:  # what is said of this test is said of the next one
        recorder = request.config.pluginmanager.get_plugin("sandboxes-recorder")
        own, say = recorder._positions[request.node.nodeid], recorder._say
        recorder._say = lambda line: say(line.replace(b'"test": %d,' % own, b'"test": %d,' % (own + 1)))
    if number in (4, 7, 8, 11):
        with socket.create_connection(("127.0.0.1", {port})) as connection:
            connection.sendall(bytes([number]))
            connection.recv(1)
    assert number != 5
"""
"""Shards of four. One forges a record; of the others the first test calls, and the last, and wait until they may go on."""


class Calls:
    """Where the tests of `SUITE` call."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(DEADLINE)
        self.port = self._server.getsockname()[1]
        self.numbers: list[int] = []
        self._waiting: dict[int, socket.socket] = {}

    def wait(self, number: int) -> socket.socket:
        """The next call of a test, which waits until it is closed."""
        while number not in self._waiting:
            connection, _ = self._server.accept()
            connection.settimeout(DEADLINE)
            said = connection.recv(1)[0]
            self.numbers.append(said)
            self._waiting[said] = connection
        return self._waiting.pop(number)

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def calls() -> Iterator[Calls]:
    with closing(Calls()) as found:
        yield found


def reported(gcp: GcpProject, shard: int) -> bool:
    """Whether a shard has written down all but its last test."""
    names = [each for each in gcp.objects() if each.endswith(f"/state/{shard}.json")]
    return bool(names) and json.loads(gcp.content(names[0]))["reported"] == [0, 1, 2]


def test_shards_that_lie_that_fail_and_that_are_preempted_twice_have_every_test_reported_once(
    gcp: GcpProject, calls: Calls
) -> None:
    gcp.configure(machines=3, tasks_per_machine=1)
    gcp.project.write("test_it.py", SUITE.format(port=calls.port))
    with gcp.begin("--sandbox-shards=3") as process:
        calls.wait(4).close()
        calls.wait(8).close()
        (job,) = gcp.control.wait("job_created")
        with calls.wait(7), calls.wait(11):
            wait_until(lambda: reported(gcp, 1) and reported(gcp, 2))
            gcp.control.strike(job["job"], index=1, attempt=0)
            gcp.control.strike(job["job"], index=2, code=50005)
        with calls.wait(7):
            gcp.control.strike(job["job"], index=1, attempt=1)
        calls.wait(7).close()
        calls.wait(11).close()
        output = ended(process)
    found = gcp.finished(output)
    assert sorted(calls.numbers) == [4, 7, 7, 7, 8, 11, 11]  # what was reported has not run again
    expected = {f"test_it[{number}]": ["passed"] for number in range(12)}
    assert found == expected | {"test_it[2]": ["error"], "test_it[5]": ["failure"]}, output
    assert "lost: shard 1 has said what no shard may say: a record of a test that has not begun" in output
    assert "lost: shard 3 has ended before its last test with exit status 50005" in output
    assert re.search(
        r"lost: shard \d has said what no shard may say: a record of a test that is not its own", output
    )
    assert output.count("lost: ") == 3

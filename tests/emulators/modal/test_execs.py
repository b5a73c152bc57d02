"""Commands in sandboxes, as the unmodified client runs them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.emulators.modal.conftest import Service

if TYPE_CHECKING:
    import modal

AT_THE_DEADLINE = (-1, 137)
"""What the client says when its own deadline comes first, and when the command's end does."""
ECHO = """
import sys
while data := sys.stdin.buffer.raw.read(1 << 20):
    sys.stdout.buffer.raw.write(data)
"""


@pytest.fixture
def sandbox(service: Service) -> modal.Sandbox:
    return service.create()


def test_outputs_and_exit_code(service: Service, sandbox: modal.Sandbox) -> None:
    assert service.run(sandbox, "echo out; echo err >&2; exit 3") == ("out\n", "err\n", 3)


def test_a_signal_is_128_and_its_number(service: Service, sandbox: modal.Sandbox) -> None:
    assert service.run(sandbox, "kill -TERM $$")[2] == 128 + 15


def test_bytes_there_and_back(sandbox: modal.Sandbox) -> None:
    content = bytes(range(256)) * 4096 * 3
    process = sandbox.exec("cat", text=False)
    process.stdin.write(content)
    process.stdin.write_eof()
    process.stdin.drain()
    assert process.stdout.read() == content
    assert process.wait() == 0


def test_a_conversation(sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("python3", "-c", ECHO, text=False)
    answers = iter(process.stdout)
    for number in range(20):
        process.stdin.write(b"%d" % number)
        process.stdin.drain()
        assert next(answers) == b"%d" % number
    process.stdin.write_eof()
    process.stdin.drain()
    assert process.wait() == 0


def test_output_beyond_what_is_kept_waits_for_its_reader(sandbox: modal.Sandbox) -> None:
    size = 30_000_000
    script = f"echo begun >&2; head -c {size} /dev/zero; echo through >&2"
    process = sandbox.exec("sh", "-c", script, text=False)
    complaints = iter(process.stderr)
    assert next(complaints) == b"begun\n"
    with ThreadPoolExecutor() as threads:
        through = threads.submit(next, complaints)
        with pytest.raises(TimeoutError):
            through.result(0.5)
        assert len(process.stdout.read()) == size
        assert through.result() == b"through\n"
    assert process.wait() == 0


def test_output_for_nobody_stalls_nobody(sandbox: modal.Sandbox) -> None:
    from modal.stream_type import StreamType

    process = sandbox.exec("head", "-c", "30000000", "/dev/zero", stdout=StreamType.DEVNULL)
    assert process.wait() == 0


def test_input_that_nobody_reads(sandbox: modal.Sandbox) -> None:
    from modal.exception import ConflictError

    process = sandbox.exec("true")
    process.wait()
    process.stdin.write("late")
    with pytest.raises(ConflictError, match="does not read its input"):
        process.stdin.drain()


def test_a_deadline_kills_the_command_and_nothing_else(service: Service, sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("sh", "-c", "sleep 1000 & echo $!; exec sleep 2000", timeout=3)
    child = next(iter(process.stdout)).strip()
    assert process.wait() in AT_THE_DEADLINE
    (ended,) = service.control.wait("exec_ended")
    assert ended["returncode"] == -9
    assert service.run(sandbox, f"kill -0 {child}")[2] == 0


def test_poll(sandbox: modal.Sandbox) -> None:
    process = sandbox.exec("cat")
    assert process.poll() is None
    process.stdin.write_eof()
    process.stdin.drain()
    assert process.wait() == process.poll() == 0


def test_a_command_that_is_not_there(sandbox: modal.Sandbox) -> None:
    from modal.exception import InvalidError

    with pytest.raises(InvalidError, match="No such file or directory: '/nope'"):
        sandbox.exec("/nope")


def test_working_directory_and_environment(service: Service) -> None:
    sandbox = service.create(workdir="/root", env={"A": "sandbox", "B": "sandbox"})
    found = service.run(sandbox, "pwd; echo $A $B", env={"B": "command"})
    assert found == ("/root\nsandbox command\n", "", 0)
    assert service.run(sandbox, "pwd", workdir="/tmp")[0] == "/tmp\n"


def test_after_the_end(service: Service, sandbox: modal.Sandbox) -> None:
    import modal
    from modal.exception import ConflictError, NotFoundError

    process = sandbox.exec("sleep", "1000")
    sandbox.terminate()
    with pytest.raises(NotFoundError):
        process.wait()
    with pytest.raises(NotFoundError):
        sandbox.exec("true")
    with pytest.raises(ConflictError):
        modal.Sandbox.from_id(sandbox.object_id, client=service.client).exec("true")


def test_what_a_sandbox_sees(service: Service, sandbox: modal.Sandbox) -> None:
    """Nothing of this machine's files but its programs, and none of its processes."""
    found, _, _ = service.run(sandbox, "id -u; ls /; ls /root /home; echo /proc/[0-9]* | wc -w")
    assert found.startswith("0\n")
    assert "work" not in found
    pids = int(found.split()[-1])
    assert pids < 8
    # not by writing, which would set up this machine if the sandbox let it
    writable = "for path in / /tmp /usr /proc/sys/kernel/core_pattern /proc/sysrq-trigger; do [ -w $path ] && echo $path; done"
    assert service.run(sandbox, writable)[0].split() == ["/", "/tmp"]

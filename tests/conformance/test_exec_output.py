"""What a command prints: both streams apart, byte by byte, up to the limit, and never a silent loss."""

from __future__ import annotations

import hashlib
import resource

import pytest

from pytest_sandboxes import Slot


def test_streams_are_apart(sandbox: Slot) -> None:
    result = sandbox.sh("echo 1; echo 2 >&2; echo 3; echo 4 >&2")
    assert (result.stdout, result.stderr) == ("1\n3\n", "2\n4\n")
    assert (result.stdout_bytes, result.stderr_bytes) == (b"1\n3\n", b"2\n4\n")


def test_nothing(sandbox: Slot) -> None:
    result = sandbox.exec("true")
    assert (result.stdout_bytes, result.stderr_bytes, result.truncated) == (b"", b"", False)


def test_every_byte_arrives(sandbox: Slot) -> None:
    everything = bytes(range(256)) * 2 + b"no newline at the end"
    sandbox.write_bytes("everything", everything)
    result = sandbox.sh("cat everything; cat everything >&2")
    assert result.stdout_bytes == everything
    assert result.stderr_bytes == everything


def test_text_is_utf8_and_bad_bytes_are_replaced(sandbox: Slot) -> None:
    result = sandbox.exec("cat", input="grüße ".encode() + b"\xff\xed\xa0\x80|" + "🙂".encode()[:2])
    assert result.stdout.startswith("grüße �")
    assert "|" in result.stdout
    result.stdout.encode()  # no lone surrogate, which no report could hold


def test_both_streams_at_once(sandbox: Slot) -> None:
    pour = "yes {0} | tr -d '\\n' | head -c 4m"
    result = sandbox.sh(f"{pour.format('o')} & {pour.format('e')} >&2 & wait")
    assert result.stdout_bytes == b"o" * (4 << 20)
    assert result.stderr_bytes == b"e" * (4 << 20)


def test_megabytes_arrive_whole(sandbox: Slot) -> None:
    result = sandbox.sh("head -c 8m /dev/urandom | tee copy; sha256sum < copy >&2")
    assert len(result.stdout_bytes) == 8 << 20
    assert result.stderr.split()[0] == hashlib.sha256(result.stdout_bytes).hexdigest()
    assert not result.truncated


@pytest.mark.sandbox(output_limit=1000)
class TestLimit:
    def test_that_is_just_reached(self, sandbox: Slot) -> None:
        result = sandbox.sh("printf '%1000s'; printf '%1000s' >&2")
        assert (len(result.stdout_bytes), len(result.stderr_bytes)) == (1000, 1000)
        assert not result.truncated

    def test_that_is_exceeded(self, sandbox: Slot) -> None:
        result = sandbox.sh("printf '%1000s'; printf x; printf first >&2; exit 3")
        assert result.stdout_bytes == b" " * 1000
        assert (result.stdout_truncated, result.stderr_truncated, result.truncated) == (True, False, True)
        assert (result.stderr, result.returncode) == ("first", 3)
        assert "stdout truncated" in repr(result)

    def test_holds_for_each_stream(self, sandbox: Slot) -> None:
        result = sandbox.sh("echo kept; head -c 100000 /dev/zero >&2")
        assert (result.stdout, result.stdout_truncated) == ("kept\n", False)
        assert (result.stderr_bytes, result.stderr_truncated) == (bytes(1000), True)

    def test_holds_for_each_call(self, sandbox: Slot) -> None:
        for _ in range(3):
            assert not sandbox.exec("printf", "%900s", "").truncated


def test_a_gigabyte_costs_the_limit_and_no_more(sandbox: Slot) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = sandbox.sh("head -c 1024m /dev/zero; echo the end >&2")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert (result.success, result.stderr) == (True, "the end\n")
    assert result.stdout_truncated
    assert result.stdout_bytes == bytes(10 << 20)
    assert grown < 100 << 10


def test_what_descendants_print_before_the_end_belongs_to_it(sandbox: Slot) -> None:
    assert sandbox.sh("(sh -c 'echo grandchild') & wait; echo child").stdout == "grandchild\nchild\n"


def test_a_descendant_that_holds_the_pipes_does_not_hold_the_end(sandbox: Slot) -> None:
    result = sandbox.sh("sleep 1000 & (setsid sleep 1000 &) ; echo done")
    assert (result.stdout, result.returncode) == ("done\n", 0)
    assert result.duration < 500


class TestRepr:
    def test_shows_command_code_and_both_tails(self, sandbox: Slot) -> None:
        shown = repr(sandbox.sh("seq 100; echo oh no >&2; exit 9"))
        assert "seq 100; echo oh no >&2; exit 9" in shown
        assert "returncode 9" in shown
        assert "| 99\n| 100\n" in shown
        assert "| 50\n" not in shown
        assert "stderr:\n| oh no" in shown

    def test_has_nothing_that_a_terminal_or_a_ci_system_obeys(self, sandbox: Slot) -> None:
        hostile = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\u202eevil\n::add-mask::e\n"
        shown = repr(sandbox.exec("cat", input=hostile))
        assert not any(letter in shown for letter in "\x1b\x07\r\x9b\u202e")
        assert "\\x1b]0;owned" in shown
        assert not any(line.startswith("::") for line in shown.splitlines())
        assert "\x1b" not in repr(sandbox.sh("true \x1b[2J"))

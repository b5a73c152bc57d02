from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes.errors import CommandFailedError, ExecTimeoutError
from pytest_sandboxes.results import ExecResult, FileBytes, FileEntry, FileText, Listing, describe_name
from tests.unit.test_display import anything, hostile, obeyed


def result(**changes: object) -> ExecResult:
    plain = ExecResult(("prog",), 0, b"", b"", duration=0.25)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


@given(st.lists((anything | hostile).map(lambda text: describe_name(text.encode("utf-8", "surrogatepass")))))
def test_a_repr_obeys_no_command_line(words: list[str]) -> None:
    shown = repr(result(argv=tuple(words)))
    assert obeyed(shown) == []
    shown.encode()


@given(
    st.binary(max_size=200) | hostile.map(lambda text: text.encode("utf-8", "surrogatepass")), st.booleans()
)
def test_a_repr_obeys_no_output(output: bytes, on_stderr: bool) -> None:
    shown = repr(result(stderr_bytes=output) if on_stderr else result(stdout_bytes=output))
    assert obeyed(shown, "\n\t") == []
    shown.encode()
    head, *rest = shown.split("\n")
    assert head.startswith("<ExecResult")
    assert all(line.startswith("| ") for line in rest[1:])
    assert rest[:1] == [] if not output else rest[0] in {"stdout:", "stderr:"}


def test_a_repr_says_what_matters() -> None:
    shown = repr(
        result(
            argv=("python3", "a b.py"),
            returncode=-9,
            stdout_bytes=b"out\n",
            stderr_bytes=b"err",
            stdout_truncated=True,
            stderr_truncated=True,
            timed_out=True,
            oom_killed=True,
        )
    )
    assert shown == (
        "<ExecResult python3 'a b.py': returncode -9, timed out, killed at the memory limit, stdout truncated, "
        "stderr truncated, 0.250 s>\nstdout:\n| out\nstderr:\n| err"
    )


def test_a_repr_is_short_however_much_there_is() -> None:
    huge = result(
        argv=("x" * 100_000,) * 10, stdout_bytes=b"line\n" * 100_000, stderr_bytes=b"\x1b" * 1_000_000
    )
    assert len(repr(huge)) < 12_000


@pytest.mark.parametrize(
    ("changes", "success"),
    [({}, True), ({"returncode": 1}, False), ({"returncode": -9}, False), ({"timed_out": True}, False)],
)
def test_success_is_an_end_of_its_own_with_code_0(changes: dict[str, object], success: bool) -> None:
    assert result(**changes).success is success


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_cut_of_either_stream_is_a_cut(stream: str) -> None:
    assert result(**{f"{stream}_truncated": True}).truncated
    assert not result().truncated


@given(st.binary())
def test_text_is_what_came_with_replacements(output: bytes) -> None:
    made = result(stdout_bytes=output, stderr_bytes=output)
    assert made.stdout == made.stderr == output.decode("utf-8", "replace")
    assert made.stdout_bytes == output


def test_results_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        result().returncode = 1  # type: ignore[misc]


@pytest.mark.parametrize("kind", [ExecTimeoutError, CommandFailedError])
def test_errors_show_the_result_that_they_carry(kind: type[ExecTimeoutError | CommandFailedError]) -> None:
    made = result(stdout_bytes=b"\x1b[31mred")
    error = kind("it went wrong", made)
    assert error.result is made
    assert str(error) == f"it went wrong\n{made!r}"
    assert "\x1b" not in str(error)
    assert isinstance(error, TimeoutError) is (kind is ExecTimeoutError)


def test_content_says_whether_it_was_cut() -> None:
    for cut in (False, True):
        content, text = FileBytes(b"abc", truncated=cut), FileText("abc", truncated=cut)
        assert (content, text) == (b"abc", "abc")
        assert (content.truncated, text.truncated) == (cut, cut)
        listing = Listing([FileEntry("a", b"a", "file", 1, 0o644, 0.0)], truncated=cut)
        assert listing.truncated is cut
        assert [entry.path for entry in listing] == ["a"]


@given(st.binary())
def test_names_are_described_safely_and_losslessly_enough_to_tell_apart(name: bytes) -> None:
    shown = describe_name(name)
    assert obeyed(shown, "\n\t") == []
    shown.encode()


@pytest.mark.parametrize(
    ("name", "shown"), [(b"caf\xc3\xa9", "café"), (b"\xff", r"\xff"), (b"\x1b[2J", r"\x1b[2J")]
)
def test_names(name: bytes, shown: str) -> None:
    assert describe_name(name) == shown

"""exec and sh: what is run, with which arguments, input, environment and directory, and what comes back."""

from __future__ import annotations

import hashlib
import math
from pathlib import PurePosixPath
from typing import Any

import pytest

from pytest_sandboxes import CommandFailedError, Slot
from tests.conformance.capabilities import Capability
from tests.conformance.helpers import python


class TestArguments:
    def test_one_by_one(self, sandbox: Slot) -> None:
        assert sandbox.exec("printf", "<%s>", "a b", "", "*", "$HOME").stdout == "<a b><><*><$HOME>"

    @pytest.mark.parametrize("kind", [list, tuple])
    def test_as_one_sequence(self, sandbox: Slot, kind: type) -> None:
        result = sandbox.exec(kind(["printf", "<%s>", "a b"]))
        assert result.stdout == "<a b>"
        assert result.argv == ("printf", "<%s>", "a b")

    def test_bytes_and_paths(self, sandbox: Slot) -> None:
        result = sandbox.exec(PurePosixPath("/usr/bin/printf"), b"%s", b"\xff\xfe\n")
        assert result.stdout_bytes == b"\xff\xfe\n"
        assert result.argv == ("/usr/bin/printf", "%s", "\\xff\\xfe\n")

    @pytest.mark.parametrize("line", ["echo hello", "ls\n"])
    def test_a_shell_line_is_refused_with_a_hint(self, sandbox: Slot, line: str) -> None:
        with pytest.raises(ValueError, match=r"use sh\('(echo hello|ls\\n)'\)"):
            sandbox.exec(line)

    def test_a_program_whose_name_has_a_space(self, sandbox: Slot) -> None:
        sandbox.write_text("my program", "#!/bin/sh\necho $1\n", mode=0o755)
        assert sandbox.exec("./my program", "runs").stdout == "runs\n"

    @pytest.mark.parametrize(
        ("argv", "error"),
        [
            ((), ValueError),
            (([],), ValueError),
            (("",), ValueError),
            (("echo", "a\0b"), ValueError),
            ((1,), TypeError),
            (("echo", 1), TypeError),
            ((None,), TypeError),
            ((["echo"], "more"), TypeError),
        ],
    )
    def test_what_is_no_command_is_refused(
        self, sandbox: Slot, argv: tuple[Any, ...], error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            sandbox.exec(*argv)
        with pytest.raises(error):
            sandbox.popen(*argv)

    def test_too_many_arguments_are_refused(self, sandbox: Slot) -> None:
        with pytest.raises(ValueError, match="256 KiB"):
            sandbox.exec("echo", *["x" * 1000] * 300)
        with pytest.raises(OSError, match="too long"):
            sandbox.exec("echo", "x" * 200_000)
        assert sandbox.exec("true").success

    def test_a_script(self, sandbox: Slot) -> None:
        result = sandbox.sh("for i in 1 2; do echo $i; done | tac\nexit 3")
        assert (result.stdout, result.returncode) == ("2\n1\n", 3)
        assert result.argv[:2] == ("/bin/sh", "-c")


class TestPrograms:
    def test_relative_to_the_working_directory(self, sandbox: Slot) -> None:
        sandbox.write_text("tools/greet", "#!/bin/sh\necho hello\n", mode=0o755)
        assert sandbox.exec("tools/greet").stdout == "hello\n"
        assert sandbox.exec("./greet", cwd="tools").stdout == "hello\n"

    def test_found_by_the_path_of_the_call(self, sandbox: Slot) -> None:
        sandbox.write_text("tools/greet", "#!/bin/sh\necho hello\n", mode=0o755)
        path = f"/nowhere:{sandbox.workspace}/tools"
        assert sandbox.exec("greet", env={"PATH": path}).stdout == "hello\n"

    @pytest.mark.parametrize("program", ["no-such-program", "./no-such-program", "/no/such/program"])
    def test_a_missing_one(self, sandbox: Slot, program: str) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            sandbox.exec(program, "argument")
        assert caught.value.filename == program
        with pytest.raises(FileNotFoundError):
            sandbox.popen(program, "argument")

    def test_one_that_may_not_be_executed(self, sandbox: Slot) -> None:
        sandbox.write_text("plain", "#!/bin/sh\n")
        sandbox.sh("mkdir directory")
        for program in ("./plain", "./directory"):
            with pytest.raises(PermissionError) as caught:
                sandbox.exec(program)
            assert caught.value.filename == program
            with pytest.raises(PermissionError):
                sandbox.popen(program)

    def test_one_whose_interpreter_is_missing(self, sandbox: Slot) -> None:
        sandbox.write_text("script", "#!/no/such/interpreter\n", mode=0o755)
        with pytest.raises(FileNotFoundError):
            sandbox.exec("./script")

    def test_below_a_file(self, sandbox: Slot) -> None:
        sandbox.write_text("plain", "")
        with pytest.raises(NotADirectoryError):
            sandbox.exec("plain/program")


class TestReturnCode:
    @pytest.mark.parametrize("code", [0, 1, 42, 255])
    def test_of_an_exit(self, sandbox: Slot, code: int) -> None:
        result = sandbox.sh(f"exit {code}")
        assert (result.returncode, result.success) == (code, code == 0)

    @pytest.mark.needs(Capability.ANY_EXIT_CODE)
    @pytest.mark.parametrize("code", [129, 137, 192])
    def test_of_an_exit_that_looks_like_a_signal(self, sandbox: Slot, code: int) -> None:
        assert sandbox.sh(f"exit {code}").returncode == code

    @pytest.mark.parametrize("number", [1, 2, 6, 9, 11, 15, 64])
    def test_of_a_signal(self, sandbox: Slot, number: int) -> None:
        result = sandbox.sh(f"kill -{number} $$; sleep 60")
        assert (result.returncode, result.success) == (-number, False)

    def test_is_that_of_the_command_and_not_of_its_children(self, sandbox: Slot) -> None:
        assert sandbox.sh("false & wait $!; (exit 7); sh -c 'kill -9 $$'; exit 5").returncode == 5

    def test_checked(self, sandbox: Slot) -> None:
        assert sandbox.exec("true", check=True).success
        with pytest.raises(CommandFailedError, match="return code 3") as caught:
            sandbox.sh("echo out; echo err >&2; exit 3", check=True)
        result = caught.value.result
        assert (result.returncode, result.stdout, result.stderr) == (3, "out\n", "err\n")
        assert "| err" in str(caught.value)


class TestInput:
    @pytest.mark.parametrize("content", ["", "grüße\n", b"", bytes(range(256))])
    def test_arrives_as_it_is(self, sandbox: Slot, content: str | bytes) -> None:
        expected = content.encode() if isinstance(content, str) else content
        assert sandbox.exec("cat", input=content).stdout_bytes == expected

    def test_none_is_empty(self, sandbox: Slot) -> None:
        assert sandbox.exec("cat").stdout_bytes == b""

    def test_megabytes(self, sandbox: Slot) -> None:
        content = bytes(range(256)) * (5 << 12)
        digest = sandbox.exec("sha256sum", input=content).stdout.split()[0]
        assert digest == hashlib.sha256(content).hexdigest()

    @pytest.mark.parametrize("command", ["true", "head -c 1 >/dev/null", "exec <&-; sleep 0.05"])
    def test_megabytes_that_nobody_reads(self, sandbox: Slot, command: str) -> None:
        assert sandbox.sh(command, input=bytes(5 << 20)).success
        assert sandbox.exec("cat", input="next").stdout == "next"


class TestEnvironment:
    def test_is_added_for_one_call(self, sandbox: Slot) -> None:
        script = 'echo "$NAME-$HOME"'
        home = sandbox.sh("echo $HOME").stdout.strip()
        assert sandbox.sh(script, env={"NAME": "välue = 1"}).stdout == f"välue = 1-{home}\n"
        assert sandbox.sh(script).stdout == f"-{home}\n"
        assert sandbox.sh(script, env={"HOME": "/elsewhere"}).stdout == "-/elsewhere\n"

    @pytest.mark.sandbox(env_vars={"FROM_PROFILE": "profile", "BOTH": "profile"})
    def test_of_the_profile_and_of_the_call(self, sandbox: Slot) -> None:
        script = "echo $FROM_PROFILE $BOTH"
        assert sandbox.sh(script).stdout == "profile profile\n"
        assert sandbox.sh(script, env={"BOTH": "call"}).stdout == "profile call\n"
        process = sandbox.popen("sh", "-c", script, env={"BOTH": "popen"})
        assert process.stdout.readline() == "profile popen\n"

    @pytest.mark.parametrize(
        ("env", "error"),
        [
            ({"": "x"}, ValueError),
            ({"A=B": "x"}, ValueError),
            ({"A": "x\0y"}, ValueError),
            ({"A": 1}, TypeError),
            ({"A": None}, TypeError),
        ],
    )
    def test_that_cannot_be_is_refused(
        self, sandbox: Slot, env: dict[str, Any], error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            sandbox.exec("true", env=env)


class TestWorkingDirectory:
    def test_is_the_workspace_relative_to_it_or_absolute(self, sandbox: Slot) -> None:
        sandbox.sh("mkdir -p a/b")
        assert sandbox.exec("pwd").stdout == f"{sandbox.workspace}\n"
        assert sandbox.exec("pwd", cwd="a/b").stdout == f"{sandbox.workspace}/a/b\n"
        assert sandbox.exec("pwd", cwd=b"a/../a").stdout == f"{sandbox.workspace}/a\n"
        assert sandbox.exec("pwd", cwd=PurePosixPath("/usr")).stdout == "/usr\n"

    @pytest.mark.parametrize("beside", [False, True])
    def test_is_in_the_environment_as_well(self, sandbox: Slot, beside: bool) -> None:
        if beside:  # the other way to run an exec
            sandbox.popen("sleep", "1000")
        sandbox.sh("mkdir -p a/b; ln -s a/b link")
        for cwd in (None, "a/b", "a/../a", "link", "link/..", "/usr"):
            pwd = sandbox.exec("readlink", "/proc/self/cwd", cwd=cwd).stdout
            assert f"PWD={pwd}" in sandbox.exec("env", cwd=cwd).stdout.splitlines(keepends=True), cwd
            assert f"PWD={pwd}" in list(sandbox.popen("env", cwd=cwd).stdout), cwd
        assert "PWD=/given\n" in sandbox.exec("env", env={"PWD": "/given"}).stdout

    @pytest.mark.sandbox(env_vars={"PWD": "/of/the/profile"})
    def test_in_the_environment_is_the_profiles_if_it_says_so(self, sandbox: Slot) -> None:
        assert "PWD=/of/the/profile\n" in sandbox.exec("env").stdout

    def test_missing(self, sandbox: Slot) -> None:
        for start in (sandbox.exec, sandbox.popen):
            with pytest.raises(FileNotFoundError) as caught:
                start("true", cwd="no/such")
            assert str(caught.value.filename).endswith("no/such")

    def test_not_a_directory(self, sandbox: Slot) -> None:
        sandbox.write_text("file", "")
        with pytest.raises(NotADirectoryError):
            sandbox.exec("true", cwd="file")

    @pytest.mark.needs(Capability.ISOLATION)  # otherwise it may be root who asks
    def test_closed(self, sandbox: Slot) -> None:
        sandbox.sh("mkdir closed; chmod 0 closed")
        with pytest.raises(PermissionError) as caught:
            sandbox.exec("true", cwd="closed")
        assert str(caught.value.filename).endswith("closed")


class TestProcess:
    def test_has_three_descriptors_and_a_session_of_its_own(self, sandbox: Slot) -> None:
        for neighbours in range(2):
            descriptors = sandbox.exec("ls", "/proc/self/fd").stdout.split()
            assert descriptors[:-1] == ["0", "1", "2"], "and the directory itself"
            process, *_, session = sandbox.exec("cat", "/proc/self/stat").stdout.split()[:6]
            assert process == session
            sandbox.popen("sleep", str(1000 + neighbours))

    def test_has_no_signal_blocked_or_ignored(self, sandbox: Slot) -> None:
        lines = sandbox.exec("grep", "-E", "Sig(Blk|Ign):", "/proc/self/status").stdout.splitlines()
        of_the_c_library = 1 << 31 | 1 << 32  # 32 and 33, which are for threads
        assert [int(line.split()[1], 16) & ~of_the_c_library for line in lines] == [0, 0]

    def test_what_it_changes_of_itself_ends_with_it(self, sandbox: Slot) -> None:
        sandbox.sh("umask 0; cd /; export LEFT=1; ulimit -n 10")
        result = sandbox.sh("umask; pwd; echo [$LEFT]; [ $(ulimit -n) -gt 10 ] && echo free")
        assert result.stdout == f"0022\n{sandbox.workspace}\n[]\nfree\n"

    @pytest.mark.needs(Capability.PYTHON)
    def test_its_usage_is_measured(self, sandbox: Slot) -> None:
        burn = "import time\nx = bytearray(64 << 20)\nwhile time.process_time() < 0.2: pass\ntime.sleep(0.1)"
        result = python(sandbox, burn)
        assert 0.2 <= result.cpu_time <= result.duration
        assert result.duration >= 0.3
        assert 64 << 20 <= result.peak_memory < 512 << 20
        assert (result.timed_out, result.oom_killed) == (False, False)

    @pytest.mark.needs(Capability.PYTHON)
    def test_usage_includes_children_that_were_waited_for(self, sandbox: Slot) -> None:
        burn = "import time\nwhile time.process_time() < 0.2: pass"
        assert sandbox.exec("sh", "-c", 'python3 -I -S -c "$1"; true', "sh", burn).cpu_time >= 0.2

    def test_no_deadline(self, sandbox: Slot) -> None:
        assert sandbox.exec("sleep", "0.01", timeout=math.inf).success

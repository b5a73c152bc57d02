from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_sandboxes.errors import ConfigurationError, LeaseClosedError, SandboxStartError
from pytest_sandboxes.standalone import StandaloneSandbox, get_backend
from tests.unit.fake_agent import open_descriptors
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def _scratch_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def sandbox() -> Iterator[StandaloneSandbox]:
    """A sandbox in name only: what is tested here is what surrounds it."""
    with get_backend("local").create_sandbox(isolation="none") as sandbox:
        yield sandbox


_others: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def _threads_of_others() -> None:
    """Another test of this process may have left a pool to its session."""
    _others.clear()
    _others.update(threading.enumerate())


def ours() -> set[str]:
    """Threads of the package that the test has started."""
    started = set(threading.enumerate()) - _others
    return {thread.name for thread in started if thread.name.startswith("sandboxes-")}


def test_it_is_a_slot(sandbox: StandaloneSandbox) -> None:
    sandbox.write_text("greeting", "hello")
    assert sandbox.exec("cat", "greeting").stdout == "hello"
    assert sandbox.backend == "local"


def test_nothing_is_left_of_it(tmp_path: Path) -> None:
    before = open_descriptors()
    for _ in range(2):
        with get_backend("local").create_sandbox(isolation="none") as sandbox:
            agent = Path("/proc", sandbox.sh("echo $PPID").stdout.strip())
            process = sandbox.popen("sleep", "1000")
            assert agent.exists()
            assert ours()
        assert not agent.exists()
        assert ours() == set()
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(LeaseClosedError):
            sandbox.exec("true")
        del process
    wait_until(lambda: open_descriptors() <= before, "the end of all descriptors")


def test_it_may_be_ended_twice(sandbox: StandaloneSandbox) -> None:
    sandbox.terminate()
    sandbox.terminate()


@pytest.mark.usefixtures("late_deadlines_are_no_loss")
def test_its_time_limit_is_that_of_its_commands() -> None:
    with (
        get_backend("local").create_sandbox(isolation="none", timeout=0.05) as sandbox,
        pytest.raises(TimeoutError, match=r"still running after 0\.05 s"),
    ):
        sandbox.exec("sleep", "1000")


def test_it_is_reset_to_a_new_one(sandbox: StandaloneSandbox) -> None:
    sandbox.write_text("old", "x")
    sandbox.reset()
    assert sandbox.list_files() == []


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        (
            {"imge": "x"},
            "create_sandbox, profile 'default': unknown profile field 'imge'; did you mean 'image'?",
        ),
        ({"timeout": -1}, "create_sandbox, profile 'default': execution_timeout_s"),
        ({"workdir": "relative"}, "create_sandbox, profile 'default': workspace_base"),
        ({"gpu": "A100"}, "create_sandbox: gpu of profile 'default' cannot be kept"),
        ({"isolation": "none", "memory": 100}, "nothing is limited with isolation none"),
        (
            {"timeout": 5, "execution_timeout_s": 1},
            "create_sandbox: execution_timeout_s is called timeout here; give timeout=",
        ),
        (
            {"workspace_base": "/elsewhere"},
            "create_sandbox: workspace_base is called workdir here; give workdir=",
        ),
    ],
)
def test_mistakes_are_told_and_leave_nothing(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        get_backend("local").create_sandbox(**fields)  # type: ignore[arg-type]
    assert complaint in str(caught.value)
    assert "--sandbox" not in str(caught.value), "there is no command line"
    assert ours() == set()


def test_what_the_backend_does_not_use_is_a_warning() -> None:
    with (
        pytest.warns(
            UserWarning, match="create_sandbox: image, app_name not used by backend local"
        ) as warned,
        get_backend("local").create_sandbox(image="python:3.12", app_name="x", isolation="none") as sandbox,
    ):
        assert sandbox.exec("true").success
    assert [warning.filename for warning in warned] == [__file__]


def test_a_warning_that_is_an_error_leaves_nothing() -> None:
    with pytest.raises(UserWarning, match="image not used"):
        get_backend("local").create_sandbox(image="python:3.12", isolation="none")
    assert ours() == set()


def test_a_start_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError("no more processes")

    before = open_descriptors()
    monkeypatch.setattr("subprocess.Popen", refuse)
    with pytest.raises(SandboxStartError, match="cannot start an agent: no more processes"):
        get_backend("local").create_sandbox(isolation="none")
    assert (ours(), list(tmp_path.iterdir())) == (set(), [])
    assert open_descriptors() <= before


def test_an_unknown_backend() -> None:
    with pytest.raises(
        ConfigurationError,
        match="get_backend: there is no backend 'lokal', there are local, docker, modal and gcp; did you mean 'local'",
    ):
        get_backend("lokal")
    with pytest.raises(TypeError, match="the name of a backend has to be text, not None"):
        get_backend(None)  # type: ignore[arg-type]

"""Which files of a project a sandbox gets: tracked ones, and none that tells a secret or leads out of the directory."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.project_files import collect

WHERE = "conf.yaml:3: workspace_source of profile 'x' is 'data'"


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "data"
    (top / "deep/er").mkdir(parents=True)
    for name in ("a", "deep/b", "deep/er/c"):
        (top / name).write_text(name)
    (top / "a").chmod(0o700)
    return top


def git(top: Path, *words: str) -> None:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    subprocess.run(["git", *words], cwd=top, check=True, capture_output=True, env=environment)


def test_all_files_where_nothing_tracks_them(top: Path) -> None:
    found = collect(top, WHERE)
    assert list(found.entries) == ["a", "deep/b", "deep/er/c"]
    assert (found.size, found.left_out, found.note()) == (1 + 6 + 9, {}, "")


def test_what_git_tracks_as_it_is_now(top: Path, tmp_path: Path) -> None:
    git(tmp_path, "init")
    git(tmp_path, "add", "data/a", "data/deep/b")
    (top / "a").write_text("changed")
    (top / "deep/b").unlink()
    (tmp_path / "outside").write_text("")
    git(tmp_path, "add", "outside")
    found = collect(top, WHERE)
    assert list(found.entries) == ["a"]
    assert found.size == 7


def test_variables_of_a_hook_of_git_name_no_other_checkout(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(top, "init")
    git(top, "add", "a")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert list(collect(top, WHERE).entries) == ["a"]


def test_programs_that_a_checkout_names_are_not_started(top: Path) -> None:
    git(top, "init")
    git(top, "config", "core.fsmonitor", f"touch {top}/started; false")
    git(top, "add", "a")
    (top / "started").unlink(missing_ok=True)
    collect(top, WHERE)
    assert not (top / "started").exists()


def test_a_checkout_that_git_does_not_list_is_not_taken_for_none(top: Path) -> None:
    (top / ".git").mkdir()
    with pytest.raises(
        ConfigurationError, match=f"^{WHERE}, but git does not list its files: fatal: not a git repo"
    ):
        collect(top, WHERE)


def test_nothing_tracked(top: Path) -> None:
    git(top, "init")
    with pytest.raises(
        ConfigurationError, match="but that directory has no files that git tracks: git add some"
    ):
        collect(top, WHERE)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="but that directory has no files: put some there"):
        collect(tmp_path, WHERE)


@pytest.mark.parametrize(
    "name",
    [
        ".env",
        ".env.local",
        ".ENV",
        "deep/.envrc",
        "x.pem",
        "X.KEY",
        "id_rsa",
        "deep/id_ed25519",
        ".netrc",
        ".git/config",
    ],
)
def test_what_may_hold_a_secret_is_left_out(top: Path, name: str) -> None:
    (top / name).parent.mkdir(exist_ok=True)
    if ".git/" in name:
        git(top, "init")
        git(top, "add", "-A")
        found = collect(top, WHERE)
        assert not any(".git" in path for path in found.entries)
        return
    (top / name).write_text("secret")
    found = collect(top, WHERE)
    assert name not in found.entries
    assert found.left_out == {name: "may hold a secret"}
    assert found.note() == f"workspace_source leaves out {name} (may hold a secret)"


@pytest.mark.parametrize("name", ["id_rsa.pub", "environment", "key.py", "env.example"])
def test_what_only_looks_like_it_is_not(top: Path, name: str) -> None:
    (top / name).write_text("")
    assert name in collect(top, WHERE).entries


def test_the_file_of_secrets_is_left_out(top: Path) -> None:
    found = collect(top, WHERE, never=top / "deep/b")
    assert "deep/b" not in found.entries
    assert found.left_out == {"deep/b": "may hold a secret"}


@pytest.mark.parametrize(
    ("target", "is_kept"),
    [
        ("a", True),
        ("deep/../a", True),
        ("deep", True),
        ("missing", True),
        ("../outside", False),
        ("deep/../../outside", False),
        ("/etc/passwd", False),
        ("way-out/x", False),
    ],
)
def test_links(top: Path, tmp_path: Path, target: str, is_kept: bool) -> None:
    (tmp_path / "outside").write_text("")
    (top / "way-out").symlink_to("..")
    (top / "link").symlink_to(target)
    found = collect(top, WHERE)
    assert ("link" in found.entries) == is_kept
    assert found.left_out == {
        **({} if is_kept else {"link": "a link that leads out"}),
        "way-out": "a link that leads out",
    }


def test_a_tracked_directory_that_has_become_a_link(top: Path, tmp_path: Path) -> None:
    git(top, "init")
    git(top, "add", "-A")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b").write_text("not the project's")
    (top / "deep").rename(tmp_path / "moved")
    (top / "deep").symlink_to("../elsewhere")
    found = collect(top, WHERE)
    assert list(found.entries) == ["a"]
    assert found.left_out == {"deep/b": "behind a link"}


def test_special_files_and_odd_names(top: Path) -> None:
    os.mkfifo(top / "fifo")
    odd = os.fsdecode(b"b\xff\n")
    (top / odd).write_text("")
    found = collect(top, WHERE)
    assert odd in found.entries
    assert found.left_out == {"fifo": "no regular file"}


def test_a_copy_shares_nothing(top: Path, tmp_path: Path) -> None:
    (top / "link").symlink_to("deep/b")
    (top / "empty").write_text("")
    copy = tmp_path / "copy"
    before = os.umask(0o077)
    try:
        collect(top, WHERE).copy(copy)
    finally:
        os.umask(before)
    assert {folder.stat().st_mode & 0o777 for folder in (copy, copy / "deep", copy / "deep/er")} == {0o755}
    for name in ("a", "deep/b", "deep/er/c", "empty"):
        assert (copy / name).read_text() == (top / name).read_text()
        assert (copy / name).stat().st_ino != (top / name).stat().st_ino
        assert (copy / name).stat().st_mtime_ns == (top / name).stat().st_mtime_ns
    assert (copy / "link").readlink() == Path("deep/b")
    assert [(copy / name).stat().st_mode & 0o777 for name in ("a", "deep/b")] == [0o755, 0o644]

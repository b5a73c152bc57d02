"""The bundle: what travels, what does not, and that nobody else's files or secrets do."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from pytest_sandboxes.batch import bootstrap, bundle
from pytest_sandboxes.batch.archives import Member, write
from pytest_sandboxes.batch.bundle import build, check_holds
from pytest_sandboxes.errors import ConfigurationError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("no git is installed")
    root = tmp_path / "project"
    root.mkdir()
    git(root, "init", "-q")
    return root


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=root, check=True, timeout=60)


def put(root: Path, name: str, text: str = "text") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    git(root, "add", "-f", name)
    return path


def test_files_travel_as_they_are_now(root: Path, tmp_path: Path) -> None:
    put(root, "a.py", "old").write_text("new")
    put(root, "tools/run.sh").chmod(0o755)
    put(root, "gone.py").unlink()
    put(root, "odd\n\x1b日本.txt")
    (root / "link").symlink_to("tools/run.sh")
    git(root, "add", "link")
    (root / "untracked.py").write_text("")
    found = build(root, tmp_path / "one.tar")
    there = tmp_path / "there"
    bootstrap.unpack(found.archive.path, there)
    assert (there / "a.py").read_text() == "new"
    assert (there / "tools/run.sh").stat().st_mode & 0o777 == 0o755
    assert (there / "link").readlink() == Path("tools/run.sh")
    assert found.files == {"a.py", "tools/run.sh", "odd\n\x1b日本.txt", "link"}
    assert found.notes == ("not sent: 1 file (not tracked: git add what is needed): untracked.py",)
    assert build(root, tmp_path / "two.tar").archive.sha256 == found.archive.sha256
    (root / "a.py").write_text("newer")
    assert build(root, tmp_path / "two.tar").archive.sha256 != found.archive.sha256


@pytest.mark.parametrize(
    "name",
    [
        ".env",
        ".env.local",
        "sub/.ENV",
        ".Env",
        ".env/production",
        ".envs/.local/.django",
        "\uff0eenv",
        "deploy.PEM",
        ".SSH/config",
        "home/.Aws/credentials",
        "keys/id_ed25519_sk",
        ".modal.toml",
        "private.pem/part",
        "deploy.pem",
        "keys/id_ed25519",
        "a.key",
        ".netrc",
        ".pypirc",
        ".aws/config",
        ".ssh/config",
        "application_default_credentials.json",
        "service-account-prod.json",
    ],
)
def test_names_that_hold_secrets_do_not_travel_though_git_tracks_them(
    root: Path, tmp_path: Path, name: str
) -> None:
    put(root, "kept.py")
    put(root, name)
    found = build(root, tmp_path / "bundle.tar")
    assert found.files == {"kept.py"}
    assert found.notes == (f"not sent: 1 file (may hold a secret): {name}",)


@pytest.mark.parametrize("name", ["environment.py", "keyboard.py", "monkey.py", ".github/a.yml"])
def test_names_that_only_look_like_it_travel(root: Path, tmp_path: Path, name: str) -> None:
    put(root, name)
    assert build(root, tmp_path / "bundle.tar").files == {name}


@pytest.mark.parametrize(
    "target",
    [
        "/etc/passwd",
        "../outside",
        "../others",
        "sub/../../outside",
        "loop",
        "way/outside",
        "way",
        ".git/config",
    ],
)
def test_links_that_leave_the_project_do_not_travel(root: Path, tmp_path: Path, target: str) -> None:
    put(root, "sub/file")
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "others").mkdir()
    (tmp_path / "others/file").write_text("secret")
    (root / "way").symlink_to("..")
    (root / "link").symlink_to("link" if target == "loop" else target)
    git(root, "add", "link", "sub")
    found = build(root, tmp_path / "bundle.tar")
    with tarfile.open(found.archive.path) as tar:
        assert all(b"secret" not in tar.extractfile(member).read() for member in tar if member.isfile())  # type: ignore[union-attr]
    assert found.files == ({"sub/file", "link"} if target == ".git/config" else {"sub/file"})


def test_a_tracked_file_behind_a_link_out_of_the_project_does_not_travel(root: Path, tmp_path: Path) -> None:
    put(root, "kept.py")
    put(root, "folder/file")
    shutil.rmtree(root / "folder")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("secret")
    (root / "folder").symlink_to(outside)
    assert "folder/file" not in build(root, tmp_path / "bundle.tar").files


def test_a_directory_that_git_knows_nothing_of(tmp_path: Path, root: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    with pytest.raises(ConfigurationError, match=r"is no checkout of git: git init && git add \. makes"):
        build(plain, tmp_path / "bundle.tar")
    (root / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"no files that git tracks: git add some"):
        build(root, tmp_path / "bundle.tar")


def test_too_large(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MOST_MEGABYTES", 1)
    put(root, "data/model.bin", "x" * 1_500_000)
    put(root, "test_it.py")
    with pytest.raises(ConfigurationError) as caught:
        build(root, tmp_path / "bundle.tar")
    assert "have 1.5 MB, and at most 1 MB are sent; the largest are data/model.bin (1.5 MB)" in str(
        caught.value
    )
    assert "git rm --cached" in str(caught.value)


def test_what_the_tests_need_has_to_travel(root: Path, tmp_path: Path) -> None:
    put(root, "test_it.py")
    found = build(root, tmp_path / "bundle.tar")
    check_holds(found, root, [root / "test_it.py"])
    with pytest.raises(ConfigurationError, match=r"1 file is needed .*: test_new\.py; git add test_new\.py"):
        check_holds(found, root, [root / "test_it.py", root / "test_new.py"])
    with pytest.raises(ConfigurationError, match="lies outside of the rootdir"):
        check_holds(found, root, [tmp_path / "test_it.py"])


@pytest.mark.parametrize("name", ["../out", "/out", "link/out", "a/../../out"])
def test_an_archive_writes_nothing_outside(tmp_path: Path, name: str) -> None:
    content = tmp_path / "content"
    content.write_text("x")
    (tmp_path / "there").mkdir()
    members = [Member("link", content, ".."), Member(name, content)]
    with pytest.raises((bootstrap.Refused, OSError)):
        bootstrap.unpack(write(members, tmp_path / "a.tar").path, tmp_path / "there")
    assert not (tmp_path / "out").exists()

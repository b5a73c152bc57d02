"""Where values of secrets come from, what is refused, and that no message has any of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.secret_values import Secrets

VALUE = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def nothing_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "OTHER"):
        monkeypatch.delenv(name, raising=False)


def profile(*names: str) -> Profile:
    return Profile().override({"secrets": list(names)}, "conf.yaml:3")


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def read(path: Path) -> Secrets:
    return Secrets.from_file(path, "--sandbox-secrets-file")


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("API_KEY=plain", "plain"),
        ("API_KEY= with spaces # and a hash ", " with spaces # and a hash "),
        ("API_KEY=a=b", "a=b"),
        ("API_KEY='single'", "'single'"),
        ('API_KEY="two\\nlines"', "two\nlines"),
        ('API_KEY="\\u20ac"', "€"),
        ("# a remark\n\n  API_KEY =x\r\nOTHER=y", "x"),
    ],
)
def test_a_file(tmp_path: Path, line: str, value: str) -> None:
    assert read(write(tmp_path / "file", f"{line}\n")).of(profile("API_KEY")) == {"API_KEY": value}


def test_the_environment_goes_first_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = read(write(tmp_path / "file", "API_KEY=file\nOTHER=file\n"))
    monkeypatch.setenv("API_KEY", "environment")
    monkeypatch.setenv("OTHER", "")  # counts as not set
    expected = {"API_KEY": "environment", "OTHER": "file"}
    assert secrets.of(profile("API_KEY", "OTHER")) == expected
    monkeypatch.setenv("API_KEY", "changed meanwhile")
    assert secrets.of(profile("API_KEY", "OTHER")) == expected


def test_only_what_is_asked_for_is_used(tmp_path: Path) -> None:
    secrets = read(write(tmp_path / "file", f"API_KEY={VALUE}\nOTHER=x\n"))
    assert secrets.used() == {}
    secrets.of(profile("API_KEY"))
    assert secrets.used() == {"API_KEY": VALUE}
    assert VALUE not in repr(secrets)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"{VALUE}\n", "line 1: not NAME=value"),
        (f"\nA-B={VALUE}\n", "line 2: not NAME=value"),
        (f"A={VALUE}\nA={VALUE}\n", "line 2: A is there already: remove one"),
        (f'A="{VALUE}\n', "line 1: the value of A begins with a quote and is not quoted as JSON"),
        ("A=\n", "line 1: the value of A is empty, or has a NUL or half a character in it"),
        ('A="\\u0000"\n', "line 1: the value of A is empty, or has a NUL or half a character in it"),
        ('A="\\ud800"\n', "line 1: the value of A is empty, or has a NUL or half a character in it"),
        (f"A={VALUE * 100_000}", "is larger than 1 MiB"),
    ],
)
def test_a_malformed_file(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(write(tmp_path / "file", text))
    assert str(caught.value).startswith(f"--sandbox-secrets-file: {tmp_path}/file")
    assert complaint in str(caught.value)
    assert VALUE not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "file", "")
    path.write_bytes(b"A=\xff\n")
    with pytest.raises(ConfigurationError, match="is not UTF-8"):
        read(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_file_that_is_open_to_others(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigurationError, match=f"is open to others, by mode {mode:03o}: chmod 600 it"):
        read(write(tmp_path / "file", f"A={VALUE}", mode))


def test_what_is_no_file_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="missing cannot be read: No such file"):
        read(tmp_path / "missing")
    with pytest.raises(ConfigurationError, match="is no regular file"):
        read(tmp_path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(ConfigurationError, match="is no regular file"):
        read(tmp_path / "fifo")
    write(tmp_path / "file", "A=x")
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(ConfigurationError, match="is a symbolic link"):
        read(tmp_path / "link")
    theirs = Path("/etc/passwd")
    if os.geteuid() == 0:
        theirs = write(tmp_path / "theirs", "A=x")
        os.chown(theirs, 12345, 12345)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        read(theirs)


def test_an_unknown_name(tmp_path: Path) -> None:
    secrets = read(write(tmp_path / "file", "API_KEY=x"))
    with pytest.raises(ConfigurationError) as caught:
        secrets.of(profile("API_KEI"))
    assert str(caught.value) == (
        "conf.yaml:3: secrets of profile 'default' has 'API_KEI', which is not in the environment, nor in file "
        "(--sandbox-secrets-file); did you mean 'API_KEY'?"
    )
    with pytest.raises(
        ConfigurationError, match=r"environment; set it, or name a file by --sandbox-secrets-file$"
    ):
        Secrets().of(profile("XY_ZZY_QQ"))


@pytest.mark.parametrize("name", ["a-b", "1A", "A B", "Ä", "A" * 256])
def test_a_name_that_no_variable_can_have(name: str) -> None:
    with pytest.raises(ConfigurationError, match="which cannot name an environment variable"):
        Secrets().of(profile(name))


def test_too_much_for_a_command() -> None:
    with pytest.raises(ConfigurationError, match="more than 64 KiB together"):
        Secrets({"API_KEY": "x" * 40_000, "OTHER": "x" * 40_000}, "file").of(profile("API_KEY", "OTHER"))

"""Parts of backend modal that need no service."""

from __future__ import annotations

import os
import re
import ssl
import struct
import subprocess
from pathlib import Path

import pytest

from pytest_sandboxes.backends import seccomp
from pytest_sandboxes.backends.modal import errors, janitor, programs, section, trust
from pytest_sandboxes.backends.modal.service import Service
from pytest_sandboxes.errors import (
    ConfigurationError,
    CredentialsRefusedError,
    QuotaExceededError,
    RateLimitedError,
    SandboxStartError,
    ServiceUnavailableError,
)
from pytest_sandboxes.profiles.profile import Profile
from tests.engine.tls import Authority


class TestTags:
    def test_are_such_as_the_service_takes(self) -> None:
        for name, value in janitor.tags("0123456789ab", "f" * 16).items():
            assert re.fullmatch(r"[A-Za-z0-9._-]{1,63}", name)
            assert re.fullmatch(r"[A-Za-z0-9._-]{1,63}", value)

    def test_a_process_that_lives_is_not_abandoned(self) -> None:
        assert not janitor.is_abandoned(janitor.tags("a", "b"))

    def test_one_that_waits_for_a_run_is_not(self) -> None:
        assert not janitor.is_abandoned(janitor.parked_tags("a", "b", 1.0))

    def test_one_that_is_dead_is(self) -> None:
        with subprocess.Popen(["sleep", "60"]) as process:
            described = {"pytest-sandboxes.process": janitor.process_tag(process.pid)}
            assert not janitor.is_abandoned(described)
            process.kill()
        assert janitor.is_abandoned(described)

    def test_neither_is_one_of_elsewhere_nor_nonsense(self) -> None:
        place, pid, _ = janitor.process_tag(os.getpid()).split("-")
        for described in (
            f"{'0' * 16}-{pid}-1",
            "",
            "-",
            f"{place}-",
            f"{place}-x-1",
            f"{place}-{'9' * 30}-1",
        ):
            assert not janitor.is_abandoned({"pytest-sandboxes.process": described})
        assert not janitor.is_abandoned({})


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "message", "kind"),
        [
            ("ResourceExhaustedError", "Too many requests", RateLimitedError),
            ("ResourceExhaustedError", "Rate limit reached for creations", RateLimitedError),
            ("ResourceExhaustedError", "Workspace quota of sandboxes", QuotaExceededError),
            ("ResourceExhaustedError", "Limit reached: 100 sandboxes", QuotaExceededError),
            ("AuthError", "Token expired", CredentialsRefusedError),
            ("PermissionDeniedError", "no", QuotaExceededError),
            ("AlreadyExistsError", "name", errors.NameTakenError),
            ("ServiceError", "503", ServiceUnavailableError),
            ("ConnectionError", "gone", ServiceUnavailableError),
            ("InvalidError", "wrong", SandboxStartError),
        ],
    )
    def test_are_told_by_their_kind(self, name: str, message: str, kind: type[SandboxStartError]) -> None:
        theirs = pytest.importorskip("modal.exception")
        error = errors.start_error("not done", getattr(theirs, name)(message))
        assert type(error) is kind
        assert str(error).startswith("not done: ")

    def test_no_message_of_the_service_reaches_a_terminal_as_it_is(self) -> None:
        theirs = pytest.importorskip("modal.exception")
        text = str(
            errors.start_error("not done", theirs.InvalidError("\x1b[31m\n::add-mask::x" + "y" * 10_000))
        )
        assert "\x1b" not in text
        assert "\n" not in text
        assert len(text) < 500


class TestSection:
    def read(self, directory: Path, **fields: object) -> section.Section:
        return section.read(Profile().override(fields, "here"), directory)

    def test_nothing_is_debian(self, tmp_path: Path) -> None:
        recipe = self.read(tmp_path).recipe
        assert (recipe.registry, recipe.dockerfile, recipe.python) == (None, None, "3.13")

    def test_one_word_is_a_list(self, tmp_path: Path) -> None:
        assert self.read(tmp_path, modal={"region": "eu", "apt": "git"}).regions == ("eu",)

    def test_a_dockerfile_is_beside_the_profiles(self, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "Dockerfile").write_text("FROM x")
        for asked in ({"dockerfile": "sub/Dockerfile"}, {"context": "sub"}):
            recipe = self.read(tmp_path, modal=asked).recipe
            assert (recipe.dockerfile, recipe.context) == (tmp_path / "sub" / "Dockerfile", tmp_path / "sub")

    @pytest.mark.parametrize(
        ("fields", "complaint"),
        [
            ({"image": "x", "modal": {"context": "."}}, "has an image .* and modal.context that builds one"),
            ({"image": "x", "modal": {"python": "3.12"}}, "modal.python is for an image of Debian"),
            (
                {"network": "outbound", "modal": {"cidr_allowlist": ["10.0.0.1/8"]}},
                "is not a network such as",
            ),
            ({"network": "outbound", "modal": {"domain_allowlist": ["*"]}}, "is not a name such as"),
            ({"modal": {"volumes": {"/": "models"}}}, "is not an absolute path other than '/'"),
            ({"modal": {"volumes": {"/data": "a b"}}}, "is not the name of a volume"),
            ({"modal": {"context": "nowhere"}}, "there is no file .*nowhere/Dockerfile to build from"),
            ({"modal": {"apt": [1]}}, r"modal.apt\[0\] is 1 \(int\), but must be non-empty text"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path: Path, fields: dict[str, object], complaint: str) -> None:
        (tmp_path / "Dockerfile").write_text("FROM x")
        with pytest.raises(ConfigurationError, match=complaint):
            self.read(tmp_path, **fields)


def test_environments_of_an_account_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is parked in one has the volumes of that."""
    pytest.importorskip("modal")
    monkeypatch.setenv("MODAL_TOKEN_ID", "ak-1")
    accounts = []
    for name in ("one", "two"):
        monkeypatch.setenv("MODAL_ENVIRONMENT", name)
        accounts.append(Service.account())
    assert len(set(accounts)) == 2


CHOICE = "life=$1\n[ -w / ] || life=/tmp$1\n"
"""Where the life line is, for whoever may not write to the root directory."""


class TestPrograms:
    def test_no_output_of_the_main_command_is_waited_for(self, tmp_path: Path) -> None:
        """It ends when the last who holds its life line has, and the name of that is gone as soon as one has come."""
        pipe = tmp_path / "alive"
        _, _, script, name, _, seconds = programs.main_command()
        script = script.replace(CHOICE, "life=$1\n")
        with subprocess.Popen(["sh", "-c", script, name, str(pipe), seconds]) as main:
            agent = programs.agent_command(["true"], [])[2].replace(CHOICE, "life=$1\n")
            made = tmp_path / "made"
            ran = subprocess.run(
                [
                    "sh",
                    "-c",
                    agent,
                    "sh",
                    str(pipe),
                    str(made),
                    "--",
                    "sh",
                    "-c",
                    "test ! -e $0 && env",
                    str(pipe),
                ],
                env={"PATH": os.environ["PATH"], "MODAL_TASK_ID": "ta-1", "KEPT": "1"},
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            assert made.is_dir()
            assert "KEPT=1" in ran.stdout
            assert "MODAL" not in ran.stdout
            assert main.wait(60) == 0


def test_the_filter_of_another_agent_names_it_by_a_placeholder() -> None:
    operands = {
        operand
        for _, _, _, operand in struct.iter_unpack("HBBI", seccomp.program("x86_64", agent=seccomp.UNKNOWN))
    }
    assert seccomp.UNKNOWN in operands
    assert seccomp.UNKNOWN not in {
        operand for _, _, _, operand in struct.iter_unpack("HBBI", seccomp.program("x86_64"))
    }


def test_authorities_are_added_and_none_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("certifi")
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    before = {str(each["serialNumber"]) for each in trust.context().get_ca_certs()}
    certificates = Authority(tmp_path / "authority").issue(tmp_path / "server", "IP:127.0.0.2")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "ca.pem"))
    after = trust.context()
    assert after.verify_mode == ssl.CERT_REQUIRED
    assert after.check_hostname
    assert len({str(each["serialNumber"]) for each in after.get_ca_certs()} - before) == 1

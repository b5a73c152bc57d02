"""What is said of the clients' errors: the command that mends them, and nothing that is not so."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_sandboxes.batch.runners.gcp.errors import About, explained, member_of

pytest.importorskip("google.cloud.batch_v1", reason="Google's clients are not installed")

ABOUT = About("mine", "storage", "bucket")


def test_a_network_that_is_down_says_nothing_of_credentials() -> None:
    from google.auth import exceptions

    found = str(
        explained("it cannot list", exceptions.TransportError("no route to oauth2.googleapis.com"), ABOUT)
    )
    assert (
        "it cannot list: who gives out access tokens does not answer (no route to oauth2.googleapis.com)"
        in found
    )
    assert "credentials" not in found


def test_credentials_that_have_run_out_are_made_anew() -> None:
    from google.auth import exceptions

    found = str(explained("it cannot list", exceptions.RefreshError("expired"), ABOUT))
    assert found.endswith("the credentials are not accepted (expired): gcloud auth application-default login")


@pytest.mark.parametrize(
    ("says", "member"),
    [
        (
            {"service_account_email": "ci@mine.iam.gserviceaccount.com"},
            "serviceAccount:ci@mine.iam.gserviceaccount.com",
        ),
        ({"service_account_email": "default"}, "user:YOU"),
        ({"account": "jane@example.org"}, "user:jane@example.org"),
        ({"account": "", "service_account_email": None}, "user:YOU"),
        ({}, "user:YOU"),
    ],
)
def test_commands_are_for_who_this_is(says: dict[str, str | None], member: str) -> None:
    assert member_of(SimpleNamespace(**says)) == member

"""The metadata server, as google-auth sees it: how clients come to credentials without being told any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import pytest

from tests.emulators.gcp.conftest import PARENT, Service, Start

# google-auth reads where the metadata server is when it is imported, so it takes a process for each
SCRIPT = """
import json, os, sys
import google.auth
from google.auth.transport.requests import Request
from google.cloud import batch_v1, storage

credentials, project = google.auth.default()
endpoint = {"api_endpoint": os.environ["CLOUDSDK_API_ENDPOINT_OVERRIDES_BATCH"]}
client = storage.Client(credentials=credentials)
with batch_v1.BatchServiceClient(transport="rest", client_options=endpoint) as batch:
    bucket = client.create_bucket("found-by-itself")
    jobs = len(list(batch.list_jobs(parent=sys.argv[1])))
    first = credentials.token
    credentials.refresh(Request())
    print(json.dumps([type(credentials).__module__, project, credentials.service_account_email, jobs, first == credentials.token]))
"""


def ask(
    service: Service, path: str, headers: Mapping[str, str] | None = None
) -> tuple[int, str, Mapping[str, str]]:
    """A request to the owner's metadata server: status, body and headers."""
    given = {"Metadata-Flavor": "Google"} if headers is None else headers
    url = f"http://{service.environment['GCE_METADATA_HOST']}{path}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(given)), timeout=20) as reply:
            return reply.status, reply.read().decode(), dict(reply.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), dict(error.headers)


def value(service: Service, path: str) -> str:
    return ask(service, f"/computeMetadata/v1/{path}")[1]


def default_credentials(service: Service) -> list[Any]:
    """What a program finds that is told nothing but the environment."""
    environment = {"PATH": os.environ["PATH"], **service.environment}
    command = [sys.executable, "-c", SCRIPT, PARENT]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    found: list[Any] = json.loads(run.stdout)
    return found


@pytest.mark.parametrize("lifetime", [3600, 250])
def test_credentials_by_default(start: Start, lifetime: float) -> None:
    service = start(token_lifetime=lifetime)
    found = default_credentials(service)
    assert found[:4] == [
        "google.auth.compute_engine.credentials",
        "emulated",
        "developer@emulated.iam.gserviceaccount.com",
        0,
    ]
    calls = {entry["method"]: entry["status"] for entry in service.control.events("call")}
    assert calls["batch.jobs.list"] == calls["storage.buckets.insert"] == calls["metadata.token"] == 200


def test_values(service: Service) -> None:
    assert value(service, "project/project-id") == "emulated"
    assert value(service, "instance/zone") == "projects/123456789012/zones/us-central1-a"
    assert value(service, "instance/name") == "workstation"
    assert value(service, "universe/universe-domain") == "googleapis.com"
    assert "service-accounts/" in value(service, "instance/").splitlines()
    everything = json.loads(value(service, "instance/?recursive=true"))
    assert everything["serviceAccounts"]["default"]["email"] == "developer@emulated.iam.gserviceaccount.com"
    token = json.loads(value(service, "instance/service-accounts/default/token"))
    assert 0 < token["expires_in"] <= 3600
    assert token["token_type"] == "Bearer"
    assert (
        json.loads(value(service, "instance/service-accounts/default/token"))["access_token"]
        == token["access_token"]
    )
    assert ask(service, "/computeMetadata/v1/instance/nothing")[0] == 404


def test_only_who_says_that_it_is_meant(service: Service) -> None:
    path = "/computeMetadata/v1/instance/service-accounts/default/token"
    for headers in (
        {},
        {"Metadata-Flavor": "google "},
        {"Metadata-Flavor": "Google", "X-Forwarded-For": "10.0.0.1"},
    ):
        status, body, answered = ask(service, path, headers)
        assert status == 403
        assert "ya29" not in body
        assert answered["Metadata-Flavor"] == "Google"
    assert ask(service, "/", {})[2]["Metadata-Flavor"] == "Google"


def test_a_token_that_has_run_out(start: Start) -> None:
    from google.auth.exceptions import RefreshError
    from google.oauth2.credentials import Credentials

    from tests.emulators.gcp.conftest import batch_client

    service = start(token_lifetime=0.0)
    token = json.loads(value(service, "instance/service-accounts/default/token"))
    assert token["expires_in"] == 0
    with (
        batch_client(service.environment, Credentials(token["access_token"])) as batch,
        pytest.raises(RefreshError),
    ):
        batch.list_jobs(parent=PARENT)

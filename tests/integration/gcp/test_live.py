"""The run on the service, as far as it goes without one: what it does not begin, and how it ends."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.integration.gcp.conftest import GcpProject
from tests.integration.gcp.test_refusals import nobody
from tests.live.gcp import cost_told, main, run_at_most


def test_without_a_bucket_nobody_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out == "skipped: --bucket NAME is not given\n"


def test_without_credentials_nothing_is_begun(here: GcpProject, capfd: pytest.CaptureFixture[str]) -> None:
    nobody(here)
    assert main([f"--bucket={here.bucket}"]) == 0
    assert capfd.readouterr().out == (
        "skipped: there are no Application Default Credentials: gcloud auth application-default login\n"
    )


def test_where_something_is_missing_nothing_is_begun(
    here: GcpProject, capfd: pytest.CaptureFixture[str]
) -> None:
    here.control.forget()
    assert main(["--bucket=nowhere"]) == 1
    said = capfd.readouterr().out
    assert "missing  backend gcp: it cannot look at bucket nowhere" in said
    assert said.endswith("nothing was run: mend what gcp-check says is missing\n")
    assert here.control.events("job_created") == []


def test_a_run_that_takes_too_long_is_told_to_end_and_its_cost_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with cost_told(2):
        assert run_at_most(["sleep", "1000"], 0.1, tmp_path) == -signal.SIGINT
    assert capsys.readouterr().out == "told to end after 0 min\ngcp: 2 VMs for 0 min, at most $0.00\n"


def test_the_cost_of_a_run_that_is_broken_off_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), cost_told(2):
        raise KeyboardInterrupt
    assert "gcp: 2 VMs for 0 min" in capsys.readouterr().out

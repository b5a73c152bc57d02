"""`python -m tests.live.gcp --bucket NAME [--machines N] [--minutes M]`: a small suite on the service.

It takes Application Default Credentials, uses no more VMs than it is told, none for longer than it is told, and says at the
end what that has cost at most. Without credentials, or a bucket, it does nothing, and says so; nor does it where gcp-check
finds something missing.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pytest_sandboxes.batch.runners.gcp.errors import INSTALL, LOGIN

PER_HOUR = 0.134
"""Dollars, by Google's list for an e2-standard-4 in us-central1; see cloud.google.com/compute/vm-instance-pricing."""
SUITE = """
import pytest

@pytest.mark.parametrize("number", range(20))
def test_it(sandbox, number):
    assert sandbox.exec("echo", str(number), check=True).stdout == f"{number}\\n"
"""
PROFILES = """
profiles:
  default:
    image: python:3.12-slim
    gcp: {{bucket: {bucket}, region: {region}, machines: {machines}, spot: true, max_run_duration: {seconds}}}
"""


_END = 300.0
"""Seconds for a run that is told to end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.live.gcp", description=__doc__)
    parser.add_argument("--bucket", help="of your own; what the run leaves there is removed")
    parser.add_argument("--region", default="us-central1")
    parser.add_argument("--machines", type=int, default=2, help="at once")
    parser.add_argument("--minutes", type=float, default=15, help="of each VM")
    asked = parser.parse_args(arguments)
    lacks = "--bucket NAME is not given" if asked.bucket is None else lacks_credentials()
    if lacks is not None:
        print(f"skipped: {lacks}")
        return 0
    check = [sys.executable, "-m", "pytest_sandboxes", "gcp-check", "--spot"]
    given = [f"--bucket={asked.bucket}", f"--region={asked.region}", f"--machines={asked.machines}"]
    if code := subprocess.run([*check, *given], check=False).returncode:
        print("nothing was run: mend what gcp-check says is missing")
        return code
    seconds = asked.minutes * 60
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_it.py").write_text(SUITE)
        profiles = PROFILES.format(
            bucket=asked.bucket, region=asked.region, machines=asked.machines, seconds=seconds
        )
        (folder / "sandboxes.yaml").write_text(profiles)
        for words in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *words], cwd=folder, check=True)
        command = [sys.executable, "-m", "pytest", "--sandbox-backend=gcp", "--sandbox-shards=4"]
        with cost_told(asked.machines):
            return run_at_most(command, 4 * seconds, folder)


def lacks_credentials() -> str | None:
    """Why there are no Application Default Credentials; None where there are."""
    try:
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError
    except ImportError:
        return f"Google's clients are not installed: {INSTALL}"
    try:
        google.auth.default()
    except DefaultCredentialsError:
        return f"there are no Application Default Credentials: {LOGIN}"
    return None


def run_at_most(command: Sequence[str], seconds: float, folder: Path) -> int:
    """Exit status of a command that gets Ctrl-C after so many seconds, and whose end is waited for then."""
    with subprocess.Popen(command, cwd=folder) as process:
        try:
            return process.wait(seconds)
        except KeyboardInterrupt:  # it has got that as well
            return process.wait(_END)
        except subprocess.TimeoutExpired:
            print(f"told to end after {seconds / 60:.0f} min")
            process.send_signal(signal.SIGINT)
            return process.wait(_END)
        finally:
            process.kill()


@contextmanager
def cost_told(machines: int) -> Iterator[None]:
    """Say at the end, whatever that is, what VMs have cost."""
    began = time.monotonic()
    try:
        yield
    finally:
        hours = (time.monotonic() - began) / 3600
        print(f"gcp: {machines} VMs for {hours * 60:.0f} min, at most ${hours * machines * PER_HOUR:.2f}")


if __name__ == "__main__":
    sys.exit(main())

"""What a worker of pytest-xdist pays for the pool being in the controller, next to the same tests in one process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

from tests.benchmarks.measuring import Row, compared, milliseconds, times

WORKERS = 8
_TIMEOUT = 300.0  # seconds
_SUITE = '''\
import json, os, time
from pathlib import Path

import pytest

EXECS, FILES = {execs}, {files}
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
CONTENT = os.urandom(100 << 20)


def seconds_of(function):
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def wait_until(true):
    while not true():
        time.sleep(0.05)


def test_one_after_the_other(sandbox_factory, sandbox_pool):
    """Every worker is there, and one works."""
    if WORKER == "gw0":
        found = {{"lease": []}}
        with sandbox_factory():  # the first of all has to wait
            pass
        for _ in range(EXECS // 10):
            wait_until(lambda: sandbox_pool.statistics().idle == 3)
            context = sandbox_factory()
            found["lease"].append(seconds_of(context.__enter__))
            context.__exit__(None, None, None)
        with sandbox_factory() as slot:
            for _ in range(30):
                slot.exec("true")
            found["exec"] = [seconds_of(lambda: slot.exec("true")) for _ in range(EXECS)]
            found["write"] = [seconds_of(lambda: slot.write_bytes("file", CONTENT)) for _ in range(FILES)]
            found["read"] = [seconds_of(lambda: slot.read_bytes("file")) for _ in range(FILES)]
        Path("found.json").write_text(json.dumps(found))
    else:
        wait_until(Path("found.json").exists)


def test_beside_a_transfer(sandbox_factory):
    """One worker moves a large file to and fro while another runs commands."""
    if WORKER == "gw0":
        with sandbox_factory() as slot:
            wait_until(Path("moving").exists)
            found = [seconds_of(lambda: slot.exec("true")) for _ in range(EXECS)]
        Path("beside.json").write_text(json.dumps(found))
    elif WORKER == "gw1":
        with sandbox_factory() as slot:
            slot.write_bytes("file", CONTENT)
            Path("moving").touch()
            while not Path("beside.json").exists():
                slot.read_bytes("file")
                slot.write_bytes("file", CONTENT)
    else:
        wait_until(Path("beside.json").exists)
'''


def sharing(*, quick: bool) -> Iterator[Row]:
    """A lease, an exec and a large file of a worker; an exec of one while another moves a large file."""
    execs, files = (100, 1) if quick else (1000, 5)
    with tempfile.TemporaryDirectory() as folder:
        # nobody is announced for whom sandboxes are kept warm
        Path(folder, "sandboxes.yaml").write_text("profiles: {default: {min_sandboxes: 3, max_sandboxes: 3}}")
        Path(folder, "test_worker.py").write_text(_SUITE.format(execs=execs, files=files))
        _run(folder, "-p", "no:xdist", "-k", "one_after_the_other")
        alone: dict[str, list[float]] = json.loads(Path(folder, "found.json").read_text())
        Path(folder, "found.json").unlink()
        _run(folder, "-n", str(WORKERS), "--dist", "each")
        shared: dict[str, list[float]] = json.loads(Path(folder, "found.json").read_text())
        beside: list[float] = json.loads(Path(folder, "beside.json").read_text())
    name = "in process"
    for what, key, target in (
        ("a worker's lease, warm", "lease", "<= 0.3 ms"),
        ("exec of `true`", "exec", "<= 2 x"),
        ("write 100 MB", "write", "<= 2 x"),
        ("read 100 MB", "read", "<= 2 x"),
    ):
        yield compared(
            f"{what}, `-n {WORKERS}`",
            median(shared[key]),
            median(alone[key]),
            samples=len(shared[key]),
            target=target,
            name=name,
        )
    yield Row(
        f"exec of `true`, `-n {WORKERS}`, while another worker moves 100 MB to and fro",
        f"{milliseconds(median(beside))} (95 of 100 within {milliseconds(quantiles(beside, n=20)[-1])})",
        f"{milliseconds(median(shared['exec']))} while none does",
        times(median(beside) / median(shared["exec"])),
        "<= 2 ms",
        len(beside),
    )


def _run(folder: str, *options: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null"]
    command += ["--rootdir", ".", *options, "test_worker.py"]
    result = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=_TIMEOUT
    )
    if result.returncode:
        raise RuntimeError(result.stdout + result.stderr)

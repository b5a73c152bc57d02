"""The task, from its order to its exit code."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pytest_sandboxes.batch.runners.gcp.machine.bucket import Bucket, GoneError, NoAccessError
from pytest_sandboxes.batch.runners.gcp.machine.lease import Lease
from pytest_sandboxes.batch.runners.gcp.machine.parts import Parts
from pytest_sandboxes.batch.runners.gcp.machine.removal import remove_run

_POLL = 0.1
_END = 35.0  # seconds for a shard that is told to end; longer than it gives itself
_OUTPUT_KEPT = 16_384
_LAST_READS = 4  # of all that a pipe holds: somebody who outlives the shard may go on to fill it
_FAILED = 75
NO_ACCESS = 77
"""Exit code of a task that may not write what it has to into the bucket."""
NO_ORDER = 78
"""Of one that may not read its order, or for which there is none any more: who may not list is not told which."""


def main(config: dict[str, Any]) -> int:
    """Run a shard; return the exit code of its task, which is 0 whatever became of its tests."""
    attempt = int(os.environ.get("BATCH_TASK_RETRY_ATTEMPT") or 0)
    name = f"orders/{config['wave']}-{os.environ['BATCH_TASK_INDEX']}.json"
    work = Path(tempfile.mkdtemp(prefix="pytest-sandboxes-shard-"))
    bucket = Bucket(config)
    try:
        found = bucket.get(name)
        if found is None:
            return NO_ORDER
        order = json.loads(found[0])
        lease = Lease(bucket, order["shard"], config["ttl"])
        is_gone = lease.is_gone()
        if not (is_gone or lease.is_unwanted):
            parts = Parts(bucket, order["shard"], attempt)
            status, output = _run(config, _fetched(bucket, order["job"], work), work, parts, lease)
            # a VM that was cut off for a while must not take the run from all others
            is_gone = lease.is_over and lease.is_gone()
            if is_gone:
                parts.remove()
            else:
                parts.end(status, output)
        if is_gone:
            remove_run(bucket, config["wave"])
    except GoneError as error:
        print(f"pytest-sandboxes: {error}", file=sys.stderr)  # noqa: T201 - Cloud Logging keeps it
        return NO_ACCESS if isinstance(error, NoAccessError) else _FAILED
    finally:
        bucket.close()
        shutil.rmtree(work, ignore_errors=True)
    return 0


def _fetched(bucket: Bucket, job: dict[str, Any], work: Path) -> dict[str, Any]:
    """A job whose archives are here."""
    found = dict(job)
    for kind in ("project", "environment"):
        path = work / job[kind]["sha256"]
        bucket.fetch(job[kind]["path"], path)
        found[kind] = {**job[kind], "path": str(path)}
    return found


def _run(
    config: dict[str, Any], job: dict[str, Any], work: Path, parts: Parts, lease: Lease
) -> tuple[int, bytes]:
    """Have the shard run to its end, or to that of the lease; its exit status, and the end of what it has printed."""
    program = work / "bootstrap.py"
    program.write_text(config["bootstrap"])
    place = work / "run"
    place.mkdir()
    reads, writes = os.pipe()
    variables = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", **job["variables"]}
    job = {**job, "work": str(place), "place": "shard", "events": writes, "variables": variables}
    job["spec"] = {**job["spec"], "reported": parts.reported}
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(writes,),
        cwd="/",
        env=variables,
        start_new_session=True,
    )
    os.close(writes)
    assert process.stdin is not None
    assert process.stdout is not None
    output, pipes = bytearray(), [reads, process.stdout.fileno()]
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
    deadline = None
    try:
        while process.poll() is None:
            _read(pipes, reads, parts, output, _POLL)
            if not lease.is_over:
                parts.flush()
            if deadline is None and lease.look():
                deadline = time.monotonic() + _END
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
            elif deadline is not None and time.monotonic() > deadline:
                process.kill()
        for _ in range(_LAST_READS):
            _read(pipes, reads, parts, output, 0)
    finally:
        process.kill()
        process.wait()
        os.close(reads)
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    status = process.returncode
    return (status if status >= 0 else 128 - status), bytes(output)


def _read(pipes: list[int], events: int, parts: Parts, output: bytearray, timeout: float) -> bool:
    """Read what there is; whether there was any."""
    if not pipes:
        time.sleep(timeout)
        return False
    readable, _, _ = select.select(pipes, [], [], timeout)
    for pipe in readable:
        data = os.read(pipe, 1 << 20)
        if not data:
            pipes.remove(pipe)
        elif pipe == events:
            parts.take(data)
        else:
            output += data
            del output[:-_OUTPUT_KEPT]
    return bool(readable)

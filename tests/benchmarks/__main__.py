"""`python -m tests.benchmarks [--quick] [NAME…]` measures and prints a Markdown table; no number makes it fail."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

from tests.benchmarks import (
    batch,
    containers,
    execs,
    leases,
    modal_sandboxes,
    pytest_runs,
    simulated,
    sources,
    tasks,
    transfers,
    workers,
)
from tests.benchmarks.measuring import Row, table

SECTIONS: dict[str, Callable[..., Iterator[Row]]] = {
    "exec": execs.single,
    "lease": leases.warm,
    "ready": leases.ready,
    "tasks": tasks.threads,
    "suite": tasks.suites,
    "files": transfers.files,
    "kill": pytest_runs.killed,
    "unused": pytest_runs.unused,
    "pool": simulated.pools,
    "throughput": execs.throughput,
    "docker-exec": containers.execs,
    "docker-throughput": containers.throughput,
    "docker-lease": containers.leases,
    "docker-keep": containers.first_leases,
    "docker-tasks": containers.tasks,
    "workspace-source": sources.filling,
    "modal-exec": modal_sandboxes.execs,
    "sharing": workers.sharing,
    "batch": batch.shards,
}


def main() -> None:
    """Run the sections asked for, all by default."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure: {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="few samples: half a minute instead of three")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(SECTIONS)
    if unknown:
        parser.error(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    rows: list[Row] = []
    for name in arguments.names or SECTIONS:
        begin = time.perf_counter()
        rows += SECTIONS[name](quick=arguments.quick)
        print(f"{name}: {time.perf_counter() - begin:.1f} s", file=sys.stderr)
    print(table(rows))


if __name__ == "__main__":
    main()

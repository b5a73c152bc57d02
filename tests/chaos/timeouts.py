"""Timeouts of hostile trees: `python -m tests.chaos.timeouts [count]` prints how late they were."""

from __future__ import annotations

import os
import random
import re
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from pytest_sandboxes import ExecTimeoutError, SandboxLostError, get_backend
from tests.chaos import leftovers

TREES = {
    "setsid daemons": "import os,time\nfor _ in range(5):\n if os.fork()==0:\n  os.setsid()\n  if os.fork(): os._exit(0)\ntime.sleep(1000)",
    "ignored signals": "import signal,time\nfor n in range(1,65):\n try: signal.signal(n,signal.SIG_IGN)\n except (OSError,ValueError): pass\ntime.sleep(1000)",
    "stopped children": "import os,signal,time\nfor _ in range(5):\n if os.fork()==0: os.kill(os.getpid(),signal.SIGSTOP)\ntime.sleep(1000)",
    "fork bomb": "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
    "setsid bomb": "import os\nwhile True:\n try:\n  if os.fork()==0: os.setsid()\n except OSError: pass",
    "output": "import os\nwhile True: os.write(1,b'x'*65536)",
    "closed streams": "import os,time\nos.close(1)\nos.close(2)\ntime.sleep(1000)",
}


def time_out(rounds: int, seed: int, limit: float = 0.3) -> list[float]:
    """Time out `rounds` hostile trees in one sandbox after another; return the seconds past each deadline."""
    choice = random.Random(seed)
    marker = f"timeouts-{os.getpid()}-{seed}"
    late: list[float] = []
    while len(late) < rounds:
        with get_backend("local").create_sandbox(
            workdir=f"/{marker}", output_limit=1000, pids=None
        ) as sandbox:
            for _ in range(min(10, rounds - len(late))):
                tree = choice.choice(list(TREES))
                began = time.perf_counter()
                try:
                    sandbox.exec("python3", "-I", "-S", "-c", TREES[tree], timeout=limit)
                except ExecTimeoutError:
                    late.append(time.perf_counter() - began - limit)
                except SandboxLostError as error:
                    noticed = re.search(r"was noticed (\d+\.\d) s late", str(error))
                    if noticed is None:
                        raise
                    late.append(float(noticed[1]))
                    break
                else:
                    raise AssertionError(f"{tree} ended before its deadline")
                # all that is left is the agent: had it missed anything, ps would see it
                seen = sandbox.exec("python3", "-I", "-S", "-c", _COUNT).stdout.strip()
                assert seen == "2", f"after {tree}: {seen} processes instead of agent and counter"
        leftovers.seconds_until_gone(marker, 10)
    return late


_COUNT = """
import os
alive = [p for p in os.listdir('/proc') if p.isdigit()]
print(sum(b') Z ' not in open('/proc/%s/stat' % p, 'rb').read() for p in alive))
"""


def main(count: int, workers: int = 2) -> None:
    """Time out `count` trees and print the figures."""
    with ThreadPoolExecutor(workers) as pool:
        late = [
            each for some in pool.map(time_out, [count // workers] * workers, range(workers)) for each in some
        ]
    late.sort()
    print(
        f"{len(late)} timeouts: {statistics.median(late) * 1000:.0f} ms past the deadline in the median, "
        f"{late[int(len(late) * 0.99) - 1] * 1000:.0f} ms at the 99th percentile, {late[-1] * 1000:.0f} ms at most"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)

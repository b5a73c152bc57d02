"""The first process of a sandbox of this machine's processes: starts what it is told to, and buries what has ended.

It is pid 1 of the sandbox's own PID namespace, so that its end is the end of all that runs there, whatever session or
group that has gone into; and it ends when the other end of its socket closes, as it does when the emulator is killed.
Requests and reports are JSON, one in each packet. Runs in the sandbox, out of reach of the project: stdlib only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from typing import Any

LARGEST_REQUEST = 1 << 20


class Init:
    """What runs, by the names that the emulator gives."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._running: dict[int, str] = {}

    def serve(self) -> None:
        """Do what comes until nobody is left to ask for anything."""
        deaths, wakeup = os.pipe()
        os.set_blocking(deaths, False)
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._say(ready=True)
        while True:
            ready = select.select([self._control.fileno(), deaths], [], [])[0]
            if deaths in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(deaths, 4096)
                self._bury()
            if self._control.fileno() in ready:
                packet, descriptors, _, _ = socket.recv_fds(self._control, LARGEST_REQUEST, 3)
                if not packet:
                    return
                self._obey(json.loads(packet), descriptors)

    def _obey(self, request: dict[str, Any], descriptors: list[int]) -> None:
        name = request["name"]
        if request["do"] == "kill":
            for pid, known in self._running.items():
                if known == name:
                    os.kill(pid, signal.SIGKILL)
            return
        try:
            process = subprocess.Popen(
                request["argv"],
                cwd=request["directory"],
                env=request["environment"],
                stdin=descriptors[0],
                stdout=descriptors[1],
                stderr=descriptors[2],
                process_group=0,  # of this session, see `process_host`
                restore_signals=True,
            )
        except (OSError, ValueError) as error:
            self._say(name=name, refused=str(error))
        else:
            process.returncode = 0  # it is buried with all others, not by its object
            self._running[process.pid] = name
            self._say(name=name, started=process.pid)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _bury(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            name = self._running.pop(pid, None)
            if name is not None:
                self._say(name=name, ended=os.waitstatus_to_exitcode(status))

    def _say(self, **report: Any) -> None:
        self._control.send(json.dumps(report).encode())


if __name__ == "__main__":
    Init(socket.socket(fileno=int(sys.argv[1]))).serve()

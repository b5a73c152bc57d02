"""Sandboxes in name only, `isolation: none`: an agent in a directory of its own, for code that is trusted."""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
from pathlib import Path

from pytest_sandboxes.backends.base import AgentSetup, KeptSlot, Launched, SlotSetup
from pytest_sandboxes.backends.bubblewrap import Interpreter
from pytest_sandboxes.backends.children import (
    END_TIMEOUT,
    complaint_of,
    disown,
    own_pidfd,
    reap,
    run_command,
)
from pytest_sandboxes.backends.ownership import Claim, new_scratch, remove_tree
from pytest_sandboxes.payload import bootstrap, payload

"""Of the names of directories that belong to a process, see `ownership`."""


class Bare(Launched):
    """An agent and its directory."""

    def __init__(
        self, stream: socket.socket, setup: AgentSetup, process: subprocess.Popen[bytes], scratch: Claim
    ) -> None:
        self.stream = stream
        self.setup = setup
        self.payload = payload(same_interpreter=True)
        self._process = process
        self._scratch = scratch
        self._complaint = ""

    def end(self) -> None:
        # its agent ends all that it has started when its stream ends, which it has
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT)
        reap(self._process)
        self.last_words()
        with contextlib.suppress(FileNotFoundError):
            remove_tree(self._scratch.path)
        self._scratch.release()

    def last_words(self) -> str:
        self._complaint = self._complaint or complaint_of(self._process)
        return self._complaint

    def keep(self, slot: SlotSetup) -> KeptSlot:
        # under a name that no later run sweeps
        folder = self._scratch.path.rename(self._scratch.path.with_name(f"kept-{self._scratch.path.name}"))
        self._scratch.release()
        disown(self._process)
        workspace = folder / Path(slot.workspace).name
        remove = f"rm -r {shlex.quote(str(folder))}"
        # whoever writes there may take a moment to go
        end = f"kill {self._process.pid}; {remove} || (sleep 1; {remove})"
        return KeptSlot(f"cd {shlex.quote(str(workspace))}", end, lambda: run_command(end))


def launch() -> Bare:
    """Start an agent without isolation. Raises OSError when there is no room for its directory."""
    interpreter = Interpreter.current()
    scratch = new_scratch()
    folders = {name: str(scratch.path / name) for name in ("workspace", "home", "tmp")}
    no_environment: dict[str, str] = {}
    ours, theirs = socket.socketpair()
    with theirs, own_pidfd() as controller:
        try:
            process = subprocess.Popen(
                [interpreter.executable, "-I", "-S", "-E", "-c", bootstrap(same_interpreter=True)],
                stdin=theirs.fileno(),
                stdout=controller,
                stderr=subprocess.PIPE,
                cwd="/",
                env=no_environment,
                start_new_session=True,
            )
        except OSError:
            ours.close()
            remove_tree(scratch.path)
            scratch.release()
            raise
    setup = AgentSetup(
        (SlotSetup(folders["workspace"], directories=tuple(folders.values())),),
        {
            "PATH": interpreter.path,
            "HOME": folders["home"],
            "TMPDIR": folders["tmp"],
            "LANG": "C.UTF-8",
        },
    )
    return Bare(ours, setup, process, scratch)

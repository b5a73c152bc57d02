"""Runnables that are this machine's processes: each in namespaces of its own, on the disk of its VM, and in a clean environment.

They see this machine's programs, read-only, and its network. They are a user of the VM's own: for root, one whom nobody else
is; for an ordinary user, that user, because there are no others to become.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_sandboxes.backends import bubblewrap
from tests.emulators.descriptors import until_readable
from tests.emulators.gcp.machines import CannotStartError, Command, Host, Machine, Process
from tests.interpreters import is_public

_START = 20
"""Seconds from the start of bwrap until its process runs."""
_SCRIPT = "/run/batch/script"
_HOME = "/home"
_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = (
    *("alternatives", "ca-certificates", "ld.so.cache", "localtime", "os-release", "protocols", "services"),
    *("ssl/certs", "ssl/openssl.cnf"),
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ProcessHost(Host):
    """Starts bwrap for each runnable."""

    def __init__(self, directory: Path, user: int | None, python: str) -> None:
        """`directory` is for the files that VMs share; `user` is who they are, None for the caller.

        `python` is a copy of this Python's installation, which they see in its place; empty for none.
        """
        self._user = user
        self._bwrap = str(bubblewrap.find())
        interpreter = bubblewrap.Interpreter.current()
        prefix = interpreter.prefix
        own = prefix not in ("/usr", "/usr/local") and (
            bool(python) or user is None or is_public(Path(prefix))
        )
        self._python = ["--ro-bind", python or prefix, prefix] if own else []
        self._path = interpreter.path if own else _PATH
        self._files = directory
        number = os.getuid() if user is None else user
        contents = {
            "passwd": f"root:x:0:0:root:/root:/bin/sh\nbatch:x:{number}:{number}:batch:{_HOME}:/bin/sh\n",
            "group": f"root:x:0:\nbatch:x:{number}:\n",
            "hosts": "127.0.0.1 localhost\n::1 localhost\n",
            "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        }
        directory.mkdir(mode=0o755)
        for name, content in contents.items():
            (directory / name).write_text(content)
            (directory / name).chmod(0o644)
        self._etc = tuple(contents)

    async def start(self, machine: Machine, command: Command) -> Process:
        """Start a script, as the service's agent does: by `/bin/sh` where it does not name an interpreter."""
        # killed half-way, bwrap leaves a process that waits for it for ever
        launch = asyncio.create_task(self._launch(machine, command))
        try:
            return await asyncio.shield(launch)
        except asyncio.CancelledError:
            await (await launch).end()
            raise

    async def _launch(self, machine: Machine, command: Command) -> Process:
        script = command.runnable["script"]
        words = self._arguments(machine)
        if "text" in script:
            place = machine.directory / f"script-{len(list(machine.directory.iterdir()))}"
            text = script["text"]
            place.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}")
            place.chmod(0o755)
            words += ["--ro-bind", str(place), _SCRIPT, "--", _SCRIPT]
        else:  # it may lack permission to be run
            words += [
                "--",
                "/bin/sh",
                "-c",
                'if [ -x "$0" ]; then exec "$0"; else exec /bin/sh "$0"; fi',
                script["path"],
            ]
        environment = {"PATH": self._path, "HOME": _HOME, "LANG": "C.UTF-8", **command.environment}
        identity: dict[str, Any] = {}
        if self._user is not None:
            identity = {"user": self._user, "group": self._user, "extra_groups": []}
        info, info_there = os.pipe()
        try:
            with command.log.open("ab") as log:
                bwrap = await asyncio.create_subprocess_exec(
                    *(self._bwrap, "--info-fd", str(info_there), *words),
                    cwd="/",
                    env=environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[info_there],
                    start_new_session=True,
                    **identity,
                )
        except BaseException:
            os.close(info)
            raise
        finally:
            os.close(info_there)
        try:
            first = await _first_process(info)
        except TimeoutError as error:
            bwrap.kill()
            await bwrap.wait()
            raise CannotStartError(f"bwrap has not started it within {_START} s") from error
        if first is None and await bwrap.wait():
            raise CannotStartError(command.log.read_text(errors="replace").strip())
        process = _Sandboxed(bwrap, first, machine)
        machine.processes.add(process)
        return process

    def _arguments(self, machine: Machine) -> list[str]:
        words = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent"]
        words += ["--new-session", "--hostname", machine.name, "--chdir", _HOME]
        words += ["--bind", str(machine.disk), "/", "--ro-bind", "/usr", "/usr"]
        for path in _LINKS:
            if os.path.islink(path):  # made here, because bwrap fails where another one has made it before
                with suppress(FileExistsError):
                    os.symlink(os.readlink(path), machine.disk / path[1:])
            elif os.path.isdir(path):
                words += ["--ro-bind", path, path]
        for path in _ETC:
            words += ["--ro-bind-try", f"/etc/{path}", f"/etc/{path}"]
        for name in self._etc:
            words += ["--ro-bind", str(self._files / name), f"/etc/{name}"]
        return [*words, *self._python, "--proc", "/proc", "--dev", "/dev"]


class _Sandboxed(Process):
    """A bwrap, and the first process of its namespace of processes."""

    def __init__(self, bwrap: asyncio.subprocess.Process, first: int | None, machine: Machine) -> None:
        self._bwrap = bwrap
        self._first = first
        self._machine = machine
        self._burial: asyncio.Task[None] | None = None

    async def wait(self) -> int:
        """Bwrap's exit code is that of what it has run."""
        code = await self._bwrap.wait()
        await self.end()
        return 128 - code if code < 0 else code

    async def end(self) -> None:
        """Kill the namespace's first process: it is not dead before all others in it are."""
        if self._burial is None:
            self._burial = asyncio.create_task(self._bury())
        await asyncio.shield(self._burial)

    async def _bury(self) -> None:
        if self._first is not None:
            try:
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
            except ProcessLookupError:
                pass
            await until_readable(self._first)
            os.close(self._first)
        await self._bwrap.wait()
        self._machine.processes.discard(self)


async def _first_process(info: int) -> int | None:
    """A descriptor of it, None if it has ended already, or never was."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    pipe = os.fdopen(info, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        async with asyncio.timeout(_START):
            told = await reader.read()
        return os.pidfd_open(json.loads(told)["child-pid"]) if told else None
    except ProcessLookupError:
        return None
    finally:
        transport.close()

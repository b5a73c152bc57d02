"""Sandboxes of this machine's processes: each in namespaces of its own, with this machine's programs and Python.

For root, code in a sandbox is root without most capabilities, and can become any other user, as it can in a container.
For an ordinary user it is that user, who is called root there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modal_proto import api_pb2 as api

from pytest_sandboxes.backends import bubblewrap
from tests.emulators.descriptors import until_readable
from tests.emulators.modal.hosts import CannotStartError, Child, Command, Guest, Host, Recipe
from tests.emulators.modal.init import LARGEST_REQUEST

_INIT = Path(__file__).with_name("init.py")
_INIT_THERE = "/__modal/init.py"
_START = 20
"""Seconds from the start of bwrap until the sandbox's first process answers."""
_IMAGE_COMMAND = ("sleep", "172800")
"""What `Image.debian_slim` runs where nothing else is asked for (modal/_image.py)."""
_ROOT_BYTES = 1 << 30
_CAPABILITIES = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE"),
    *("CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT"),
)
"""What Docker gives to root in a container, but for devices, raw sockets and the audit log."""
_KERNEL_SETTINGS = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")
_KERNEL_SECRETS = ("/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/timer_list")
_ETC_FILES = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
}


class ProcessHost(Host):
    """Has no images: they are taken for built, and what they say is not run."""

    def __init__(self, directory: Path) -> None:
        """`directory` holds volumes and the files of /etc; it is there, and is removed by someone else."""
        self._directory = directory
        self._bwrap = str(bubblewrap.find())
        self._interpreter = bubblewrap.Interpreter.current()
        self._failing_builds: dict[str, str] = {}
        etc = directory / "etc"
        etc.mkdir()
        for name, content in _ETC_FILES.items():
            (etc / name).write_text(content)

    async def start(self, recipe: Recipe) -> Guest:
        """Start bwrap, and in it the first process, which starts all others."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST_REQUEST)
        ours.settimeout(0)
        info, info_there = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(self._bwrap, "--info-fd", str(info_there), *self._arguments(recipe)),
                *("--", self._interpreter.executable, "-I", "-S", _INIT_THERE, str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=[theirs.fileno(), info_there],
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(info_there)
        _put_first(process.pid)
        guest = ProcessGuest(process, ours, self._environment(recipe))
        try:
            async with asyncio.timeout(_START):
                main = replace(recipe.main, argv=recipe.main.argv or _IMAGE_COMMAND)
                await guest.begin(await _reader(info), main)
        except BaseException:
            await guest.end()
            raise
        return guest

    async def build(
        self, image_id: str, definition: api.Image, context: Mapping[str, bytes]
    ) -> AsyncIterator[str]:
        """Say what would be done, and fail if that is asked for."""
        commands = list(definition.dockerfile_commands)
        for number, command in enumerate(commands, 1):
            yield f"Step {number}/{len(commands)} : {command}\n"
        for text, log in self._failing_builds.items():
            if any(text in command for command in commands):
                yield log
                raise CannotStartError(f"a command with {text!r} in it has failed")

    def fail_builds(self, containing: str, log: str) -> None:
        """From now on."""
        self._failing_builds[containing] = log

    def _environment(self, recipe: Recipe) -> dict[str, str]:
        return {"PATH": self._interpreter.path, "HOME": "/root", "MODAL_SANDBOX_ID": recipe.sandbox_id}

    def _arguments(self, recipe: Recipe) -> list[str]:
        words = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent", "--as-pid-1"]
        words += ["--new-session", "--clearenv", "--hostname", "modal", "--chdir", "/", "--cap-drop", "ALL"]
        for name in _CAPABILITIES:
            words += ["--cap-add", name]
        if os.geteuid() != 0:
            words += ["--unshare-user", "--uid", "0", "--gid", "0"]
        if not recipe.networked:
            words += ["--unshare-net"]
        words += [*self._programs(), *_kernel_files()]
        for path in ("/tmp", "/var/tmp", "/dev/shm"):
            words += ["--perms", "1777", "--tmpfs", path]
        words += ["--ro-bind", str(_INIT), _INIT_THERE]
        for volume in recipe.volumes:
            place = self._directory / "volumes" / volume.volume_id
            place.mkdir(parents=True, exist_ok=True)
            words += ["--ro-bind" if volume.read_only else "--bind", str(place), volume.path]
        return words

    def _programs(self) -> list[str]:
        """This machine's programs and libraries, with its Python, and a root directory of the sandbox's own."""
        prefix = Path(self._interpreter.prefix)
        words = ["--size", str(_ROOT_BYTES), "--tmpfs", "/"]
        # made as they are needed, they would be closed to all but root
        for path in ("/etc", "/root", "/var", *sorted(map(str, prefix.parents))):
            words += ["--dir", path]
        words += ["--ro-bind", "/usr", "/usr"]
        for path in ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"):
            if os.path.islink(path):
                words += ["--symlink", os.readlink(path), path]
            elif os.path.isdir(path):
                words += ["--ro-bind", path, path]
        for path in ("alternatives", "ld.so.cache", "localtime", "ssl/certs", "ssl/openssl.cnf"):
            words += ["--ro-bind-try", f"/etc/{path}", f"/etc/{path}"]
        for name in _ETC_FILES:
            words += ["--ro-bind", str(self._directory / "etc" / name), f"/etc/{name}"]
        if not prefix.is_relative_to("/usr"):
            words += ["--ro-bind", str(prefix), str(prefix)]
        return words


class ProcessGuest(Guest):
    """A bwrap, and the socket to the first process in it."""

    def __init__(
        self, process: asyncio.subprocess.Process, control: socket.socket, environment: Mapping[str, str]
    ) -> None:
        self._process = process
        self._control = control
        self._environment = environment
        self._first: int | None = None
        self._children: dict[str, ProcessChild] = {}
        self._reports = asyncio.create_task(self._listen())
        self._is_up = asyncio.get_running_loop().create_future()

    async def begin(self, info: asyncio.StreamReader, main: Command) -> None:
        """Wait for the first process, and start the main command."""
        told = await info.read()
        if told:
            self._first = os.pidfd_open(json.loads(told)["child-pid"])
        if not told or not await self._is_up:
            assert self._process.stderr is not None
            raise CannotStartError((await self._process.stderr.read()).decode(errors="replace"))
        self.main = await self.spawn(main)

    async def spawn(self, command: Command) -> Child:
        """Have the first process start it."""
        name = str(len(self._children))
        request = {
            "do": "start",
            "name": name,
            "argv": list(command.argv),
            "directory": command.directory or "/",
            "environment": {**self._environment, **command.environment},
        }
        pipes = [os.pipe() for _ in range(3)]
        (stdin_there, stdin), (stdout, stdout_there), (stderr, stderr_there) = pipes
        child = self._children[name] = ProcessChild(self, name, stdin)
        try:
            packet = json.dumps(request).encode()
            socket.send_fds(self._control, [packet], [stdin_there, stdout_there, stderr_there])
        except OSError as error:
            child.close_stdin()
            os.close(stdout)
            os.close(stderr)
            raise CannotStartError(f"the sandbox takes no more commands: {error.strerror}") from error
        finally:
            for descriptor in (stdin, stdin_there, stdout_there, stderr_there):
                os.close(descriptor)
        child.stdout, child.stderr = await _reader(stdout), await _reader(stderr)
        refusal = await child.started
        if refusal is not None:
            child.close_stdin()
            raise CannotStartError(refusal)
        return child

    def kill(self, name: str) -> None:
        """Kill one of the commands; one that has ended is none."""
        try:
            self._control.send(json.dumps({"do": "kill", "name": name}).encode())
        except OSError:
            pass  # all have ended

    async def end(self) -> None:
        """Kill the namespace's first process: it is not dead before all others in it are."""
        if self._first is not None:
            try:
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
            except ProcessLookupError:
                pass
            await until_readable(self._first)
            os.close(self._first)
            self._first = None
        elif self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reports
        self._control.close()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        while packet := await self._receive(loop):
            report: dict[str, Any] = json.loads(packet)
            if "ready" in report:
                _settle(self._is_up, result=True)
                continue
            child = self._children[report["name"]]
            if "ended" in report:
                _settle(child.ended, report["ended"])
            else:
                _settle(child.started, report.get("refused"))
        _settle(self._is_up, result=False)
        for child in self._children.values():
            _settle(child.started, "the sandbox has ended")
            _settle(child.ended, -signal.SIGKILL)

    async def _receive(self, loop: asyncio.AbstractEventLoop) -> bytes:
        try:
            return await loop.sock_recv(self._control, LARGEST_REQUEST)
        except ConnectionError:
            return b""


class ProcessChild(Child):
    """A command that the first process has started."""

    def __init__(self, guest: ProcessGuest, name: str, stdin: int) -> None:
        super().__init__(stdin)
        self._guest = guest
        self._name = name
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[str | None] = loop.create_future()
        """Why it did not start, or None."""
        self.ended: asyncio.Future[int] = loop.create_future()

    async def wait(self) -> int:
        """As the first process reports it."""
        return await asyncio.shield(self.ended)

    async def kill(self) -> None:
        """By the first process, which knows whether it still runs."""
        self._guest.kill(self._name)


def _kernel_files() -> list[str]:
    """Those of /proc and /dev; root without capabilities owns them as any root does, and could set up this machine."""
    words = ["--proc", "/proc", "--dev", "/dev"]
    for path in filter(os.path.exists, _KERNEL_SETTINGS):
        words += ["--ro-bind", path, path]
    for path in filter(os.path.exists, _KERNEL_SECRETS):
        words += ["--ro-bind", "/dev/null", path]
    return words


def _settle(future: asyncio.Future[Any], result: object) -> None:
    """Let it have a result, unless it has one, or nobody waits for it any more."""
    if not future.done():
        future.set_result(result)


async def _reader(descriptor: int) -> asyncio.StreamReader:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


def _put_first(leader: int) -> None:
    """Have the kernel share this machine in favour of a sandbox's session, in which are its agent and its main command.

    Each session gets as much as any other where nobody has made control groups: an agent beside hundreds of sessions of
    hostile code would stand still. The service's sandboxes have cores, and a scheduler, of their own.
    """
    with contextlib.suppress(OSError):  # the kernel shares in another way, or only root may
        Path(f"/proc/{leader}/autogroup").write_text("-20")

"""What answers a connection in place of an agent: each request becomes an exec in a container that has a shell only."""

from __future__ import annotations

import contextlib
import posixpath
import select
import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from pytest_sandboxes.agent import wire
from pytest_sandboxes.agent.clock import Clock
from pytest_sandboxes.backends.docker.bridge import close_in_forked_children
from pytest_sandboxes.backends.docker.shell import tasks
from pytest_sandboxes.backends.docker.shell.execs import Exec, ExecError
from pytest_sandboxes.backends.docker.shell.file_jobs import FileJob, ListJob
from pytest_sandboxes.backends.docker.shell.jobs import Job, Popen
from pytest_sandboxes.backends.docker.shell.listing import Listing
from pytest_sandboxes.backends.docker.shell.main_loop import MainLoop
from pytest_sandboxes.backends.docker.shell.place import ENDED, LossError

if TYPE_CHECKING:
    import docker

_READ = 1 << 16
_END_TIMEOUT = 10.0
"""Seconds in which what has been killed has to be gone: on a machine that has other things to do, behind the ends of
all that ends at the same time."""
_COUNT_TIMEOUT = 10.0  # seconds in which a count has come, after what else the main command is doing
_LOOK_AGAIN = 0.005
_SEND_TIMEOUT = 60.0  # seconds for the other end, which is a thread of this process
_CLOSE_TIMEOUT = 10.0
_NO_FILES = (
    "has no Python for an agent: archives, uploads and downloads need an image with Python 3.8 or newer"
)


class StandIn:
    """Serves one slot of one container, on a thread of its own and one for each request under way.

    `near` is the end for the connection; it ends with the container, and the container's main command with it.
    """

    def __init__(
        self,
        api: docker.APIClient,
        container: str,
        main: socket.socket,
        *,
        user: str,
        image: str,
        counts_oom_kills: bool,
    ) -> None:
        self._api = api
        self._container = container
        self._user = user
        self._image = image
        self._main = main
        self._counts_oom_kills = counts_oom_kills
        self._loop = MainLoop(main)
        self.near, self._far = socket.socketpair()
        self._poll = select.poll()  # here, because who closes this may be faster than its thread
        self._far_descriptor = self._far.fileno()
        for end in (main, self._far):
            close_in_forked_children(end)
            self._poll.register(end, select.POLLIN)
        self._far.settimeout(_SEND_TIMEOUT)
        self._sending = threading.Lock()
        self._numbers = wire.Numbering()
        self._state = threading.Condition()
        self._jobs: dict[int, tuple[Job, threading.Thread]] = {}
        self._running: set[Job] = set()
        self._ending_all = False
        self._lost = False
        self._clock = Clock()
        self._workspace = b"/"
        self._variables: dict[bytes, bytes | None] = {}
        self.reason = ""
        """Why it has given the container up, empty if it has not."""
        self._thread = threading.Thread(target=self._serve, name=f"sandboxes-{container[:12]}", daemon=True)

    def start(self) -> None:
        """Begin to serve; greets once the container's main command has shown that it ends other processes."""
        self._thread.start()

    def close(self) -> None:
        """Wait, a few seconds at most, until its threads have ended. The container has to be gone."""
        self._shut()
        with self._state:
            threads = [thread for _, thread in self._jobs.values()]
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        for thread in (self._thread, *threads):
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def complaint(self) -> str:
        """What the container's main command has said on standard error."""
        return self._loop.complaint

    # -- for jobs

    def send(self, kind: int, number: int, payload: bytes = b"") -> None:
        """See `Place.send`."""
        with self._sending, contextlib.suppress(OSError):  # the connection has been closed
            self._far.sendall(wire.frame(kind, number, payload, self._numbers.next()))

    def start_exec(self, argv: list[bytes], environment: Mapping[bytes, bytes], *, stdin: bool) -> Exec:
        """See `Place.start_exec`."""
        return Exec(self._api, self._container, argv, user=self._user, environment=environment, stdin=stdin)

    def end_tree(self, job: Job) -> None:
        """See `Place.end_tree`."""
        with self._state:
            # what else runs does not end with it, and nothing else starts while everything is being ended
            alone = self._running == {job} and not self._ending_all
            self._ending_all = self._ending_all or alone
        deadline = time.monotonic() + _END_TIMEOUT
        try:
            order = "all" if alone else f"tree {job.process}"
            while True:
                if self._loop.order(order).result(max(0.0, deadline - time.monotonic())) == 0:
                    return
                if time.monotonic() > deadline:
                    raise LossError("processes of a command outlive it")
                time.sleep(_LOOK_AGAIN)
        except TimeoutError:
            raise LossError("its main command does not end the processes of others") from None
        except ConnectionError as error:
            raise LossError(str(error)) from None
        finally:
            if alone:
                with self._state:
                    self._ending_all = False
                    self._state.notify_all()

    def oom_kills(self) -> int:
        """See `Place.oom_kills`."""
        if not self._counts_oom_kills:
            return 0
        try:
            return self._loop.order("oom").result(_COUNT_TIMEOUT)
        except TimeoutError:
            raise LossError("its main command does not count what the memory limit has ended") from None
        except ConnectionError as error:
            raise LossError(str(error)) from None

    def now(self) -> float:
        """See `Place.now`."""
        with self._state:
            return self._clock.now()

    # -- its thread

    def _serve(self) -> None:
        self._loop.order("all").add_done_callback(self._greet)
        frames = wire.FrameReader()
        try:
            while not self._lost:
                for descriptor, _ in self._poll.poll(1000):
                    if descriptor == self._far_descriptor:
                        data = self._far.recv(_READ)
                        if not data:
                            return
                        for kind, number, content in frames.feed(data):
                            self._received(kind, number, content)
                    else:
                        try:
                            data = self._main.recv(_READ)
                        except ConnectionResetError:  # an order was still unread
                            data = b""
                        if not data:
                            self.reason = self.reason or ENDED
                            return
                        self._loop.feed(memoryview(data))
        except (OSError, wire.ProtocolError) as error:
            self.reason = self.reason or str(error)
        finally:
            self._shut()

    def _greet(self, answered: Future[int]) -> None:
        if answered.exception() is not None:
            return
        if answered.result() == 0:
            self.send(wire.HELLO, 0, wire.encode({"protocol": 1}))
        else:  # what has been killed may not be gone yet; whoever waits for the greeting has a deadline
            self._loop.order("all").add_done_callback(self._greet)

    def _received(self, kind: int, number: int, content: bytes) -> None:
        if kind == wire.REQUEST:
            self._request(number, wire.decode_dict(content))
        elif kind == wire.PING:
            self._loop.order("beat").add_done_callback(lambda done: self._pong(done, number))
        elif kind == wire.PAUSE:
            with self._state:
                self._clock.stop()
        elif kind == wire.RESUME:
            with self._state:
                self._clock.go_on()
        else:
            with self._state:
                job, _ = self._jobs.get(number, (None, None))
            if job is not None:  # else it ended while this frame was under way
                self._steer(job, kind, content)

    def _pong(self, answered: Future[int], number: int) -> None:
        if answered.exception() is None:
            self.send(wire.PONG, number)

    def _steer(self, job: Job, kind: int, content: bytes) -> None:
        if kind == wire.STDIN:
            job.put(content)
        elif kind == wire.STDIN_END:
            job.end_input()
        elif kind == wire.CREDIT:
            job.grant(content[0], int.from_bytes(content[1:], "big"))
        elif kind == wire.KILL:
            job.kill()

    def _request(self, number: int, message: dict[str, Any]) -> None:
        operation = message["op"]
        if operation == "configure":
            self._configure(message)
            self._answer(number, {})
        elif operation == "keep":
            kept = self._loop.order(f"keep {int(message['seconds'])}")
            kept.add_done_callback(
                lambda done: self._answer(number, {} if done.exception() is None else {"error": "OSError"})
            )
        elif operation == "file" and message["action"] not in ("read", "write", "list"):
            self._answer(
                number, {"error": "UnsupportedError", "message": f"image {self._image!r} {_NO_FILES}"}
            )
        else:
            self._start(self._job(number, message))

    def _answer(self, number: int, answer: dict[str, object]) -> None:
        self.send(wire.RESULT, number, wire.encode(answer))

    def _configure(self, message: dict[str, Any]) -> None:
        workspace, own, _, _ = message["slots"][0]
        self._workspace = workspace
        self._variables = dict(message["environment"] + own)

    def _job(self, number: int, message: dict[str, Any]) -> Job:
        if message["op"] != "file":
            task = tasks.command(message, self._workspace, self._variables)
            return (Popen if message["op"] == "popen" else Job)(self, number, task)
        path = posixpath.join(self._workspace, message["path"])
        if message["action"] == "list":
            return ListJob(self, number, tasks.list_files(message, path), Listing(message["entries"]))
        return FileJob(
            self, number, (tasks.read if message["action"] == "read" else tasks.write)(message, path)
        )

    def _start(self, job: Job) -> None:
        thread = threading.Thread(target=lambda: self._run(job), name=self._thread.name, daemon=True)
        with self._state:
            self._jobs[job.number] = job, thread
        thread.start()

    # -- a job's thread

    def _run(self, job: Job) -> None:
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        try:
            self._enter(job)
            job.run()
        except (LossError, ExecError, wire.ProtocolError) as error:
            self._lose(str(error))
        except (DockerException, RequestException, OSError) as error:
            self._lose(f"the Docker Engine failed: {error}")
        except BaseException as error:
            self._lose(f"{type(error).__name__}: {error}")
            raise
        finally:
            with self._state:
                self._running.discard(job)
                self._jobs.pop(job.number, None)
            job.close()

    def _enter(self, job: Job) -> None:
        """Wait until nothing is being ended that would take what is just starting along."""
        with self._state:
            if not self._state.wait_for(lambda: not self._ending_all, 2 * _END_TIMEOUT):
                raise LossError("processes of a command outlive it")
            self._running.add(job)

    def _lose(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._lost = True
        with contextlib.suppress(OSError):
            self._far.shutdown(socket.SHUT_RDWR)

    def _shut(self) -> None:
        """End what is under way; what is left of the container has to end with its input."""
        self._lost = True
        self._loop.end()
        with self._state:
            jobs = [job for job, _ in self._jobs.values()]
        for job in jobs:
            job.abandon()
        for end in (self._far, self._main):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

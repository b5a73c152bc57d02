"""The command router's calls: commands in sandboxes, and their streams (modal/sandbox/_task_command_router_client.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from grpclib import GRPCError, Status
from grpclib.server import Stream
from modal_proto import task_command_router_pb2 as tcr

from tests.emulators.modal.calls import answers, takes_requests
from tests.emulators.modal.execs import Exec, Output
from tests.emulators.modal.faults import INPUT, START, STATUS
from tests.emulators.modal.hosts import Command
from tests.emulators.modal.lies import Lies
from tests.emulators.modal.sandbox import Sandbox
from tests.emulators.modal.sandboxes import Sandboxes
from tests.emulators.modal.secrets_and_volumes import Secrets


class Router:
    """Answers for all sandboxes; the service has one router for each machine."""

    def __init__(self, sandboxes: Sandboxes, named_secrets: Secrets, lies: Lies) -> None:
        self._sandboxes = sandboxes
        self._secrets = named_secrets
        self._lies = lies
        self._strayed: dict[str, Sandbox] = {}
        """Where commands run that are elsewhere than they should be, by their ids."""

    @answers("TaskExecStart")
    async def start(self, request: tcr.TaskExecStartRequest) -> tcr.TaskExecStartResponse:
        """Start a command; `exec_id` is the client's, and tells a retry from another command (`exec_via_tcr`)."""
        if request.container_id or request.HasField("pty_info"):
            raise GRPCError(Status.UNIMPLEMENTED, "The emulator has neither sidecars nor terminals")
        sandbox = self._sandboxes.find_task(request.task_id)
        given = self._secrets.resolve(request, request.secret_ids, request.env)
        directory = request.workdir or sandbox.definition.workdir
        command = Command(list(request.command_args), {**sandbox.environment, **given}, directory)
        place = sandbox
        if self._lies.take(START, sandbox.sandbox_id):
            place = next(each for each in self._sandboxes.running() if each is not sandbox)
            self._strayed[request.exec_id] = place
        await place.exec(request.exec_id, command, request.timeout_secs)
        started = await place.find_exec(request.exec_id)
        if request.stdout_config == tcr.TASK_EXEC_STDOUT_CONFIG_DEVNULL:
            await started.stdout.drop_unread()
        if request.stderr_config == tcr.TASK_EXEC_STDERR_CONFIG_DEVNULL:
            await started.stderr.drop_unread()
        return tcr.TaskExecStartResponse()

    @answers("TaskExecStdioRead")
    async def read(
        self, request: tcr.TaskExecStdioReadRequest
    ) -> AsyncIterator[tcr.TaskExecStdioReadResponse]:
        """An output from an offset on; an empty piece is an error to the client (modal/io_streams.py)."""
        running = await self._find(request.task_id, request.exec_id)
        is_stdout = request.file_descriptor == tcr.TASK_EXEC_STDIO_FILE_DESCRIPTOR_STDOUT
        pieces: AsyncIterator[bytes]
        if is_stdout:
            whole = _pieces(running.stdout, self._lies.offset(request.exec_id, request.offset))
            sandbox = self._sandboxes.find_task(request.task_id).sandbox_id
            pieces = self._lies.output(whole, request.exec_id, sandbox)
        else:
            pieces = _pieces(running.stderr, request.offset)
        async for data in pieces:
            yield tcr.TaskExecStdioReadResponse(data=data)

    @answers("TaskExecStdinWrite")
    async def write(self, request: tcr.TaskExecStdinWriteRequest) -> tcr.TaskExecStdinWriteResponse:
        """Input from an offset on, what has come before left out; returns when the command's pipe has taken it."""
        sandbox = self._sandboxes.find_task(request.task_id)
        sandbox.note_activity()
        running = await self._find(request.task_id, request.exec_id)
        if self._lies.take(INPUT, sandbox.sandbox_id):
            running.swallow(request.data)
        else:
            await running.write(request.offset, request.data, eof=request.eof)
        return tcr.TaskExecStdinWriteResponse()

    @takes_requests("TaskExecStdinWriteStream")
    async def write_all(
        self, first: tcr.TaskExecStdinWriteStreamRequest, requests: Stream[Any, Any]
    ) -> tcr.TaskExecStdinWriteStreamResponse:
        """The same in one call; only an explicit end is one (`_exec_stdin_write_stream`)."""
        running = await self._find(first.start.task_id, first.start.exec_id)
        offset = first.start.offset
        async for request in requests:
            await running.write(offset, request.data, eof=request.HasField("end"))
            offset += len(request.data)
        return tcr.TaskExecStdinWriteStreamResponse()

    @answers("TaskExecStdinStatus")
    async def status(self, request: tcr.TaskExecStdinStatusRequest) -> tcr.TaskExecStdinStatusResponse:
        """How far the input has come (`exec_stdin_status`)."""
        running = await self._find(request.task_id, request.exec_id)
        return tcr.TaskExecStdinStatusResponse(
            num_bytes_written=running.written, closed=running.input_is_closed
        )

    @answers("TaskExecWait")
    async def wait(self, request: tcr.TaskExecWaitRequest) -> tcr.TaskExecWaitResponse:
        """Wait for a command's end; NOT_FOUND once its sandbox has ended (`exec_wait`, Safety)."""
        sandbox = self._sandboxes.find_task(request.task_id)
        running = await self._find(request.task_id, request.exec_id)
        if self._lies.take(STATUS, sandbox.sandbox_id):
            return tcr.TaskExecWaitResponse(code=0)
        await asyncio.wait([running.ending])
        self._check_lives(sandbox)
        code = running.ending.result()
        return tcr.TaskExecWaitResponse(signal=-code) if code < 0 else tcr.TaskExecWaitResponse(code=code)

    @answers("TaskExecPoll")
    async def poll(self, request: tcr.TaskExecPollRequest) -> tcr.TaskExecPollResponse:
        """The same without waiting; without a status while it runs (modal/container_process.py, `poll`)."""
        running = await self._find(request.task_id, request.exec_id)
        if not running.ending.done():
            return tcr.TaskExecPollResponse()
        code = running.ending.result()
        return tcr.TaskExecPollResponse(signal=-code) if code < 0 else tcr.TaskExecPollResponse(code=code)

    @answers("SandboxStdioReadV2")
    async def read_main(
        self, request: tcr.SandboxStdioReadV2Request
    ) -> AsyncIterator[tcr.SandboxStdioReadV2Response]:
        """An output of the main command, also after its end; the oldest may be gone (`sandbox_stdio_read`)."""
        main = self._sandboxes.find_task(request.task_id, ended=True).main
        is_stdout = request.file_descriptor == tcr.SANDBOX_STDIO_FILE_DESCRIPTOR_STDOUT
        output = main.stdout if is_stdout else main.stderr
        async for offset, data in output.read(request.offset):
            yield tcr.SandboxStdioReadV2Response(data=data, starting_offset=offset)

    @answers("SandboxStdinWriteV2")
    async def write_main(self, request: tcr.SandboxStdinWriteV2Request) -> tcr.SandboxStdinWriteV2Response:
        """Input of the main command."""
        sandbox = self._sandboxes.find_task(request.task_id)
        sandbox.note_activity()
        await sandbox.main.write(request.offset, request.data, eof=request.eof)
        return tcr.SandboxStdinWriteV2Response()

    async def _find(self, task_id: str, exec_id: str) -> Exec:
        sandbox = self._sandboxes.find_task(task_id)
        return await self._strayed.get(exec_id, sandbox).find_exec(exec_id)

    @staticmethod
    def _check_lives(sandbox: Sandbox) -> None:
        if not sandbox.is_running:
            raise GRPCError(Status.NOT_FOUND, f"Task {sandbox.task_id} not found")


async def _pieces(output: Output, start: int) -> AsyncGenerator[bytes, None]:
    async for offset, data in output.read(start):
        if offset != start:
            raise GRPCError(Status.DATA_LOSS, f"Output before {offset} is kept no more")
        start += len(data)
        yield data

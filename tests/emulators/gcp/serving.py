"""A port where a service can be reached by HTTP, until it cannot."""

from __future__ import annotations

from aiohttp import web

from tests.emulators.gcp.calls import Desk, Request
from tests.emulators.gcp.errors import DroppedError

_FAREWELL = 0.1
"""Seconds for answers that are under way when a port is closed."""


class Port:
    """One service at one address."""

    def __init__(self, desk: Desk, host: str) -> None:
        self._desk = desk
        self._host = host
        self._number = 0
        self._runner: web.ServerRunner | None = None

    @property
    def address(self) -> str:
        """Where it is, or was: host and port."""
        return f"{self._host}:{self._number}"

    async def open(self) -> None:
        """Listen, at a port that is free, or again at the one of before."""
        runner = web.ServerRunner(web.Server(self._serve), shutdown_timeout=_FAREWELL)
        self._runner = runner  # so that it is closed whatever happens
        await runner.setup()
        site = web.TCPSite(runner, self._host, self._number)
        await site.start()
        self._number = runner.addresses[0][1]

    async def close(self) -> None:
        """Do not listen, and cut all connections."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        # not request.read(), which takes a megabyte at most
        body = await request.content.read()
        origin = f"http://{request.host}"
        parsed = Request.parse(request.method, request.raw_path, request.headers, body, origin)
        try:
            reply = await self._desk.answer(parsed)
        except DroppedError:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        return web.Response(body=reply.body, status=reply.status, headers=reply.headers)

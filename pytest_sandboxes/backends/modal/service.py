"""The service, as one client of it is used here: on one thread of ours, each call with a deadline of ours.

The client runs everything on an event loop of its own, and a call of its synchronous kind holds the thread that makes
it for as long as it likes. So ours are those of its asynchronous kind, made from one loop that the backend owns:
hundreds of streams take one thread, and each call can be given up.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import re
from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_sandboxes.backends.modal import trust
from pytest_sandboxes.backends.modal.errors import NoAnswerError, start_error
from pytest_sandboxes.backends.modal.probing import probe
from pytest_sandboxes.backends.once import Once
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import (
    BackendUnavailableError,
    ConfigurationError,
    CredentialsRefusedError,
    SandboxStartError,
    ServiceUnavailableError,
)
from pytest_sandboxes.io_thread import IOThread

if TYPE_CHECKING:
    import modal

CALL_TIMEOUT = 30.0
"""Seconds that an ordinary call may take, the client's own attempts included."""
_MARGIN = 5.0  # seconds for a call that is given up to notice
FAREWELL = 5.0
"""Seconds for which the end of the run waits for what is just being created."""
_CONNECT_TIMEOUT = 120.0
_GREETING_TIMEOUT = 10.0

_OLDEST = 1, 6
"""The first version of the client that will do, as the extra `modal` asks for it."""

_T = TypeVar("_T")


class Service:
    """The account's side of all sandboxes of a run. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._io = IOThread()
        self._has_called = False
        self._clients: Once[None, modal.Client] = Once()
        self._apps: Once[str, modal.App] = Once()
        # used on the loop alone
        self._beginning: set[asyncio.Timeout] = set()
        """Of calls that nobody wants any more once the run is over."""
        self._last_moment: float | None = None
        """When the last of them is given up, by the loop's clock; None while the run goes on."""

    def call(
        self,
        make: Callable[[], Awaitable[_T]],
        what: str,
        seconds: float = CALL_TIMEOUT,
        *,
        ends_with_run: bool = False,
    ) -> _T:
        """What the awaitable comes to that `make` makes; `ends_with_run`: see `stop_waiting`.

        Raises `SandboxStartError` of the kind that it is, saying that `what` was not possible and why.
        """

        async def within() -> _T:
            async with asyncio.timeout(seconds) as deadline:
                if not ends_with_run:
                    return await make()
                self._beginning.add(deadline)
                try:
                    self._hurry(deadline)
                    return await make()
                finally:
                    self._beginning.discard(deadline)

        self._has_called = True
        try:
            loop = self._io.loop()
        except RuntimeError:
            raise SandboxStartError(f"{what}: the run is over") from None
        running = asyncio.run_coroutine_threadsafe(within(), loop)
        try:
            return running.result(seconds + _MARGIN)
        except (TimeoutError, concurrent.futures.TimeoutError):
            running.cancel()
            raise NoAnswerError(f"{what}: Modal has not answered within {seconds:.0f} s") from None
        except concurrent.futures.CancelledError:
            raise SandboxStartError(f"{what}: the run is over") from None
        except Exception as error:  # noqa: BLE001 - whatever the client raises, it is told in our words
            raise start_error(what, error) from None

    def stop_waiting(self) -> None:
        """The run is over: calls that end with it, and those to come, have a few seconds left altogether."""
        if not self._has_called:
            return

        def hurry_all() -> None:
            if self._last_moment is None:
                self._last_moment = asyncio.get_running_loop().time() + FAREWELL
            for deadline in self._beginning:
                self._hurry(deadline)

        self._io.submit(hurry_all)

    def _hurry(self, deadline: asyncio.Timeout) -> None:
        before = deadline.when()
        if self._last_moment is not None and before is not None and not deadline.expired():
            deadline.reschedule(min(before, self._last_moment))

    def client(self) -> modal.Client:
        """The client, connected when it is needed first.

        Raises `ConfigurationError` without the client's package, `BackendUnavailableError` when the service cannot be
        reached or refuses us, `SandboxStartError` when it answers otherwise, which may be different the next time.
        """
        return self._clients.get(None, self._connect, _CONNECT_TIMEOUT)

    def app(self, name: str) -> modal.App:
        """The app of that name, made if there is none. Raises `SandboxStartError`, and what `client` does."""
        client = self.client()

        def look_up() -> modal.App:
            import modal

            return self.call(
                lambda: modal.App.lookup.aio(name, client=client, create_if_missing=True),
                f"no app {name!r} on Modal",
            )

        return self._apps.get(name, look_up, _CONNECT_TIMEOUT)

    def need_answer(self, what: str) -> None:
        """Raise `ServiceUnavailableError`, saying that `what` was not possible, if nobody answers within seconds."""
        try:
            probe(str(_settings()["server_url"]))
        except BackendUnavailableError as error:
            raise ServiceUnavailableError(f"{what}: {error}") from None
        self.call(self.client().hello.aio, what, _GREETING_TIMEOUT)

    def accepts_us(self) -> bool:
        """Whether the account's own token is good; calls are refused for short-lived ones as well.

        Raises `SandboxStartError` when the service does not say.
        """
        client = self.client()
        try:
            self.call(client.hello.aio, "no greeting")
        except CredentialsRefusedError:
            return False
        return True

    @staticmethod
    def account() -> str:
        """Whose account it is, and where, as far as the settings say it; empty where there are no credentials.

        Raises `ConfigurationError` without the client's package, or for settings that it cannot read.
        """
        config = _settings()
        name = config.get("token_id") or config.get("oauth_client_id") or ""
        environment = config.get("environment")
        where = f" in {environment}" if environment else ""  # which has volumes and sandboxes of its own
        return name and f"{config['server_url']} as {name}{where}"

    def close(self) -> None:
        """End the thread. The client is the process's: it serves whoever else uses it, and is closed at its exit."""
        if self._has_called:
            with contextlib.suppress(RuntimeError, TimeoutError):  # it has been closed before
                loop = self._io.loop()
                asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(_MARGIN)
        self._io.close()

    def _connect(self) -> modal.Client:
        server = str(_settings()["server_url"])
        import modal

        trust.extend()
        probe(server)
        try:
            client = self.call(modal.Client.from_env.aio, "no connection")
        except CredentialsRefusedError:
            raise BackendUnavailableError(
                "backend modal has no credentials: set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or make a token with "
                "`modal token new`"
            ) from None
        try:
            self.call(client.hello.aio, "no greeting")
        except CredentialsRefusedError as error:
            where = (
                "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"
                if _from_environment()
                else "the file of `modal config show`"
            )
            raise BackendUnavailableError(
                f"backend modal: the credentials of {where} are not accepted ({_cause(error)}): correct them, or make "
                "new ones with `modal token new`"
            ) from None
        return client


def _settings() -> Any:
    """The client's settings, of the environment and of the user's file; see `Service.account`."""
    _need_recent_client()
    try:
        import_module("modal")
        from modal.config import config
    except ImportError as error:
        why = "" if error.name == "modal" else f", which cannot be imported ({one_line(str(error), 200)})"
        raise ConfigurationError(
            f"backend modal needs Modal's client{why}: pip install 'pytest-sandboxes[modal]'"
        ) from None
    except Exception as error:  # noqa: BLE001 - it reads its file while it is imported
        where = os.environ.get("MODAL_CONFIG_PATH") or "~/.modal.toml"
        raise ConfigurationError(
            f"backend modal: {one_line(where, 200)}, the settings of Modal's client, cannot be read "
            f"({type(error).__name__}: {one_line(str(error), 200)}); correct that file"
        ) from None
    return config


def _need_recent_client() -> None:
    """Raise `ConfigurationError` for a client that does not have what is called here; before it is imported."""
    try:
        found = version("modal")
    except PackageNotFoundError:  # its import will tell
        return
    numbers = re.match(r"([0-9]+)\.([0-9]+)", found)
    if numbers and (int(numbers[1]), int(numbers[2])) < _OLDEST:
        raise ConfigurationError(
            f"backend modal needs version {'.'.join(map(str, _OLDEST))} of Modal's client or a newer one, and here is "
            f"{one_line(found, 50)}: pip install --upgrade 'pytest-sandboxes[modal]'"
        )


def _from_environment() -> bool:
    return bool(os.environ.get("MODAL_TOKEN_ID"))


def _cause(error: CredentialsRefusedError) -> str:
    return one_line(str(error).partition("(")[2].rpartition(")")[0], 200)


async def _cancel_all() -> None:
    """Give up what is still under way on this loop, and see it end."""
    ours = asyncio.all_tasks() - {asyncio.current_task()}
    for task in ours:
        task.cancel()
    await asyncio.wait(ours, timeout=_MARGIN / 2) if ours else None

"""Where pytest-xdist meets the pool: hooks of the controller. It imports next to nothing until a worker needs more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from pytest_sandboxes.errors import ConfigurationError

if TYPE_CHECKING:
    from pytest_sandboxes.run import Run
    from pytest_sandboxes.sharing.desk import Desk
    from pytest_sandboxes.sharing.office import Office
    from pytest_sandboxes.sharing.recovery import Recovery

_BUFFERED_AT_MOST = 1000


class Door:
    """A worker's channel. Keeps what comes until there is somebody to give it to."""

    def __init__(self, node: Any, knocked: Callable[[Door], object]) -> None:
        """`knocked` is called when something comes, nobody takes it, and the worker's announcement is long through."""
        self.node = node
        self.channel = node.gateway.newchannel()
        self.desk: Desk | None = None
        self.is_waited_for = False
        """The main thread comes by when the worker has collected its tests."""
        self.opening = threading.Lock()
        """Held by whoever opens it."""
        self._knocked = knocked
        self._has_knocked = False
        self._lock = threading.Lock()
        self._items: list[object] = []
        self.channel.setcallback(self._received, endmarker=None)

    def _received(self, item: object) -> None:
        with self._lock:
            desk = self.desk
            if desk is None:
                self._items.append(item)
                # who asks for something runs a test: the main thread has come by, or never will, in a session that ends
                is_knock = (
                    item is not None and (not self.is_waited_for or _asks(item)) and not self._has_knocked
                )
                self._has_knocked |= is_knock
        if desk is not None:
            desk.received(item)
        elif len(self._items) > _BUFFERED_AT_MOST:
            raise RuntimeError("more than anybody has to say")  # execnet closes the channel
        elif is_knock:
            self._knocked(self)

    def stop_waiting(self) -> bool:
        """The main thread comes by now, and no second time; tells whether anything has come."""
        with self._lock:
            # if so, it is being taken care of, and nobody has to knock
            self.is_waited_for = any(item is not None for item in self._items)
            return self.is_waited_for

    def open(self, desk: Desk) -> None:
        """From now on `desk` gets what comes, first of all what has come already."""
        while True:
            with self._lock:
                items, self._items = self._items, []
                if not items:
                    self.desk = desk
                    return
            for item in items:
                desk.received(item)


def _asks(item: object) -> bool:
    """Whether a worker waits for an answer."""
    from pytest_sandboxes.sharing import messages

    return any(kind == messages.CALL for kind, _, _ in messages.frames(item))


class Sharing:
    """A plugin of the controller, registered once pytest-xdist starts workers."""

    def __init__(self, config: pytest.Config, get_run: Callable[[pytest.Config], Run]) -> None:
        """`get_run` makes the session's run when it is needed first; raises `ConfigurationError`."""
        self._config = config
        self._get_run = get_run
        self._lock = threading.Lock()
        self._office: Office | None = None
        self._doors: dict[Any, Door] = {}
        self._recovery: Recovery | None = None

    def admit(self, node: Any) -> Any:
        """A worker is about to be started; return the channel to give it."""
        door = self._doors[node] = Door(node, self._knocked)
        door.is_waited_for = True
        return door.channel

    def _open(self, door: Door) -> Desk:
        from pytest_sandboxes.sharing import crashes

        with self._lock:
            if self._office is None:
                from pytest_sandboxes.sharing.office import Office
                from pytest_sandboxes.supply import Supply

                run = self._get_run(self._config)
                assert isinstance(run.supply, Supply)
                self._office = Office(
                    run.supply,
                    everyone_runs_all=self._config.getoption("dist") == "each",
                    runs_after_crash=min(1, run.settings.infra_retries),
                )
        spec = door.node.gateway.spec
        is_here = bool(getattr(spec, "popen", None)) and not getattr(spec, "via", None)
        died = (lambda: crashes.report_down(door.node)) if is_here else None
        with door.opening:
            desk = door.desk
            if desk is None:
                desk = self._office.open_desk(door.node.gateway.id, door.channel, died)
                door.open(desk)
                crashes.survive_crashes(self._config, door.node)
            return desk

    def _knocked(self, door: Door) -> None:
        """A test asks for a sandbox by a name that its signature does not tell; called on the receiver thread."""
        threading.Thread(target=self._open_late, args=(door,), name="sandboxes-door", daemon=True).start()

    def _open_late(self, door: Door) -> None:
        try:
            desk = self._open(door)
            assert self._office is not None
            self._office.prepare(desk.announcement)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test that waits has to learn of it
            door.channel.close(f"the controller has no sandboxes: {error}")

    # -- hooks

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_node_collection_finished(self, node: Any) -> None:
        """A worker has collected its tests, and has announced before what they need."""
        door = self._doors[node]
        if not door.stop_waiting():
            return
        try:
            announcement = self._open(door).announcement
            assert self._office is not None
            self._office.prepare(announcement)
        except ConfigurationError as error:
            raise pytest.UsageError(str(error)) from None
        self._recover()
        terminal: Any = self._config.pluginmanager.getplugin("terminalreporter")
        if terminal is not None:
            for note in self._get_run(self._config).supply.take_notes():
                terminal.ensure_newline()
                terminal.write_line(f"sandboxes: {note}")

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """A worker has ended."""
        door = self._doors.pop(node, None)
        if door is None or door.desk is None or self._office is None:
            return
        if error:
            self._recover().crashed(node, door.desk)
        else:
            door.desk.end(None)

    def _recover(self) -> Recovery:
        if self._recovery is None:
            from pytest_sandboxes.sharing.recovery import Recovery

            assert self._office is not None
            self._recovery = Recovery(self._config, self._office)
            self._config.pluginmanager.register(self._recovery, "sandboxes-recovery")
        return self._recovery

    # -- the end

    def close(self) -> None:
        """End the service to all workers. May be called twice; the pool has to be closed before `join`."""
        if self._office is not None:
            self._office.close()

    def join(self) -> None:
        """Wait for threads that the end of the pool has ended."""
        if self._office is not None:
            self._office.join()

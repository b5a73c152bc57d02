"""Containers that outlive a run to serve the next one: parked, found again, proven, and tied to who has them.

The input of such a container stays open when nobody is attached, or nobody could attach again. So it does not end with
its input, as others do, and is tied to this process by another: an exec of the Engine's that waits for the end of its
own input, whose end the agent sees. Code cannot touch that, which is root and not the code's user.

Only containers whose code is another user than their agent are parked: there nothing of code's runs once a slot has
been reset, and a key that the agent is given after that is no code's to read. It is used once, so it is worth nothing
when code runs again. That somebody who commands the Engine can read it is no loss: who does can enter every container.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import threading
import time
from typing import TYPE_CHECKING

from pytest_sandboxes.agent import parking as agent_parking
from pytest_sandboxes.agent.wire import ProtocolError
from pytest_sandboxes.backends.docker import janitor
from pytest_sandboxes.backends.docker.attached import Demultiplexer, attach, start_exec
from pytest_sandboxes.backends.docker.containers import Container, Interpreter
from pytest_sandboxes.backends.docker.description import recipe_digest, setup_of
from pytest_sandboxes.backends.docker.removal import remove
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import SandboxStartError
from pytest_sandboxes.parking_records import Claims, Parked

if TYPE_CHECKING:
    from pytest_sandboxes.backends.base import AgentSetup, Tell
    from pytest_sandboxes.backends.docker.engine import Engine
    from pytest_sandboxes.backends.docker.images import Image
    from pytest_sandboxes.profiles.profile import Profile

BACKEND = "docker"
_PROOF_TIMEOUT = 5.0  # seconds for an answer that takes an agent no time
_TIE_TIMEOUT = 10.0
_LONGEST_PID = 20  # bytes, with the end of its line
# Says who it is, and ends with its input, which ends with whoever has started it.
_TIE = "import os\nos.write(1, b'%d\\n' % os.getpid())\nwhile os.read(0, 64): pass\n"


class ParkableContainer(Container):
    """A container whose input stays open."""

    def __init__(
        self,
        engine: Engine,
        container: str,
        stream: socket.socket,
        setup: AgentSetup,
        interpreter: Interpreter,
        *,
        parking: Parking,
        profile: Profile,
        recipe: str,
    ) -> None:
        super().__init__(engine, container, stream, setup, interpreter)
        self._parking = parking
        self._profile = profile
        self._recipe = recipe
        self.started = time.time()
        self._tied = threading.Event()
        """Or not, but nothing more comes of it."""
        self._lock = threading.Lock()  # of the next two
        self._tie: socket.socket | None = None
        self._ended = False

    def tie(self, tell: Tell) -> None:
        """See `Launched.tie`."""
        try:
            self._make_tie(tell)
        finally:
            self._tied.set()

    def _make_tie(self, tell: Tell) -> None:
        from pytest_sandboxes.backends.docker.bridge import close_in_forked_children

        with self._engine.errors_as_start_errors(
            f"cannot tie container {self.container[:12]} to this process"
        ):
            api = self._engine.api()
            if self.is_taken_over:  # it is called as what waits, of a run that is over
                api.rename(self.container, janitor.held_name(self.container))
            command = [*self._interpreter.command, _TIE]
            made = api.exec_create(
                self.container, command, stdin=True, stderr=False, user="0:0", workdir="/"
            )["Id"]
            tie, early = start_exec(api, made)
            close_in_forked_children(tie)
        with self._lock:
            is_late = self._ended
            if not is_late:
                self._tie = tie
        if is_late:
            tie.close()
            return
        tell("rely_on", {"pid": _read_pid(tie, early)})

    def park(self, tell: Tell, uses: int) -> None:
        """See `Launched.park`."""
        if not self._tied.wait(_TIE_TIMEOUT):  # which would take it for this run's again
            raise SandboxStartError(f"container {self.container[:12]} is still being tied to this process")
        key = secrets.token_bytes(agent_parking.KEY_SIZE)
        seconds = self._seconds()
        identity = _identity(self.container, self._recipe)
        # later than the agent's end, before which there is nothing to be removed
        with self._engine.errors_as_start_errors(f"cannot park container {self.container[:12]}"):
            name = janitor.parked_name(self.container, self._parking.engine_time() + seconds)
            called = self._engine.api().inspect_container(self.container)["Name"].lstrip("/")
        tell("park", {"seconds": seconds, "key": key, "identity": identity})
        self._parking.claims.records.add(
            Parked(
                backend=BACKEND,
                host=self._engine.host,
                sandbox=self.container,
                recipe=self._recipe,
                profile=self._profile.name,
                directory=self._parking.claims.directory,
                users=tuple(slot.user[0] for slot in self.setup.slots if slot.user is not None),
                interpreter=self._interpreter.command,
                started=self.started,
                uses=uses,
                key=key,
                expires=time.time() + seconds,
            )
        )
        # last: should this process die before, it is called as what a dead run has left, and swept as that
        with contextlib.suppress(SandboxStartError), self._engine.errors_as_start_errors("cannot rename"):
            self._engine.api().rename(called, name)  # unless somebody has it already, who calls it otherwise
        self._untie()

    def _seconds(self) -> float:
        """How long it waits: not beyond the age that it may have."""
        lifetime = self._profile.max_lifetime
        if lifetime is None:
            return self._parking.seconds
        return min(self._parking.seconds, max(1.0, self.started + lifetime - time.time()))

    def end(self) -> None:
        """See `Launched.end`."""
        super().end()
        self._untie()

    def _untie(self) -> None:
        with self._lock:
            self._ended = True
            tie, self._tie = self._tie, None
        if tie is not None:
            tie.close()


class Parking:
    """What a run parks, and what it takes over of earlier ones. Its methods may be called from any thread."""

    def __init__(self, engine: Engine, seconds: float, directory: str) -> None:
        """`directory`: see `Claims`."""
        self.seconds = seconds
        self.claims = Claims(BACKEND, self._host, directory)
        self._engine = engine
        self._lock = threading.Lock()  # of the next one
        self._ahead: float | None = None

    def engine_time(self) -> float:
        """What the Engine's clock says, which judges names. Raises what calls of the SDK raise."""
        with self._lock:
            ahead = self._ahead
        if ahead is None:
            ahead = self._engine.time().timestamp() - time.time()
            with self._lock:
                self._ahead = ahead
        return time.time() + ahead

    def recipe(self, profile: Profile, image: Image) -> str:
        """All that two sandboxes have in common of which one can stand in for the other."""
        recipe = recipe_digest(profile, image)
        self.claims.want(profile.name, recipe)
        return recipe

    def has_one(self, profile: Profile, image: Image) -> bool:
        """Whether an earlier run has parked a container that this one may take over, as far as records say.

        Raises `ConfigurationError` for records that cannot be trusted.
        """
        return self.claims.are_there(self.recipe(profile, image))

    def take_over(self, profile: Profile, image: Image) -> ParkableContainer | None:
        """A container that an earlier run has parked, now this run's; None when there is none that can prove it.

        Raises `ConfigurationError` for records that cannot be trusted.
        """
        for parked in self.claims.of(self.recipe(profile, image)):
            taken = self._take_over(parked, profile, image)
            if taken is not None:
                return taken
        return None

    def remove_outdated(self) -> None:
        """Remove what nobody wants any more: see `Claims.outdated`."""
        for parked in self.claims.outdated():
            remove(self._engine.api(), parked.sandbox)

    def remove_all(self) -> list[str]:
        """Remove all that is on record; a line for each."""
        return [
            f"container {parked.sandbox[:12]} of profile {parked.profile}, parked"
            for parked in self.claims.all()
            if remove(self._engine.api(), parked.sandbox)
        ]

    def _host(self) -> str:
        self._engine.api()  # from when on it is known
        return self._engine.host

    def _take_over(self, parked: Parked, profile: Profile, image: Image) -> ParkableContainer | None:
        stream = None
        try:
            with self._engine.errors_as_start_errors("cannot attach to a parked container"):
                stream = attach(self._engine.api(), parked.sandbox)
            _demand_proof(stream, parked)
        except (SandboxStartError, ProtocolError, OSError):
            # it is gone, or another one, or does not do as it should: nobody's any more, in any case
            if stream is not None:
                stream.close()
            remove(self._engine.api(), parked.sandbox)
            return None
        taken = ParkableContainer(
            self._engine,
            parked.sandbox,
            stream,
            setup_of(profile, image, parked.users),
            Interpreter(parked.interpreter),
            parking=self,
            profile=profile,
            recipe=parked.recipe,
        )
        taken.is_set_up = True
        taken.go_on_from(parked.started, parked.uses)
        return taken


def _identity(container: str, recipe: str) -> bytes:
    return f"{BACKEND} {container} {recipe}".encode()


def _demand_proof(stream: socket.socket, parked: Parked) -> None:
    """Raise `ProtocolError` or OSError unless a parked agent at the other end answers as only this one can.

    Whatever else may be there, it gets little time, and what it sends is compared and not kept.
    """
    nonce = secrets.token_bytes(agent_parking.NONCE_SIZE)
    expected = agent_parking.proof(parked.key, nonce, _identity(parked.sandbox, parked.recipe))
    deadline = time.monotonic() + _PROOF_TIMEOUT
    stream.settimeout(_PROOF_TIMEOUT)
    stream.sendall(agent_parking.watchword(parked.key) + nonce)
    outputs = Demultiplexer()
    answer = b""
    while len(answer) < len(expected):
        stream.settimeout(max(0.001, deadline - time.monotonic()))
        data = stream.recv(4096)
        if not data or time.monotonic() > deadline:
            raise ProtocolError("a parked agent does not answer")
        answer += b"".join(outputs.feed(memoryview(data)))
    if not hmac.compare_digest(answer, expected) or not outputs.is_between:
        raise ProtocolError("what answers is no parked agent of ours")


def _read_pid(tie: socket.socket, early: bytes) -> int:
    """What the program at the other end of an exec's stream says that it is. Raises `SandboxStartError`."""
    outputs = Demultiplexer()
    deadline = time.monotonic() + _TIE_TIMEOUT
    try:
        said = b"".join(outputs.feed(memoryview(early)))
        while b"\n" not in said and len(said) < _LONGEST_PID:
            tie.settimeout(max(0.001, deadline - time.monotonic()))
            data = tie.recv(4096)
            if not data:
                break
            said += b"".join(outputs.feed(memoryview(data)))
    except (OSError, ProtocolError) as error:
        raise SandboxStartError(f"nothing ties a container to this process: {error}") from None
    line, end, more = said.partition(b"\n")
    if not end or more or not line.isdigit() or len(line) > _LONGEST_PID:
        raise SandboxStartError(
            f"nothing ties a container to this process: {one_line(said.decode(errors='replace'))}"
        )
    return int(line)
